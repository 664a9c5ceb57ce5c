import re

import pytest

from splitleak.eval.campaign.extending import read_campaign

BASE = """
name = "base"
seeds = [0, 1]
[training]
epochs = 3
augment = { flip = false }
[[methods]]
name = "Plain"
[[methods]]
name = "Noise"
defenses = [{ name = "gaussian-noise", sigma = 0.1 }]
training = { epochs = 9, batch_size = 8 }
[[claims]]
text = "one"
[[claims]]
text = "two"
"""


@pytest.fixture
def written(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    write("base.toml", BASE)
    return write


def test_tables_merge_and_other_values_replace(written):
    file = written("on.toml", 'extends = "base.toml"\nname = "on"\nseeds = [7]\ntraining.augment.shift = 2')
    document = read_campaign(file)
    assert document["training"] == {"epochs": 3, "augment": {"flip": False, "shift": 2}}
    assert (document["name"], document["seeds"]) == ("on", [7])
    assert [each["name"] for each in document["methods"]] == ["Plain", "Noise"]
    assert "extends" not in document


def test_a_list_replaces_and_its_entries_take_what_they_lack_from_those_of_their_names(written):
    methods = '[[methods]]\nname = "New"\n[[methods]]\nname = "Noise"\ntraining = { epochs = 1 }'
    document = read_campaign(written("on.toml", f'extends = "base.toml"\n{methods}\n[[claims]]\ntext = "three"'))
    new, noise = document["methods"]
    assert new == {"name": "New"}
    assert noise == {
        "name": "Noise",
        "defenses": [{"name": "gaussian-noise", "sigma": 0.1}],
        "training": {"epochs": 1, "batch_size": 8},
    }
    assert document["claims"] == [{"text": "three"}]


def test_keys_are_left_out_by_name(written):
    document = read_campaign(written("on.toml", 'extends = { file = "base.toml", without = ["claims", "methods"] }'))
    assert set(document) == {"name", "seeds", "training"}


def test_a_key_to_leave_out_that_is_not_there_is_refused(written):
    file = written("on.toml", 'extends = { file = "base.toml", without = ["claim"] }')
    with pytest.raises(ValueError, match=r"on\.toml: expected to leave out a key of .*base\.toml, got 'claim'; "):
        read_campaign(file)


def test_an_entry_that_could_be_either_of_two_is_refused(written):
    written("base.toml", '[[methods]]\nname = "Noise"\nsigma = 0.1\n[[methods]]\nname = "Noise"\nsigma = 0.2')
    file = written("on.toml", 'extends = "base.toml"\n[[methods]]\nname = "Noise"')
    with pytest.raises(ValueError, match=r"on\.toml: expected one entry 'Noise' to build on, got 2 of that name, in "):
        read_campaign(file)


def test_the_other_file_is_found_from_the_folder_of_the_file_and_may_extend_a_third(written):
    written("below/middle.toml", 'extends = "../base.toml"\nname = "middle"\ntraining.epochs = 4')
    document = read_campaign(written("on.toml", 'extends = "below/middle.toml"\nseeds = [5]'))
    assert (document["name"], document["seeds"], document["training"]["epochs"]) == ("middle", [5], 4)


def test_a_file_that_is_not_there_is_named_with_the_one_that_extends_it(written):
    with pytest.raises(FileNotFoundError, match=r"on\.toml: expected a file that it extends, but .*none\.toml is not"):
        read_campaign(written("on.toml", 'extends = "none.toml"'))


@pytest.mark.parametrize("files", [("a",), ("a", "b"), ("a", "b", "c")])
def test_files_that_extend_each_other_are_refused_with_the_circle(written, files):
    for name, other in zip(files, (*files[1:], files[0]), strict=True):
        path = written(f"{name}.toml", f'extends = "{other}.toml"')
    circle = " -> .*".join(re.escape(f"{name}.toml") for name in (files[-1], *files))
    with pytest.raises(ValueError, match=f"expected files that do not extend each other, got .*{circle}"):
        read_campaign(path)


def test_extends_of_anything_else_is_refused(written):
    with pytest.raises(ValueError, match=r"on\.toml: extends: expected a ExtendsEntry, but file: "):
        read_campaign(written("on.toml", "extends = { file = 3 }"))
