"""Code that is not ours: found by metadata alone, refused by name, run at the user's word."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from splitleak import plugins
from splitleak.plugins import Plugin, allow, check_recorded, installed, recorded
from splitleak.tables import Imported, Table
from splitleak.user_code import load_attribute

GROUP = "splitleak.defenses"
CODE = """
class Base: ...
class Good(Base):
    name = "good"
class Misnamed(Base):
    name = "other"
print("RUN")
"""


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch):
    monkeypatch.setenv(plugins.ALLOW_PLUGIN, "")
    monkeypatch.setenv(plugins.ALLOW_CODE, "")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install(name, points, version)``: a distribution with entry points of defenses, found as any installed one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plugged_code.py").write_text(CODE)
    monkeypatch.delitem(__import__("sys").modules, "plugged_code", raising=False)

    def installing(name, points, version="1.2"):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{key} = {address}" for key, address in points.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
        installed.cache_clear()

    yield installing
    installed.cache_clear()


def table(**ours):
    return Table("defense", ours, group=GROUP, base=Imported("plugged_code:Base"))


def test_an_entry_follows_ours_and_nothing_of_it_is_imported_to_list_it(install, capsys):
    install("theirs", {"good": "plugged_code:Good", "absent": "no_such_code:Absent"})
    defenses = table(own=1)
    assert list(defenses) == ["own", "absent", "good"]
    assert "good" in defenses
    assert defenses.known("good") == "good"
    assert defenses.plugin("good") == Plugin(GROUP, "good", "plugged_code:Good", "theirs", "1.2")
    assert defenses.plugin("own") is None
    assert "RUN" not in capsys.readouterr().out


def test_it_is_refused_by_name_until_it_is_allowed(install, capsys):
    install("their.package", {"good": "plugged_code:Good"})
    defenses = table()
    with pytest.raises(
        PermissionError, match=r"'good' of their.package 1.2 \(plugged_code:Good\).*--allow-plugin their"
    ):
        defenses.choose("good")
    assert "RUN" not in capsys.readouterr().out
    assert defenses.allowed() == []
    allow("Their_Package")
    assert defenses.choose("good").name == "good"
    assert [plugin.name for plugin in defenses.allowed()] == ["good"]


def test_what_the_user_names_is_allowed(install):
    install("theirs", {"good": "plugged_code:Good"})
    defenses = table()
    defenses.permit("good")
    assert defenses["good"].name == "good"
    defenses.permit("plugged_code:Good")
    assert defenses["plugged_code:Good"] is defenses["good"]
    assert list(defenses) == ["good"]


def test_code_by_its_address_is_refused_until_it_is_allowed(install, monkeypatch):
    install("theirs", {})
    defenses = table()
    with pytest.raises(PermissionError, match=r"'plugged_code:Good' of no package.*--allow-code"):
        defenses.choose("plugged_code:Good")
    assert defenses.known("plugged_code:Good")
    monkeypatch.setenv(plugins.ALLOW_CODE, "1")
    assert defenses.choose("plugged_code:Good").name == "good"
    assert defenses.takes("plugged_code:Good")
    with pytest.raises(ValueError, match="expected a verse of"):
        Table("verse", {"zen": 1}).choose("plugged_code:Good")  # a table of ours alone takes no code


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("no_such_code:Absent", "defense 'bad' of theirs 1.2 .* No module named 'no_such_code'"),
        ("plugged_code:Absent", "defense 'bad' of theirs 1.2 .*no attribute 'Absent'"),
        ("plugged_code:__name__.upper", "subclass or instance of Base as defense 'bad' of theirs 1.2"),
        ("plugged_code:Misnamed", "defense 'bad' of theirs 1.2 .* called so, got 'other'"),
    ],
)
def test_one_that_fails_is_one_line_and_breaks_nothing_else(address, said, install):
    install("theirs", {"bad": address, "good": "plugged_code:Good"})
    allow("theirs")
    defenses = table()
    with pytest.raises(ValueError, match=said) as raised:
        defenses.choose("bad")
    assert "\n" not in str(raised.value)
    assert defenses.choose("good")


def test_a_name_of_ours_stays_ours_and_one_of_two_packages_names_both(install, caplog):
    install("theirs", {"good": "plugged_code:Good", "own": "plugged_code:Good"})
    install("others", {"good": "plugged_code:Good", "fine": "plugged_code:Good"}, "3")
    defenses = table(own=1)
    with caplog.at_level(logging.WARNING):
        assert list(defenses) == ["own", "fine", "good"]
    assert "defense 'own' of theirs 1.2 (plugged_code:Good) takes a name of splitleak" in caplog.text
    assert defenses["own"] == 1
    with pytest.raises(ValueError, match=r"one defense called 'good', got those of others 3 and theirs 1.2"):
        defenses.choose("good")
    with pytest.raises(PermissionError, match="fine"):
        defenses.choose("fine")


def test_what_a_file_names_is_checked_without_an_import(install, caplog, capsys):
    install("theirs", {"good": "plugged_code:Good"})
    made = Plugin(GROUP, "good", "plugged_code:Good", "theirs", "1.1")
    with pytest.raises(PermissionError, match=r"made with defense 'good' of theirs 1.1 .*--allow-plugin theirs"):
        check_recorded([made])
    allow("theirs")
    check_recorded([made])
    assert "made with defense 'good' of theirs 1.1 (plugged_code:Good); here is 1.2" in caplog.text
    with pytest.raises(LookupError, match="not installed; pip install gone==2"):
        check_recorded([Plugin(GROUP, "good2", "gone:Good", "gone", "2")])
    with pytest.raises(LookupError, match=r"here that name is of theirs 1.2; pip install gone==2"):
        check_recorded([Plugin(GROUP, "good", "gone:Good", "gone", "2")])
    assert "RUN" not in capsys.readouterr().out


@pytest.mark.parametrize("variable", ["", ",", "theirs,"])
def test_an_entry_of_a_package_without_a_name_is_not_allowed(monkeypatch, variable):
    monkeypatch.setenv(plugins.ALLOW_PLUGIN, variable)
    assert not Plugin(GROUP, "good", "plugged_code:Good", "", "1").allowed
    monkeypatch.delenv(plugins.ALLOW_PLUGIN)
    assert not Plugin(GROUP, "good", "plugged_code:Good", "", "1").allowed


def test_a_file_cannot_say_that_code_belongs_to_an_allowed_package(install):
    install("theirs", {"good": "plugged_code:Good"})
    allow("theirs")
    with pytest.raises(PermissionError, match="os:system"):
        check_recorded([Plugin(GROUP, "os:system", "os:system", "theirs", "1.2")])


@pytest.mark.parametrize(
    "documents",
    [
        5,
        ["text"],
        [[1]],
        [{"group": GROUP}],
        [{"group": "console_scripts", "name": "a", "address": "b:c"}],
        [{"group": GROUP, "name": 3, "address": "b:c"}],
        [{"group": GROUP, "name": "a", "address": "b"}],
    ],
)
def test_what_describes_no_plug_in_is_an_error(documents):
    with pytest.raises(ValueError, match="expected"):
        recorded(documents)


def test_a_users_own_file_is_found_in_the_current_folder_and_a_packages_is_not(tmp_path, monkeypatch):
    (tmp_path / "code_of_this_folder.py").write_text("value = 3\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="code_of_this_folder"):
        load_attribute("code_of_this_folder:value", "it", here=False)
    assert load_attribute("code_of_this_folder:value", "it") == 3
    assert str(Path.cwd()) not in __import__("sys").path


def test_code_is_known_by_its_version_and_its_text_and_that_of_its_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.ALLOW_CODE, "1")
    whole = tmp_path / "digested_package"
    whole.mkdir()
    for path in (tmp_path / "digested_file.py", whole / "__init__.py", whole / "used.py", whole / "part.py"):
        path.write_text("value = 1\n")
    for address, files in (
        ("digested_file:value", ["digested_file.py"]),
        ("digested_package.part:value", ["digested_package/part.py", "digested_package/used.py"]),
    ):
        plugin = Plugin(GROUP, address, address)
        known = [plugin.code_digest()]
        assert plugin.code_digest() == known[0]
        for file in files:
            (tmp_path / file).write_text(f"value = {len(known) + 1}\n")
            known.append(plugin.code_digest())
        known.append(replace(plugin, package="mine", version="2").code_digest())
        assert len(set(known)) == len(files) + 2
    monkeypatch.setenv(plugins.ALLOW_CODE, "")
    with pytest.raises(PermissionError, match="which was not run"):
        plugin.code_digest()
