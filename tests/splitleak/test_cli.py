import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cloud.service import CloudConfig, cloud
from defenses.purification import load_purifier
from splitleak.cli import app, campaign, main
from splitleak.wire.service import ServerConfig, serve

COMMANDS = (
    "split",
    "train",
    "inspect",
    "export",
    "purify",
    "prior",
    "cloud",
    "edge",
    "tap",
    "link",
    "token",
    "predict",
    "query",
    "attack",
    "invert",
    "score",
    "score-classes",
    "latency",
    "recommend",
    "cost",
    "leakage",
    "poison",
    "robustness",
    "study",
    "study-score",
    "report",
    "demo",
)

OF_CAMPAIGNS = ("plan", "run", "status", "report")
TINY = """
name = "tiny"
seeds = [0, 1]
datasets = [{ name = "builtin", channels = 1, size = 16 }]
models = [{ name = "cnn", architecture = "cnn" }]
methods = [{ name = "Noise", defenses = [{ name = "gaussian-noise" }] }]
attacks = [{ name = "decoder", attack = "decoder" }]
"""

HELP = """
import sys
from splitleak.cli import app
for arguments in [["--help"], *([*name.split(), "--help"] for name in sys.argv[1:])]:
    try:
        app(arguments)
    except SystemExit as stopped:
        assert stopped.code == 0, (arguments, stopped.code)
heavy = {"torch", "torchvision", "grpc", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory, small_splits):
    folder = tmp_path_factory.mktemp("images")
    small_splits.save(folder)
    return folder


QUICK = ("--set", "model.architecture=cnn", "--set", "model.width=0.5", "--set", "training.epochs=1")


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


@pytest.fixture
def train(call, images, tmp_path):
    def run(*arguments):
        code, out, err = call("train", "--images", images, "--out", tmp_path / "toy", "--json", *QUICK, *arguments)
        assert code == 0, err
        return json.loads(out)

    return run


def test_every_command_explains_itself_without_loading_what_computes():
    commands = (*COMMANDS, *(f"campaign {name}" for name in OF_CAMPAIGNS))
    subprocess.run([sys.executable, "-c", HELP, *commands], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_the_commands_are_these():
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(COMMANDS)
    assert {command.name for command in campaign.registered_commands} == set(OF_CAMPAIGNS)


@pytest.mark.parametrize("command", [*COMMANDS, *(f"campaign {name}" for name in OF_CAMPAIGNS)])
def test_help_ends_well_and_names_every_option(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--json" in result.output
    assert "[]" not in result.output  # brackets in a help text are taken for markup, and vanish


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--defense", "magic"), "magic"),
        (("train", "--set", "training.epochs"), "expected --set KEY=VALUE, got 'training.epochs'"),
        (("train", "--set", "=3"), "expected --set KEY=VALUE"),
        (("train", "--set", "training.epoch=3"), "training.epoch"),
        (("train", "--set", "training.epochs=0"), "training.epochs"),
        (("train", "--set", "training.epochs=many"), "'many'"),
        (("train", "--set", "seed.deeper=1"), "expected a table 'seed' for --set seed.deeper=1, got 0"),
        (("train", "--set", "nopeek.weight=1"), "nopeek"),
        (("train", "--config", "none.toml"), "none.toml"),
        (("train", *QUICK, "--device", "abacus"), "abacus"),
        (("inspect", "nothing"), "nothing"),
        (("export", "nothing", "--triton", "models"), "nothing"),
        (("cloud", "nothing"), "nothing"),
        (("cloud", "nothing", "--metrics", "9100"), "metrics"),
        (("edge", "nothing", "--cloud", "127.0.0.1:1", "--listen", "127.0.0.1:0"), "nothing"),
        (("latency", "nothing"), "nothing"),
        (("latency", "nothing", "--batch", "1,many"), "batches.1"),
        (("latency", "nothing", "--codec", "int4"), "'int4'"),
        (("latency", "nothing", "--plot", "latency.pdf"), "latency.pdf"),
        (("recommend", "nothing"), "nothing"),
        (("recommend", "nothing", "--max-bytes", "0"), "max_bytes"),
        (("report", "nothing"), "nothing"),
        (("split", "--data", "nothing.npz"), "nothing.npz"),
        (("split", "--victims", "1000000"), "victims 1000000"),
        (("attack", "--capture", "c", "--public", "p", "--edge", "e:1", "--attack", "magic"), "decoder"),
        (("attack", "--capture", "c", "--public", "p", "--edge", "e:1"), "c"),
        (("attack", "--capture", "c", "--public", "p", "--edge", "e:1", "--set", "epoch=3"), "epoch"),
        (("score", "--artifact", "a", "--attack", "b", "--truth", "t", "--ledger", "l"), "a"),
    ],
)
def test_bad_input_is_one_line_on_standard_error(call, images, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    given = (*arguments, "--images", images) if arguments[0] == "train" else arguments
    code, out, err = call(*given)
    assert (code, out) == (1, "")
    assert err.startswith("splitleak: ")
    assert err.count("\n") == 1
    assert said in err


class Whole:
    name, input_shape, classes, properties = "whole", (1, 16, 16), 10, {}

    def predict(self, pictures):
        return pictures.reshape(len(pictures), -1)[:, :10]


def test_a_model_that_a_service_does_not_have_is_one_line(call, images, tmp_path):
    with cloud(CloudConfig(), Whole()) as port:
        where = ("--service", f"127.0.0.1:{port}", "--images", images / "victims.npz", "--out", tmp_path)
        code, out, err = call("predict", *where, "--model", "nobody")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "expected a model of ['whole'], got 'nobody'" in err


def test_a_taken_port_is_one_line_and_exit_status_1(call, tmp_path):
    with serve(lambda server: None, ServerConfig()) as port:
        code, _, err = call("tap", "--upstream", "h:1", "--capture", tmp_path / "c", "--listen", f"127.0.0.1:{port}")
    assert (code, err.count("\n")) == (1, 1)
    assert f"expected a free address to listen on, got 127.0.0.1:{port}" in err


def test_with_a_token_a_client_is_served_and_without_one_it_is_told_why_in_one_line(call, images, tmp_path):
    made = call("token", "victims", "--tokens", tmp_path / "tokens.json", "--out", tmp_path / "victims.token", "--json")
    assert (made[0], json.loads(made[1])["client"]) == (0, "victims")
    (tmp_path / "channel.toml").write_text('token_file = "victims.token"')
    server = ServerConfig(tokens_file=tmp_path / "tokens.json")
    with cloud(CloudConfig(server=server), Whole()) as port:
        asked = ("predict", "--service", f"127.0.0.1:{port}", "--images", images / "victims.npz", "--out", tmp_path)
        served = call(*asked, "--channel", tmp_path / "channel.toml", "--json")
        refused = call(*asked)
    assert (served[0], json.loads(served[1])["images"]) == (0, 40)
    assert (refused[0], refused[2].count("\n")) == (1, 1)
    assert "UNAUTHENTICATED: expected a known client's token" in refused[2]
    assert (
        "token would travel in clear"
        in call("predict", "--service", "h:1", *asked[3:], "--channel", tmp_path / "channel.toml")[2]
    )


def test_a_setting_that_no_server_has_is_one_line(call, tmp_path):
    (tmp_path / "server.toml").write_text("[limits]\ncals = 3")
    code, _, err = call("tap", "--upstream", "h:1", "--capture", tmp_path / "c", "--server", tmp_path / "server.toml")
    assert (code, err.count("\n")) == (1, 1)
    assert "limits.cals" in err


def test_options_that_cannot_be_are_usage_errors(call):
    assert call("tap", "--upstream", "h:1", "--blind", "--server", "server.toml")[0] == 2
    assert call("edge", "half", "--cloud", "h:1")[0] == 2
    assert call("train", "--seed", "-1")[0] == 2
    assert call("levitate")[0] == 2


def test_the_cause_is_shown_when_asked(call, monkeypatch):
    monkeypatch.setenv("SPLITLEAK_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["splitleak", "inspect", "nothing"])
    with pytest.raises(FileNotFoundError):
        main()


def test_training_the_same_target_again_reuses_it(train, tmp_path):
    first = train()
    assert first["reused"] is False
    stamp = (tmp_path / "toy" / "artifact.json").stat().st_mtime_ns
    again = train()
    assert again == {**first, "reused": True}
    assert (tmp_path / "toy" / "artifact.json").stat().st_mtime_ns == stamp


def test_another_setting_another_seed_or_force_trains_again(train, tmp_path):
    train()
    assert train("--seed", "1")["reused"] is False
    assert train("--seed", "1", "--set", "training.momentum=0.8")["reused"] is False
    assert train("--seed", "1", "--set", "training.momentum=0.8", "--force")["reused"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def test_a_setting_reaches_the_defense_it_names(train, tmp_path):
    train("--defense", "bottleneck", "--defense", "gaussian-noise", "--set", "gaussian-noise.sigma=0.125")
    target = json.loads((tmp_path / "toy" / "artifact.json").read_text())["target"]
    assert [defense["name"] for defense in target["defenses"]] == ["bottleneck", "gaussian-noise"]
    assert target["defenses"][1]["config"]["sigma"] == 0.125
    assert target["training"]["epochs"] == 1
    edge = json.loads((tmp_path / "toy" / "edge" / "half.json").read_text())
    assert edge["target"] == target


def test_a_config_file_is_laid_over_the_preset_and_settings_over_both(train, tmp_path):
    (tmp_path / "target.toml").write_text(
        "seed = 5\n[training]\nmomentum = 0.7\nepochs = 9\n[[defenses]]\nname = 'gaussian-noise'\nsigma = 0.5\n"
    )
    train("--config", tmp_path / "target.toml", "--set", "gaussian-noise.sigma=0.25")
    target = json.loads((tmp_path / "toy" / "artifact.json").read_text())["target"]
    assert (target["seed"], target["training"]["momentum"], target["training"]["epochs"]) == (5, 0.7, 1)
    assert target["defenses"][0]["config"]["sigma"] == 0.25


def test_purify_writes_a_purifier_that_loads_and_says_what_it_costs(train, images, call, tmp_path):
    train()
    asked = ("purify", tmp_path / "toy", "--images", images, "--out", tmp_path / "p", "--set", "epochs=2")
    code, out, _ = call(*asked, "--json")
    found = json.loads(out)
    assert code == 0
    assert load_purifier(tmp_path / "p").config.epochs == 2
    record = json.loads((tmp_path / "p" / "record.json").read_text())
    assert record["cost"].items() <= found.items()
    assert record["provenance"]["command"].startswith("splitleak purify")
    assert call(*asked, "--set", "epoch=2")[0] == 1
    code, out, _ = call(*asked)
    assert "confidence distortion" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "toy"]


def test_inspect_shows_both_halves_and_counts_all_parameters(train, call, tmp_path):
    train()
    code, out, _ = call("inspect", tmp_path / "toy", "--json")
    found = json.loads(out)
    assert code == 0
    for half in ("edge", "cloud"):
        assert found[half]["parameters"] > 0
        assert found[half]["macs"] > 0
    code, out, _ = call("inspect", tmp_path / "toy")
    assert code == 0
    assert "edge: " in out
    assert "cloud: " in out
    assert "after nothing" in out


def test_export_writes_a_model_for_triton_once_and_again_only_by_force(train, call, tmp_path):
    train()
    command = ("export", tmp_path / "toy", "--triton", tmp_path / "models", "--backend", "python")
    code, out, _ = call(*command, "--json")
    assert (code, json.loads(out)["folder"]) == (0, str(tmp_path / "models" / "toy"))
    assert (tmp_path / "models" / "toy" / "1" / "model.py").is_file()
    code, out, err = call(*command)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "--force" in err
    assert call(*command, "--force")[0] == 0


def test_cost_of_a_design_needs_no_training_and_shows_the_published_figures(call, tmp_path):
    (tmp_path / "small.toml").write_text(
        "[model]\narchitecture = 'cnn'\n[[defenses]]\nname = 'bottleneck'\nchannels = 4\n"
    )
    quick = ("--batch", "2", "--repeats", "1", "--set", "model.width=0.5")
    code, out, err = call("cost", "--config", tmp_path / "small.toml", *quick)
    assert code == 0, err
    assert "small; ms a batch of 2" in out
    assert "edge" in out
    assert "136.38" in out


def test_cost_of_an_artifact_is_that_of_its_design(train, call, tmp_path):
    train("--defense", "bottleneck", "--defense", "gaussian-noise")
    code, out, _ = call("cost", tmp_path / "toy", "--batch", "2", "--repeats", "1", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["name"], found["batch"], found["threads"]) == ("toy", 2, 1)
    assert found["counts"]["edge"]["macs"]["parameters"] > 0
    assert call("cost", tmp_path / "toy", "--defense", "bottleneck")[0] == 2


def test_split_writes_four_files_that_share_no_image(call, tmp_path):
    code, out, _ = call(
        *("split", "--out", tmp_path / "s", "--size", "16", "--json"),
        *("--train", "30", "--public", "20", "--victims", "10", "--test", "5"),
    )
    assert code == 0
    assert json.loads(out)["images"] == {"train": 30, "public": 20, "victims": 10, "test": 5}
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        *("train.npz", "public.npz", "victims.npz", "test.npz"),
        "splits.json",
    }


def test_split_of_some_classes_writes_the_others_beside_them(call, tmp_path):
    code, out, err = call(
        *("split", "--out", tmp_path / "s", "--size", "16", "--json", "--classes", 3, "--stratified"),
        *("--train", "30", "--public", "20", "--victims", "10", "--test", "6"),
    )
    assert code == 0, err
    assert json.loads(out)["images"] == {"train": 30, "public": 20, "victims": 10, "test": 6, "generic": 20}
    record = json.loads((tmp_path / "s" / "splits.json").read_text())
    assert (len(record["classes"]), record["config"]["stratified"]) == (3, True)
    assert (tmp_path / "s" / "generic.npz").is_file()


def test_threads_are_those_asked_for(train):
    before = torch.get_num_threads()
    try:
        train("--threads", "2")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_it_runs_as_a_module_and_as_a_script():
    for command in ([sys.executable, "-m", "splitleak.cli"], [str(Path(sys.executable).with_name("splitleak"))]):
        if os.path.exists(command[0]):
            found = subprocess.run([*command, "inspect", "/nothing"], capture_output=True, text=True, timeout=60)
            assert found.returncode == 1
            assert found.stderr.startswith("splitleak: expected a half")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_campaigns_plan_counts_jobs_and_what_is_done(call, tiny, tmp_path):
    asked = ("campaign", "plan", tiny, "--out", tmp_path / "run", "--json")
    found = json.loads(call(*asked)[1])
    assert {kind: jobs["jobs"] for kind, jobs in found["jobs"].items()} == {
        "split": 2,
        "train": 2,
        "capture": 2,
        "cell": 2,
        "leakage": 2,
    }
    assert [cell["seed"] for cell in found["cells"]] == [0, 1]
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "targets" / found["cells"][0]["target"]).mkdir(parents=True)
    one = json.loads(call(*asked, "--seed", 0)[1])
    assert one["jobs"]["train"] == {"jobs": 1, "done": 1}
    code, out, _ = call("campaign", "plan", tiny, "--out", tmp_path / "run")
    assert code == 0
    assert "Noise" in out


def test_settings_reach_into_a_campaign_by_name(call, tiny):
    def targets(*settings):
        return {cell["target"] for cell in json.loads(call("campaign", "plan", tiny, "--json", *settings)[1])["cells"]}

    changed = targets("--set", "methods.Noise.training.epochs=3")
    assert not changed & targets()
    assert targets("--set", "attacks.decoder.settings.epochs=3") == targets()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "methods.Noise.training.epoch=3"), "tiny.toml: method 'Noise', model 'cnn': .*training.epoch"),
        (("--set", "methods.Nose.training.epochs=3"), "expected a table 'Nose'"),
        (("--data", "nowhere.npz"), "expected data of builtin, .*got 'nowhere.npz'"),
        (("--seed", 5), r"expected seeds of \[0, 1\], got \[5\]"),
    ],
)
def test_a_campaigns_mistakes_are_one_line(call, tiny, options, said):
    code, _, err = call("campaign", "plan", tiny, *options)
    assert code == 1
    assert re.search(said, err)
    assert len(err.strip().splitlines()) == 1


def test_data_for_one_data_set_of_several_are_refused(call, tiny):
    tiny.write_text(TINY.replace("datasets = [", "datasets = [{ name = 'other', channels = 1 }, "))
    code, _, err = call("campaign", "plan", tiny, "--data", "builtin")
    assert (code, "expected one data set in" in err) == (1, True)


def test_the_status_of_what_is_no_campaign_is_refused(call, tmp_path):
    code, _, err = call("campaign", "status", tmp_path)
    assert (code, "expected a folder that `splitleak campaign run` wrote" in err) == (1, True)
