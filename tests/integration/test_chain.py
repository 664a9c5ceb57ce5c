"""The whole chain in small, every role a real process: train, serve, tap, stream, attack, score, report."""

import contextlib
import hashlib
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign.processes import service
from splitleak.eval.record.schema import load_record
from splitleak.seeding import resolve_device
from splitleak.wire.files import captures

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
ANYWHERE = "127.0.0.1:0"


@dataclass
class Chain:
    """What one run of the chain left behind."""

    folder: Path
    pids: dict[str, int]
    listening: dict[str, str]
    attack_arguments: list[str]
    attacked: dict[str, Any]
    exit_codes: dict[str, int]
    children: dict[str, list[int]]

    def features(self, name):
        """Request id to the raw bytes of its tensor, as a capture has them."""
        return {key: tensor.raw for key, tensor in captures.inference_requests(captures.read(self.folder / name))}


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, small_splits, run_command):
    folder = tmp_path_factory.mktemp("chain")
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
        "defenses": [{"name": "gaussian-noise"}],
    }
    target = train(TargetConfig.parse(document, source="test"), small_splits, device=resolve_device("cpu"))
    artifact = folder / "target"
    save(artifact, "chained", target)
    for part in ("public", "victims"):
        (folder / part).mkdir()
        getattr(small_splits, part).save(folder / part / "images.npz")
    running, listening, children = {}, {}, {}

    with contextlib.ExitStack() as stack:

        def start(name, *arguments):
            given = [name, *map(str, arguments), "--listen", ANYWHERE]
            running[name] = stack.enter_context(service(given, folder / f"{name}.log"))

        def address(name):
            listening[name] = running[name].wait_for("listening", PATIENCE_S)["address"]
            return listening[name]

        start("cloud", artifact / "cloud", "--threads", 1, "--capture", folder / "cloud.capture")
        start("tap", "--upstream", address("cloud"), "--capture", folder / "tap.capture")
        victims = ("--images", folder / "victims" / "images.npz", "--ledger", folder / "ledger.json")
        start("edge", artifact / "edge", "--threads", 1, "--cloud", address("tap"), *victims)
        running["edge"].wait_for("streamed", PATIENCE_S)
        attack_arguments = [
            *("attack", "--capture", str(folder / "tap.capture"), "--public", str(folder / "public" / "images.npz")),
            *("--edge", address("edge"), "--out", str(folder / "attack"), "--threads", "1"),
            *("--set", "epochs=3", "--set", "channels=16", "--set", "blocks=1", "--set", "batch_size=16"),
        ]
        attack = run_command(*attack_arguments, "--json")
        assert attack.returncode == 0, attack.stderr
        attacked = json.loads(attack.stdout.splitlines()[-1])
        pids = {name: each.process.pid for name, each in running.items()}
        for name, each in running.items():
            children[name] = children_of(each.process.pid)
        for name in ("edge", "tap", "cloud"):
            running[name].process.send_signal(signal.SIGTERM)
            running[name].process.wait(PATIENCE_S)
        exit_codes = {name: each.process.returncode for name, each in running.items()}
    return Chain(folder, pids, listening, attack_arguments, attacked, exit_codes, children)


@pytest.fixture(scope="module")
def record(chain, run_command):
    folder = chain.folder
    scored = run_command(
        *("score", "--artifact", folder / "target", "--attack", folder / "attack", "--out", folder / "run" / "cell"),
        *("--truth", folder / "victims" / "images.npz", "--ledger", folder / "ledger.json"),
    )
    assert scored.returncode == 0, scored.stderr
    return load_record(folder / "run" / "cell")


def test_cloud_tap_and_edge_are_three_processes_at_three_addresses(chain):
    assert len(set(chain.pids.values())) == 3
    assert len(set(chain.listening.values())) == 3


def test_each_stops_on_sigterm_and_leaves_no_child(chain):
    assert set(chain.exit_codes) == {"cloud", "tap", "edge"}
    assert set(chain.exit_codes.values()) <= {0, 128 + signal.SIGTERM}
    assert not any(chain.children.values())
    assert not [pid for pid in chain.pids.values() if Path(f"/proc/{pid}").exists()]


def test_the_capture_holds_the_bytes_that_the_edge_says_it_sent(chain):
    ledger = Ledger.read(chain.folder / "ledger.json")
    captured = chain.features("tap.capture")
    assert len(ledger.entries) == 40
    assert sorted(entry.place for entry in ledger.entries) == list(range(40))
    for entry in ledger.entries:
        assert hashlib.sha256(captured[entry.request_id]).hexdigest() == entry.payload_sha256


def test_a_curious_cloud_and_the_tap_see_the_same(chain):
    assert chain.features("cloud.capture") == chain.features("tap.capture")


def test_what_is_captured_is_the_victims_and_the_attackers_own_queries(chain):
    own = {entry.request_id for entry in Ledger.read(chain.folder / "ledger.json").entries}
    others = set(chain.features("tap.capture")) - own
    assert others
    assert all(name.startswith("probe-") for name in others)


def test_the_attacker_is_told_nothing_of_the_victims_but_the_capture(chain):
    assert not any("victims" in argument or "ledger" in argument for argument in chain.attack_arguments)
    given = {chain.attack_arguments[at + 1] for at, name in enumerate(chain.attack_arguments) if name[:2] == "--"}
    files = {Path(value).relative_to(chain.folder).parts[0] for value in given if value.startswith("/")}
    assert files == {"tap.capture", "public", "attack"}
    for path in (chain.folder / "attack").iterdir():
        content = path.read_bytes()
        assert b"victims" not in content
        assert b"ledger" not in content


def test_the_attack_paid_one_query_for_each_draw_of_a_public_image(chain, small_splits):
    attack = json.loads((chain.folder / "attack" / "attack.json").read_text())
    assert chain.attacked["queries"] == attack["queries"] == 16 * len(small_splits.public) + 8
    assert chain.attacked["rebuilt"] == 40


def test_the_attack_rebuilt_every_victim_under_its_own_id(chain):
    with np.load(chain.folder / "attack" / "reconstructions.npz") as made:
        assert made["images"].shape == (40, 1, 16, 16)
        assert set(made["ids"]) == set(Ledger.read(chain.folder / "ledger.json").places)


def test_the_record_holds_every_number_and_where_it_came_from(chain, record):
    for metric in ("mse", "psnr", "ssim", "ssim_zero_padded"):
        score = record.scores[metric]
        assert len(score.values) == 40
        assert np.isfinite([score.mean, score.std]).all()
    assert np.isfinite(record.mean("batch_psnr"))
    assert 0 <= record.target.accuracy <= 1
    assert 0 <= record.wire.accuracy <= 1
    size = min(map(len, chain.features("tap.capture").values()))
    assert size < record.wire.bytes_per_image < 1.5 * size
    assert (record.threat_model.queries, record.threat_model.draws) == (16 * 300 + 8, 16)
    assert record.attack.config["epochs"] == 3
    assert record.target.design.seed == record.attack.seed == 0
    for part in (record, record.target, record.attack):
        made = part.provenance
        assert all((made.command, made.commit, made.hardware, made.time, made.version))


def test_the_score_is_of_what_the_attacker_rebuilt(chain, record, small_splits):
    places = Ledger.read(chain.folder / "ledger.json").places
    truth = small_splits.victims.floats().numpy()
    with np.load(chain.folder / "attack" / "reconstructions.npz") as made:
        order = [places[name] for name in made["ids"].tolist()]
        errors = ((made["images"] - truth[order]) ** 2).reshape(40, -1).mean(1)
    assert record.mse == pytest.approx(errors.mean(), rel=1e-4)
    mean_image = ((truth - small_splits.public.floats().numpy().mean(0)) ** 2).mean()
    assert errors.mean() < 0.8 * mean_image


def test_the_report_shows_the_run(chain, record, run_command):
    assert run_command("report", chain.folder / "run").returncode == 0
    html = (chain.folder / "run" / "report" / "report.html").read_text(encoding="utf-8")
    assert (
        html.count("data:image/png;base64,") == 2 + 2 * 7
    )  # a strip of victims, one of what was rebuilt, and the seven in front
    assert f"{record.mse:.4f}" in html
    assert "chained" in html
