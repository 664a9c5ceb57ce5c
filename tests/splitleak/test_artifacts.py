import json
import math
import subprocess
import sys
from importlib import metadata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from splitleak import artifacts
from splitleak.artifacts import (
    assign_weights,
    check_result,
    hardware,
    load_tensors,
    load_weights,
    provenance,
    save_tensors,
    save_weights,
    write_json,
    written_file,
    written_folder,
)
from splitleak.outputs import FolderKind

KIND = FolderKind("make", "first.json", ("second", "third"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path):
    with written_file(path) as partial:
        partial.write_text("new")
        raise KeyboardInterrupt


def write_two_files(folder, content, *, fail=False):
    with written_folder(folder, KIND) as partial:
        (partial / "first.json").write_text("{}")
        if fail:
            raise KeyboardInterrupt
        (partial / "second").write_text(content)


def test_a_written_folder_replaces_the_old_one_completely(tmp_path):
    folder = tmp_path / "deep" / "folder"
    write_two_files(folder, "old")
    (folder / "third").touch()
    write_two_files(folder, "new")
    assert names(folder) == ["first.json", "second"]
    assert (folder / "second").read_text() == "new"
    assert names(folder.parent) == ["folder"]


def test_an_interrupted_folder_leaves_the_old_one_or_none(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_two_files(tmp_path / "folder", "new", fail=True)
    assert names(tmp_path) == []
    write_two_files(tmp_path / "folder", "old")
    with pytest.raises(KeyboardInterrupt):
        write_two_files(tmp_path / "folder", "new", fail=True)
    assert (tmp_path / "folder" / "second").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    write_two_files(tmp_path / "folder", "old")
    for leftover in (".folder.partial", ".folder.old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "second").touch()
    write_two_files(tmp_path / "folder", "new")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["first.json", "second"]


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_json_with_no_number_in_it_is_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"value": math.nan})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": 1.5}


def test_tensors_survive_a_round_trip_in_any_layout(tmp_path):
    tensors = {
        "channels_last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "transposed": torch.rand(3, 4).T,
        "integer": torch.arange(5),
        "scalar": torch.tensor(1.5),
        "learning": torch.rand(3, requires_grad=True),
        "empty": torch.empty(0, 3),
    }
    save_tensors(tmp_path / "t", tensors, {"note": "é"})
    loaded, metadata = load_tensors(tmp_path / "t")
    assert metadata == {"note": "é"}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor.detach()) for name, tensor in tensors.items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path, value):
    weights = {"whole": torch.zeros(2), "steps": torch.tensor(3), "broken": torch.tensor([0.0, value, value])}
    expected = r"expected finite weights, but 2 in 1 of 3 tensors are NaN or infinite, first in 'broken'"
    with pytest.raises(ValueError, match=expected):
        save_weights(tmp_path / "w", weights)
    assert names(tmp_path) == []
    save_tensors(tmp_path / "w", weights)
    with pytest.raises(ValueError, match=rf"w: {expected}"):
        load_weights(tmp_path / "w")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("assign", [False, True])
def test_weights_of_another_precision_are_brought_to_the_modules_own(kind, assign, tmp_path):
    module = nn.BatchNorm1d(3)
    given = {name: value.to(kind) if value.is_floating_point() else value.int() for name, value in OTHER.items()}
    save_tensors(tmp_path / "weights.safetensors", given)
    assign_weights(module, load_weights(tmp_path / "weights.safetensors"), "expected a norm", assign=assign)
    assert {name: value.dtype for name, value in module.state_dict().items()} == {
        name: value.dtype for name, value in OTHER.items()
    }
    assert torch.equal(module.weight, OTHER["weight"])


OTHER = {**nn.BatchNorm1d(3).state_dict(), "weight": torch.tensor([0.5, 2, 4])}


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"weight": torch.ones(3, dtype=torch.int64)}, r"'weight' should be of torch\.float32 and is of torch\.int64"),
        ({"weight": torch.ones(3, dtype=torch.bool)}, r"'weight' should be of torch\.float32 and is of torch\.bool"),
        (
            {"weight": torch.ones(3, dtype=torch.complex64)},
            r"'weight' should be of torch\.float32 and is of .*64",
        ),
        (
            {"weight": torch.full((3,), 1e300, dtype=torch.float64)},
            r"'weight' has values that no .*32 can be",
        ),
        (
            {"num_batches_tracked": torch.tensor(1.5)},
            r"'num_batches_tracked' should be of torch\.int64 and is",
        ),
        ({"weight": torch.ones(4)}, r"size mismatch for weight"),
        ({"more": torch.ones(4)}, r"Unexpected key"),
    ],
)
def test_weights_that_are_no_such_numbers_are_refused_by_name(spoil, said, assign):
    with pytest.raises(ValueError, match=rf"\Aexpected a norm, but [^\n]*{said}[^\n]*\Z"):
        assign_weights(nn.BatchNorm1d(3), OTHER | spoil, "expected a norm", assign=assign)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits_are_refused_by_the_names_of_file_and_tensor(kind, tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"w": torch.ones(2).to(kind)})
    with pytest.raises(ValueError, match=r"a\.safetensors: expected floats of 16 bits or more, but .w. is of .*8"):
        load_weights(tmp_path / "a.safetensors")


def test_missing_tensors_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected weights at .*nowhere"):
        load_tensors(tmp_path / "nowhere")


@given(content=st.binary(max_size=64))
def test_any_bytes_give_tensors_or_a_value_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    try:
        load_tensors(path)
    except ValueError as error:
        assert "expected a safetensors file" in str(error)  # noqa: PT017  # most bytes fail, a few may not


def test_a_package_that_python_started_is_named_as_it_was_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/splitleak/cli/__main__.py", "train"])
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "splitleak")
    assert provenance()["command"] == "python -m splitleak train"


def test_provenance_has_command_commit_and_hardware():
    found = provenance()
    assert set(found) == {"command", "commit", "hardware", "python", "torch", "version", "time"}
    assert found["version"] == metadata.version("splitleak")
    assert found["torch"] == torch.__version__
    assert found["time"].endswith("+00:00")
    assert f"torch threads: {torch.get_num_threads()}" in hardware()


def test_the_threads_in_a_provenance_are_those_of_the_moment(monkeypatch):
    hardware()
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    assert "torch threads: 7" in provenance()["hardware"]


def git(folder, *arguments):
    who = ("-c", "user.name=n", "-c", "user.email=n@localhost")
    made = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return made.stdout.strip()


@pytest.fixture
def commit_of(monkeypatch):
    """The commit that a copy of the package would name whose module of artifacts is this file."""

    def told(module):
        monkeypatch.setattr(artifacts, "__file__", str(module))
        return artifacts._commit.__wrapped__()

    return told


def committed(folder, project):
    """The module of a repository that holds the package at its top."""
    module = folder / "splitleak" / "artifacts.py"
    module.parent.mkdir(parents=True)
    module.write_text("one")
    (folder / "pyproject.toml").write_text(project)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return module


def test_the_commit_is_that_of_the_packages_own_checkout_marked_if_files_differ(tmp_path, commit_of):
    module = committed(tmp_path, '[project]\nname = "splitleak"\n')
    assert commit_of(module) == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    module.write_text("two")
    assert commit_of(module).endswith("+changes")


def test_below_somebody_elses_repository_the_commit_is_unknown(tmp_path, commit_of):
    module = tmp_path / "venv" / "site-packages" / "splitleak" / "artifacts.py"
    module.parent.mkdir(parents=True)
    module.write_text("ours")
    assert commit_of(module) == "unknown"
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "theirs", "--allow-empty")
    assert commit_of(module) == "unknown"


@pytest.mark.parametrize("project", ['[project]\nname = "thesis"\n', "", "broken = "])
def test_a_package_among_the_files_of_somebody_elses_repository_has_no_commit(tmp_path, commit_of, project):
    assert commit_of(committed(tmp_path, project)) == "unknown"


def test_a_package_beside_the_files_of_a_repository_has_no_commit(tmp_path, commit_of):
    module = committed(tmp_path, '[project]\nname = "splitleak"\n')
    git(tmp_path, "rm", "-q", "--cached", "splitleak/artifacts.py")
    assert commit_of(module) == "unknown"


def test_in_a_hook_of_somebody_elses_repository_the_commit_is_the_packages(tmp_path, commit_of, monkeypatch):
    module = committed(tmp_path / "ours", '[project]\nname = "splitleak"\n')
    committed(tmp_path / "theirs", "")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "ours"))
    told = commit_of(module)
    monkeypatch.undo()
    assert told == git(tmp_path / "ours", "rev-parse", "--short=12", "HEAD")


# Who made a result: the command, and the files of settings that it names.


def asked(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["splitleak", "robustness", "a", *map(str, words)])


@pytest.mark.parametrize("spelt", ["--config {}", "--config={}"])
@pytest.mark.parametrize("name", ["settings.toml", "settings.json"])
def test_a_changed_file_of_settings_replaces_no_result_without_force(tmp_path, monkeypatch, spelt, name):
    settings, out = tmp_path / name, tmp_path / "out.json"
    settings.write_text("seed = 1")
    asked(monkeypatch, *spelt.format(settings).split(" "), "--out", out)
    write_json(out, {"provenance": provenance()})
    assert list(provenance()["files"]) == [str(settings)]
    check_result(out, force=False)  # the output itself is no setting
    settings.write_text("seed = 2")
    with pytest.raises(FileExistsError, match=rf"files\..*{name} '[0-9a-f]{{12}}' and not '[0-9a-f]{{12}}'; --force"):
        check_result(out, force=False)
    check_result(out, force=True)
    settings.write_text("seed = 1")
    check_result(out, force=False)


def test_a_result_that_does_not_say_which_settings_it_had_is_not_replaced_by_one_of_a_file(tmp_path, monkeypatch):
    settings, out = tmp_path / "settings.toml", tmp_path / "out.json"
    settings.write_text("seed = 1")
    asked(monkeypatch, "--config", settings, "--out", out)
    write_json(out, {"provenance": {key: value for key, value in provenance().items() if key != "files"}})
    with pytest.raises(FileExistsError, match="files"):
        check_result(out, force=False)


def test_a_command_without_files_of_settings_names_none(tmp_path, monkeypatch):
    asked(monkeypatch, "--out", tmp_path / "out.json", "--config", tmp_path / "missing.toml")
    assert "files" not in provenance()
