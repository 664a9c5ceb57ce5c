import ast
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import splitleak.cli
from splitleak.attacker.auxiliary import AUXILIARY, AuxiliaryKind
from splitleak.cli import app
from splitleak.cli.choices import TABLES, completed
from splitleak.edge.profiles import DEVICES
from splitleak.tables import Table
from splitleak.wire.link.link import PROFILES
from splitleak.wire.protocol import CODECS, codec

EDGE = ("edge", "nothing", "--cloud", "h:1", "--images", "none.npz")
SCORE = ("score", "--artifact", "no", "--attack", "no", "--truth", "no.npz", "--ledger", "no.json")

# The entry that is added, and a command whose option takes it and which then fails at what is not there.
ADDED = [
    ("codecs", CODECS, codec.encode_fp32, "--codec", EDGE),
    ("codecs", CODECS, codec.encode_fp32, "--codec", ("latency", "nothing")),
    ("links", PROFILES, PROFILES["wifi"], "--link", ("latency", "nothing")),
    ("links", PROFILES, PROFILES["wifi"], "--profile", ("link", "--upstream", "nowhere")),
    ("devices", DEVICES, DEVICES["phone"], "--device-profile", EDGE),
    ("auxiliary", AUXILIARY, AuxiliaryKind("anything"), "--auxiliary", SCORE),
]


@pytest.mark.parametrize(("kind", "table", "entry", "option", "command"), ADDED)
def test_what_is_added_to_a_table_is_offered_and_accepted_at_once(
    kind, table, entry, option, command, monkeypatch, call, tmp_path
):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*command, option, "newest")
    assert (code, "newest" in err) == (2, True)
    monkeypatch.setitem(table, "newest", entry)
    assert "newest" in CliRunner().invoke(app, [command[0], "--help"], env={"COLUMNS": "400"}).output
    assert "newest" in completed(kind)("new")
    code, _, err = call(*command, option, "newest")
    assert code == 1, err
    assert "got 'newest'" not in err


def test_the_help_of_a_table_without_entries_says_that_there_are_none(monkeypatch):
    monkeypatch.setitem(TABLES, "measures", Table("measure", {}))
    assert "Installed: none." in CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "400"}).output


def test_an_added_codec_carries_a_tensor(monkeypatch):
    monkeypatch.setitem(CODECS, "newest", codec.encode_fp16)
    values = codec.np.ones((1, 2), codec.np.float32)
    assert codec.decode(codec.encode(values, "newest")).tolist() == [[1, 1]]


# A command and its option for every table but that of models, which are chosen in a file or by --set.
OPTIONS = {
    "attacks": ("attack", "--public", "no", "--attack"),
    "class-attacks": ("invert", "--attack"),
    "defenses": ("train", "--defense"),
    "codecs": (*EDGE, "--codec"),
    "links": ("latency", "no", "--link"),
    "devices": (*EDGE, "--device-profile"),
    "engines": (*EDGE, "--engine"),
    "auxiliary": (*SCORE, "--auxiliary"),
    "scores": ("invert", "--scores"),
    "backends": ("export", "no", "--triton", "no", "--backend"),
    "presets": ("train", "--preset"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_name_that_no_table_has_is_told_the_nearest(kind, call):
    known = next(iter(TABLES[kind]))
    code, _, err = call(*OPTIONS[kind], f"{known}x")
    assert code == 2
    assert err.startswith("splitleak: Invalid value for ")
    assert err.endswith(f"did you mean '{known}'?\n")


def test_a_shell_completes_the_last_of_a_list():
    assert completed("codecs")("fp32,ui") == ["fp32,uint8", "fp32,uint8+deflate"]
    assert completed("links", ["loopback"])("l") == ["loopback", "lte", "leo"]


def test_no_module_of_the_command_line_lists_choices_of_its_own():
    for path in Path(splitleak.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Name) and node.id in ("Literal", "Enum")), path
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                texts = {each.value for each in node.elts if isinstance(each, ast.Constant)}
                copied = [kind for kind in TABLES if len(texts & set(TABLES[kind])) > 2]
                assert not copied, (path, node.lineno)


LIGHT = """
import sys
from splitleak.cli import main
sys.argv = ["splitleak", *sys.argv[1:]]
try:
    main()
except SystemExit as stopped:
    assert stopped.code in (0, 2), stopped.code
heavy = {"torch", "torchvision", "grpc", "numpy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("levitate",),
        ("train", "--seed", "minus"),
        ("train", "--defense", "prayer"),
        ("attack", "--public", "no.npz", "--attack", "telepathy"),
        ("invert", "--attack", "telepathy"),
        ("latency", "nothing", "--codec", "int4", "--link", "pigeon"),
        ("edge", "nothing", "--cloud", "h:1", "--device-profile", "abacus"),
        ("cloud", "nothing", "--engine", "steam"),
        ("export", "nothing", "--triton", "no", "--backend", "steam"),
        (*SCORE, "--auxiliary", "stolen"),
    ],
)
def test_a_wrong_argument_and_help_load_nothing_that_computes(arguments):
    subprocess.run([sys.executable, "-c", LIGHT, *arguments], check=True, capture_output=True, timeout=60)
