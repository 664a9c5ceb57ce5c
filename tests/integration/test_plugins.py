"""A package that is not ours brings one of each; processes list, train, serve, attack, score and report with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from splitleak import plugins

ROOT = Path(__file__).parents[2]
THEIRS = ROOT / "tests" / "fixtures" / "plugin_package"
ALLOW = ("--allow-plugin", "their-package")
BLURRED = ("--defense", "blur", "--set", "blur.share=0.7", "--set", "model.architecture=patches")
CNN = ("--set", "model.architecture=cnn")
CAMPAIGN = """
name = "theirs"
seeds = [0]
training = { epochs = 1 }
split = { public = 60, victims = 8, train = 200, test = 50 }
datasets = [{ name = "stripes", data = "stripes", size = 16, channels = 1 }]
models = [{ name = "patches", architecture = "patches" }]
methods = [{ name = "blurred", defenses = [{ name = "blur", share = 0.7 }] }]
attacks = [{ name = "two-nearest", attack = "two-nearest" }]
"""
OWN = """
from splitleak.config import Config
from splitleak.defenses.base import Defense

print("RUN")

class HalfConfig(Config):
    factor: float = 0.5

class Half(Defense):
    name = "half"
    config_type = HalfConfig

    def __init__(self, config):
        super().__init__(config)
        self.config = config

    def forward(self, features):
        return self.config.factor * features
"""


class Shell:
    """A folder in which ``splitleak`` is called, with or without their package installed."""

    def __init__(self, folder, run_command):
        self.folder, self._run = folder, run_command

    def __call__(self, *arguments, theirs=True):
        """Exit status, standard output and standard error."""
        path = os.pathsep.join([str(ROOT), *([str(THEIRS)] if theirs else [])])
        environment = {key: value for key, value in os.environ.items() if key not in (plugins.ALLOW_PLUGIN,)}
        environment |= {"PYTHONPATH": path, "COLUMNS": "400"}
        ran = self._run(*arguments, folder=self.folder, environment=environment)
        return ran.returncode, ran.stdout, ran.stderr

    def done(self, *arguments, **how):
        code, out, err = self(*arguments, **how)
        assert code == 0, err
        return out


@pytest.fixture(scope="module")
def shell(tmp_path_factory, run_command):
    shell = Shell(tmp_path_factory.mktemp("theirs"), run_command)
    shell.done("split", "--data", "stripes", "--size", 16, "--public", 60, "--victims", 8, "--out", "images")
    quick = ("--images", "images", "--set", "training.epochs=1")
    shell.done("train", *quick, *BLURRED, "--out", "blurred")
    (shell.folder / "own_code.py").write_text(OWN)
    shell.done(
        "train", *quick, *CNN, "--defense", "own_code:Half", "--set", "own_code:Half.factor=0.25", "--out", "halved"
    )
    return shell


def made(shell, name):
    return [json.loads((shell.folder / name / file).read_text()) for file in ("artifact.json", "edge/half.json")]


@pytest.mark.slow
def test_it_is_listed_and_described_with_where_it_comes_from(shell):
    assert "transfer, blur, broken" in shell.done("list")
    (blur,) = json.loads(shell.done("list", "defenses", "blur", "--json"))["defenses"]
    assert blur["plugin"] == {
        "group": "splitleak.defenses",
        "name": "blur",
        "address": "their_package.defense:Blur",
        "package": "their-package",
        "version": "1.2",
    }
    assert [setting["name"] for setting in blur["settings"]] == ["share", "weight"]
    *_, broken = shell.done("list", "defenses").splitlines()
    assert "their-package" in broken
    assert "no_such_module" in broken
    for kind, name in (("models", "patches"), ("attacks", "two-nearest"), ("class-attacks", "surest-public")):
        assert "from: their-package 1.2" in shell.done("list", kind, name)
    assert "Mean absolute error" in shell.done("list", "measures", "mae")


@pytest.mark.slow
def test_the_artifact_records_package_version_and_import_path(shell):
    for document in made(shell, "blurred"):
        named = {each["name"]: (each["package"], each["version"], each["address"]) for each in document["plugins"]}
        assert named["blur"] == ("their-package", "1.2", "their_package.defense:Blur")
        assert named["patches"] == ("their-package", "1.2", "their_package.architecture:PATCHES")
        assert document["target"]["defenses"] == [{"name": "blur", "config": {"share": 0.7, "weight": 0.01}}]


COMMANDS = [
    ("cloud", "{}", "--listen", "127.0.0.1:0"),
    ("edge", "{}", "--cloud", "127.0.0.1:9", "--images", "images/victims.npz"),
    ("inspect", "{}"),
    ("export", "{}", "--triton", "triton"),
    ("leakage", "{}", "--images", "images"),
    ("invert", "--artifact", "{}", "--public", "images/public.npz"),
    ("score", "--artifact", "{}", "--attack", "a", "--truth", "images/victims.npz", "--ledger", "l.json"),
    ("latency", "{}"),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_its_artifact_is_refused_by_name(command, shell):
    code, _, err = shell(*(part.format("blurred") for part in command))
    assert code == 1
    assert "made with " in err
    assert "of their-package 1.2 (their_package." in err
    assert "--allow-plugin their-package lets it run" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_it_loads_where_it_is_allowed_and_says_where_another_version_is_there(shell, tmp_path):
    assert "after blur" in shell.done("inspect", "blurred", *ALLOW)
    shutil.copytree(shell.folder / "blurred", tmp_path / "older")
    for half in ("edge", "cloud"):
        path = tmp_path / "older" / half / "half.json"
        path.write_text(path.read_text().replace('"version": "1.2"', '"version": "1.1"'))
    code, _, err = shell("inspect", tmp_path / "older", *ALLOW)
    assert code == 0
    assert "of their-package 1.1 (their_package.defense:Blur); here is 1.2" in err


@pytest.mark.slow
def test_a_stranger_who_leaves_the_record_out_gains_nothing(shell, tmp_path):
    shutil.copytree(shell.folder / "blurred", tmp_path / "sly")
    for path in tmp_path.glob("sly/*/half.json"):
        document = json.loads(path.read_text())
        del document["plugins"]
        path.write_text(json.dumps(document))
    code, _, err = shell("inspect", tmp_path / "sly")
    assert code == 1
    assert "of their-package 1.2" in err
    assert "which was not run" in err


@pytest.mark.slow
def test_code_of_ones_own_is_run_where_the_command_line_names_it_and_nowhere_else(shell):
    for document in made(shell, "halved"):
        (own,) = document["plugins"]
        assert (own["name"], own["package"]) == ("own_code:Half", None)
        assert document["target"]["defenses"] == [{"name": "own_code:Half", "config": {"factor": 0.25}}]
    (shell.folder / "theirs.toml").write_text(
        'defenses = [{ name = "own_code:Half" }]\nmodel = { architecture = "cnn" }\n'
    )
    from_file = ("train", "--images", "images", "--config", "theirs.toml", "--set", "training.epochs=1", "--out", "t")
    for refused in (("inspect", "halved"), from_file):
        code, out, err = shell(*refused)
        assert code == 1
        assert "'own_code:Half' of no package, which was not run; --allow-code" in err
        assert "RUN" not in out
    assert "after half" in shell.done("inspect", "halved", "--allow-code")
    assert "RUN" in shell.done(*from_file, "--allow-code")


@pytest.mark.slow
def test_a_campaign_trains_serves_attacks_scores_and_reports_with_all_of_it(shell):
    (shell.folder / "campaign.toml").write_text(CAMPAIGN)
    code, _, err = shell("campaign", "run", "campaign.toml", "--out", "campaign")
    assert code == 1
    assert "--allow-plugin their-package lets it run" in err
    shell.done("campaign", "run", "campaign.toml", "--out", "campaign", *ALLOW)
    report = (shell.folder / "campaign" / "report" / "report.md").read_text()
    assert "two-nearest MAE" in report
    [line] = (shell.folder / "campaign" / "report" / "records.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["scores"]["mae"]["mean"] > 0
    assert [plugin["name"] for plugin in record["plugins"]] == ["two-nearest", "patches", "blur", "mae"]
    code, _, err = shell("campaign", "report", "campaign", "--out", "again")
    assert code == 1
    assert "recorded with attack 'two-nearest' of their-package 1.2" in err
    shell.done("campaign", "report", "campaign", "--out", "again", *ALLOW)


@pytest.mark.slow
def test_what_names_no_plug_in_imports_none(shell):
    said = "import sys, splitleak.cli as cli; sys.argv = ['splitleak', *sys.argv[1:]]"
    code = f"{said}\ntry:\n    cli.main()\nfinally:\n    assert 'their_package' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{THEIRS}"}
    for arguments in (["--help"], ["train", "--help"], ["train", "--defense", "prayer"], ["list"]):
        command = [sys.executable, "-c", code, *arguments]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, cwd=shell.folder)
        assert "AssertionError" not in ran.stderr, ran.stderr
    assert "blur, broken" in ran.stdout.replace("\n", " ")


@pytest.mark.slow
def test_where_their_package_is_not_there_it_says_what_to_install(shell):
    """The last, for the environment of its process takes a fork server of its own."""
    code, _, err = shell("inspect", "blurred", *ALLOW, theirs=False)
    assert (code, "pip install their-package==1.2" in err) == (1, True)
