import io
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from splitleak.cli import GROUPS, app, main
from splitleak.cli.campaigns import campaign
from splitleak.cli.captures import capture

ROOT = Path(__file__).parents[3]

COMMANDS = (
    "scan",
    "cuts",
    "import",
    "split",
    "train",
    "inspect",
    "export",
    "purify",
    "prior",
    "import-prior",
    "cloud",
    "edge",
    "tap",
    "link",
    "watch",
    "up",
    "token",
    "audit",
    "predict",
    "query",
    "attack",
    "invert",
    "score",
    "score-classes",
    "extraction",
    "layers",
    "latency",
    "recommend",
    "cost",
    "training-time",
    "leakage",
    "linkage",
    "poison",
    "robustness",
    "study",
    "study-score",
    "report",
    "demo",
    "list",
)

OF_CAMPAIGNS = ("plan", "run", "status", "report", "merge")
OF_CAPTURES = ("check", "salvage", "join")
BELOW = (*(f"campaign {name}" for name in OF_CAMPAIGNS), *(f"capture {name}" for name in OF_CAPTURES))

HELP = """
import sys
from importlib.metadata import version
from splitleak.cli import app
for arguments in [["--help"], *([*name.split(), "--help"] for name in sys.argv[1:])]:
    try:
        app(arguments)
    except SystemExit as stopped:
        assert stopped.code == 0, (arguments, stopped.code)
heavy = {"torch", "torchvision", "grpc", "numpy", "onnx", "onnxruntime"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.slow
def test_every_command_explains_itself_without_loading_what_computes():
    subprocess.run([sys.executable, "-c", HELP, *COMMANDS, *BELOW], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_the_commands_are_these():
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(COMMANDS)
    assert {command.name for command in campaign.registered_commands} == set(OF_CAMPAIGNS)
    assert {command.name for command in capture.registered_commands} == set(OF_CAPTURES)


@pytest.mark.parametrize("command", [*COMMANDS, *BELOW])
def test_help_ends_well_and_names_every_option(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--json" in result.output
    assert "[]" not in result.output  # brackets in a help text are taken for markup, and vanish


def test_options_that_cannot_be_are_usage_errors(call):
    assert call("tap", "--upstream", "h:1", "--blind", "--server", "server.toml")[0] == 2
    assert call("tap", "--upstream", "h:1", "--blind", "--rotate-mb", "5")[0] == 2
    assert call("edge", "half", "--cloud", "h:1")[0] == 2
    assert call("train", "--seed", "-1")[0] == 2
    assert call("levitate")[0] == 2


@pytest.mark.parametrize(
    ("command", "idle", "needed"),
    [
        ("edge half --cloud h:1 --listen h:0", "--ledger l.json", "--images"),
        ("edge half --cloud h:1 --listen h:0", "--repeat 2", "--images"),
        ("edge half --cloud h:1 --listen h:0", "--rate 5", "--images"),
        ("edge half --cloud h:1 --images v.npz", "--server server.toml", "--listen"),
        ("cloud half", "--rotate-mb 5", "--capture"),
        ("cloud half", "--max-bytes 5", "--capture"),
        ("predict --images v.npz --function a:b", "--output p", "--service"),
        ("predict --images v.npz --function a:b", "--channel c.toml", "--service"),
        ("query --public p.npz --function a:b", "--model m", "--service or --edge"),
        ("attack --public p.npz --shared s.npz", "--model m", "--capture"),
        ("query --public p.npz --edge h:1 --capture c", "--scores logits", "--service or --function"),
        ("query --public p.npz --function a:b", "--channel c.toml", "--service or --edge"),
        ("attack --capture c --pairs p.npz", "--channel c.toml", "--service or --edge"),
        ("attack --capture c --edge h:1", "--output p", "--service"),
        ("invert --artifact a", "--model m", "--service"),
        ("invert --artifact a", "--scores logits", "--service or --function"),
        ("score --truth t --artifact a --attack b --ledger l", "--auxiliary-data d", "--auxiliary"),
        ("score-classes --artifact a --attack b --train-images t --evaluator e", "--embedder-config c", "--embedder"),
        ("linkage a --images i", "--embedder-config c", "--embedder"),
        ("recommend runs", "--link lte", "--latency"),
        ("latency a --no-alternatives", "--rtt-ms 0", "--alternatives or --plot"),
        ("latency a --link lte", "--rtt-ms 5", "--link loopback and --window 1"),
        ("latency a --window 4", "--plot l.png", "--link loopback and --window 1"),
        ("scan m.onnx", "--share 0", "--fail-above"),
    ],
)
def test_an_option_without_effect_is_a_usage_error(call, command, idle, needed):
    code, _, err = call(*command.split(), *idle.split())
    assert (code, err) == (2, f"splitleak: Invalid value: expected {needed} beside {idle.split()[0]}, got none\n")


def test_the_cause_is_shown_when_asked(call, monkeypatch):
    monkeypatch.setenv("SPLITLEAK_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["splitleak", "inspect", "nothing"])
    with pytest.raises(FileNotFoundError):
        main()


def test_help_groups_the_commands_and_the_version_is_that_of_the_package(call):
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    for panel in (*GROUPS, "Campaigns", "Captures"):
        assert f"─ {panel} ─" in shown
    assert call("--version") == (0, f"splitleak {version('splitleak')}\n", "")


def test_a_mistyped_command_or_option_is_told_the_nearest(call):
    assert "Did you mean 'latency'?" in call("latncy")[2]
    assert "--codec" in call("edge", "half", "--cdec", "fp16")[2]


def test_shells_complete_values_from_the_tables():
    asked = {"_SPLITLEAK_COMPLETE": "complete_bash", "COMP_WORDS": "splitleak edge --codec fp", "COMP_CWORD": "3"}
    found = CliRunner().invoke(app, [], env=asked, prog_name="splitleak")
    assert found.output.split() == ["fp32", "fp16", "fp16+deflate"]


@pytest.mark.slow
def test_a_notebooks_backend_breaks_no_plot(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_nowhere"}
    command = [
        sys.executable,
        "-m",
        "splitleak",
        "report",
        ROOT / "eval/results/cem_cifar10_5k",
        "--out",
        tmp_path / "report",
    ]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_a_number_of_threads_that_no_machine_has_is_refused(call):
    code, _, err = call("train", "--threads", "100000")
    assert code == 2
    assert "1024" in err


@pytest.mark.parametrize(("encoding", "name"), [("cp1252", "λ"), ("utf-8", os.fsdecode(b"caf\xe9"))])
def test_what_the_terminals_encoding_lacks_is_written_out_and_ends_no_command(tmp_path, monkeypatch, encoding, name):
    file = tmp_path / f"{name}.capture"
    file.touch()
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["splitleak", "capture", "check", str(file)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    sys.stdout.flush()
    assert not stopped.value.code
    assert f"{name}.capture: 0 messages".encode(encoding, "backslashreplace") in raw.getvalue()


def test_a_stream_whose_file_was_replaced_by_a_pipe_as_a_warm_childs_takes_what_it_is_given():
    code = "import os, sys; os.dup2(int(sys.argv.pop(1)), 1); from splitleak.cli import main; main()"
    near, far = os.pipe()
    with open(near, "rb") as told:
        given = [sys.executable, "-c", code, str(far), "list", "codecs", "--json"]
        child = subprocess.Popen(given, stdout=subprocess.DEVNULL, pass_fds=[far])
        os.close(far)
        assert b"uint8" in told.read()
        assert child.wait(60) == 0
