import sys

import pytest

from splitleak.tables import Imported, Table, nearest


def test_an_entry_is_imported_when_it_is_first_asked_for_and_its_name_before():
    sys.modules.pop("this", None)
    table = Table("verse", {"zen": Imported("this:s"), "none": ""})
    assert list(table) == ["zen", "none"]
    assert table.known("zen") == "zen"
    assert "zen" in table
    assert "this" not in sys.modules
    assert table["zen"].startswith("Gur Mra")
    assert dict(table) == {"zen": sys.modules["this"].s, "none": ""}


def test_an_entry_can_be_added_and_taken_away():
    table = Table("number", {"one": 1})
    table["two"] = 2
    assert table.choose("two") == 2
    del table["one"]
    assert len(table) == 1
    with pytest.raises(KeyError):
        table["one"]


@pytest.mark.parametrize("name", ["onee", ["one"], None])
def test_an_unknown_name_is_told_the_names(name):
    with pytest.raises(ValueError, match="expected an uneven number of one, three, got"):
        Table("uneven number", {"one": 1, "three": 3}).choose(name)


def test_a_table_without_entries_says_that_there_are_none():
    with pytest.raises(ValueError, match="expected a measure of a plug-in, and none is installed, got 'lpips'"):
        Table("measure", {}).choose("lpips")


def test_the_nearest_name_is_asked_for_where_one_resembles():
    assert nearest("gausian-noise", ["dropout", "gaussian-noise"]) == "; did you mean 'gaussian-noise'?"
    assert nearest("quantum", ["dropout", "gaussian-noise"]) == ""
