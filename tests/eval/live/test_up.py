import contextlib
import json
import signal
import time
import urllib.request

import pytest

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


@pytest.mark.slow
def test_the_chain_runs_with_its_page_and_the_page_agrees_with_the_capture(ready, tmp_path):
    said = []
    page = PageConfig(
        capture=tmp_path / "tap.capture",
        public=ready / "public.npz",
        encoder=ready / "target" / "edge",
        truth=ready / "victims.npz",
    )
    config = UpConfig(artifact=ready / "target", images=ready / "victims.npz", out=tmp_path, repeat=2, page=page)
    with up(config, said.append) as port:
        assert port > 0
        assert [event["event"] for event in said] == ["cloud", "tap", "page", "streamed", "edge"]
        address = next(event["address"] for event in said if event["event"] == "page")
        victims = said[3]["images"]
        deadline = time.monotonic() + PATIENCE_S
        while (seen := first_event(address))["counts"]["answers"] < victims and time.monotonic() < deadline:
            time.sleep(0.2)
    assert seen["about"] == {"capture": "tap.capture", "rebuilder": "linear gauge", "truth": True}
    requests = [each for each in captures.inference_requests(captures.read(page.capture))]
    assert seen["counts"]["requests"] == len(requests) == len(Ledger.read(tmp_path / "ledger.json").entries)
    for event in said:
        if event["event"] in ("cloud", "tap", "edge"):
            with pytest.raises(OSError, match=r"refused|timed out"), contextlib.closing(connect(event["address"])):
                pass


def connect(address):
    import socket

    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 5)


@pytest.mark.slow
def test_one_signal_stops_the_command_and_all_that_it_started(ready, tmp_path):
    given = ["up", str(ready / "target"), "--images", str(ready / "victims.npz"), "--out", str(tmp_path)]
    with service([*given, "--rate", "1000"], tmp_path / "log") as running:
        tap = running.wait_for("tap", PATIENCE_S)["address"]
        running.wait_for("up", PATIENCE_S)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0
    with pytest.raises(OSError, match="refused"):
        connect(tap)
    assert (tmp_path / "up.log").exists()


def test_what_cannot_start_says_why(tmp_path):
    config = UpConfig(artifact=tmp_path / "nothing", images=tmp_path / "none.npz", out=tmp_path)
    with pytest.raises(RuntimeError, match=r"cloud to report 'listening', but it ended:\n.*nothing"), up(config, print):
        pass
