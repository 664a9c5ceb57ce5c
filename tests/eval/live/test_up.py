import json
import signal
import socket
import time
import urllib.request
from types import SimpleNamespace

import pytest

from splitleak.attacker.rebuilders import Rebuilder
from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign.processes import service
from splitleak.eval.live.up import PageConfig, UpConfig, up
from splitleak.seeding import resolve_device
from splitleak.wire.files import captures

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def ready(tmp_path_factory, small_splits):
    """A folder with an artifact and victims."""
    folder = tmp_path_factory.mktemp("up")
    model = {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10}
    config = TargetConfig.parse({"model": model, "training": {"epochs": 1}}, source="test")
    save(folder / "target", "toy", train(config, small_splits, device=resolve_device("cpu")))
    for part in ("public", "victims"):
        getattr(small_splits, part).save(folder / f"{part}.npz")
    return folder


def first_event(address):
    with urllib.request.urlopen(f"{address}events", timeout=PATIENCE_S) as events:
        return json.loads(events.readline()[6:])


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 5)


@pytest.mark.slow
def test_one_command_runs_the_chain_with_its_page_and_one_signal_stops_all(ready, tmp_path):
    victims, capture = ready / "victims.npz", tmp_path / "tap.capture"
    given = ["up", str(ready / "target"), "--images", str(victims), "--out", str(tmp_path), "--repeat", "2"]
    page = ["--watch", "--public", str(ready / "public.npz"), "--truth"]
    with service([*given, "--rate", "1000", *page], tmp_path / "log") as running:
        at = {name: running.wait_for(name, PATIENCE_S)["address"] for name in ("cloud", "tap", "page")}
        streamed = running.wait_for("streamed", PATIENCE_S)
        at["edge"] = running.wait_for("edge", PATIENCE_S)["address"]
        running.wait_for("up", PATIENCE_S)
        sent = len(Ledger.read(tmp_path / "ledger.json").entries)
        assert sent == 2 * streamed["images"]
        deadline = time.monotonic() + PATIENCE_S
        while (seen := first_event(at["page"]))["counts"]["answers"] < sent and time.monotonic() < deadline:
            time.sleep(0.2)
        assert seen["about"].pop("again").startswith("nearer to those of an earlier request")
        assert seen["about"] == {"capture": "tap.capture", "rebuilder": "linear gauge", "truth": True}
        assert seen["counts"]["requests"] == len(list(captures.inference_requests(captures.read(capture)))) == sent
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0
    for name in ("cloud", "tap", "edge"):
        with pytest.raises(OSError, match="refused"):
            connect(at[name])
    with pytest.raises(OSError, match="refused"):
        first_event(at["page"])


def test_what_cannot_start_says_why(tmp_path):
    config = UpConfig(artifact=tmp_path / "nothing", images=tmp_path / "none.npz", out=tmp_path)
    with pytest.raises(RuntimeError, match=r"cloud to report 'listening', but it ended:\n.*nothing"), up(config, print):
        pass


def test_the_decoder_of_another_target_is_refused_before_anything_starts(tmp_path, monkeypatch):
    decoder = Rebuilder("decoder", (4, 8, 8), lambda rows: rows)
    half = SimpleNamespace(name="toy", feature_shape=(2, 8, 8), digest="")
    monkeypatch.setattr("splitleak.eval.live.up.saved_decoder", lambda folder: decoder)
    monkeypatch.setattr("splitleak.eval.live.up.load_edge", lambda folder, device: half)
    page = PageConfig(capture=tmp_path / "tap.capture", attack=tmp_path / "attack")
    config = UpConfig(artifact=tmp_path / "target", images=tmp_path / "none.npz", out=tmp_path / "out", page=page)
    with pytest.raises(ValueError, match="takes features of 4 × 8 × 8, and these are of 2 × 8 × 8"), up(config, print):
        pass
    assert not (tmp_path / "out").exists()


def test_the_capture_of_another_run_is_replaced_with_force_alone(tmp_path):
    (tmp_path / "tap.capture").write_bytes(b"theirs")
    config = UpConfig(artifact=tmp_path / "nothing", images=tmp_path / "none.npz", out=tmp_path)
    with pytest.raises(FileExistsError, match="expected no capture of another run"), up(config, print):
        pass
    assert (tmp_path / "tap.capture").read_bytes() == b"theirs"


@pytest.mark.slow
def test_what_cannot_start_replaces_no_capture_and_what_can_replaces_nothing_else(ready, tmp_path):
    for name in ("tap.capture", "tap.capture.1", "tap.capture.notes.md"):
        (tmp_path / name).write_bytes(b"theirs")
    config = UpConfig(artifact=ready / "target", images=ready / "victims.npz", out=tmp_path, force=True)
    for change, error in (("artifact", RuntimeError), ("images", FileNotFoundError)):
        with pytest.raises(error), up(config.model_copy(update={change: tmp_path / "nothing"}), print):
            pass
        assert {path.read_bytes() for path in tmp_path.glob("tap.capture*")} == {b"theirs"}
    with up(config, print):
        assert len(list(captures.inference_requests(captures.read(tmp_path / "tap.capture")))) > 0
    assert sorted(path.name for path in tmp_path.glob("tap.capture*")) == ["tap.capture", "tap.capture.notes.md"]
