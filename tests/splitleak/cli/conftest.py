import json
import shutil
import sys

import pytest
from typer.testing import CliRunner

from splitleak.cli import app, main

QUICK = ("--set", "model.architecture=cnn", "--set", "model.width=0.5", "--set", "training.epochs=1")


@pytest.fixture(scope="session")
def images(tmp_path_factory, small_splits):
    folder = tmp_path_factory.mktemp("images")
    small_splits.save(folder)
    return folder


def called(capsys, monkeypatch, *arguments):
    """Exit status, standard output and standard error of a command run in this process."""
    monkeypatch.setattr(sys, "argv", ["splitleak", *map(str, arguments)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    found = capsys.readouterr()
    return stopped.value.code or 0, found.out, found.err


@pytest.fixture
def call(capsys, monkeypatch):
    return lambda *arguments: called(capsys, monkeypatch, *arguments)


@pytest.fixture(scope="session")
def trained(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "toy"
    made = CliRunner().invoke(app, ["train", "--images", str(images), "--out", str(folder), *QUICK])
    assert made.exit_code == 0, made.output
    return folder


@pytest.fixture
def toy(trained, tmp_path):
    """The artifact that ``train()`` leaves, in a folder of the test's own."""
    return shutil.copytree(trained, tmp_path / "toy")


@pytest.fixture
def train(call, images, tmp_path):
    def run(*arguments):
        code, out, err = call("train", "--images", images, "--out", tmp_path / "toy", "--json", *QUICK, *arguments)
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refusal(call, tmp_path, monkeypatch):
    """The one line on standard error that a command ends with when its input is bad."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        code, out, err = call(*arguments)
        assert (code, out) == (1, "")
        assert err.startswith("splitleak: ")
        assert err.count("\n") == 1
        return err

    return run


class Whole:
    """A classifier whose logits are an image's first values."""

    name, input_shape, classes, properties = "whole", (1, 16, 16), 10, {}

    def predict(self, pictures):
        return pictures.reshape(len(pictures), -1)[:, :10]


@pytest.fixture
def whole():
    return Whole()
