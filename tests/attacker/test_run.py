"""The attack as the command runs it, with a real edge, tap and cloud in this process."""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attacker.results import Reconstructions
from attacker.run import AttackConfig, EdgeProbe, run_attack
from attacker.tap import TapConfig, tap
from cloud.service import CloudConfig, cloud
from defenses.artifact import load_cloud, load_edge, save
from defenses.training import TargetConfig, train
from edge.client import EdgeConfig
from edge.run import stream_file
from edge.service import EdgeServiceConfig, edge
from splitleak.errors import WireError
from splitleak.fit import silent
from splitleak.wire import captures
from splitleak.wire.channel import ChannelConfig

CPU = torch.device("cpu")
QUICK = {"epochs": 1, "channels": 8, "blocks": 1}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory, small_splits):
    """A trained model behind cloud, tap and edge; the victims' images have crossed the wire."""
    folder = tmp_path_factory.mktemp("deployed")
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
    }
    save(folder / "toy", "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    small_splits.public.save(folder / "public.npz")
    small_splits.victims.save(folder / "victims.npz")
    half = load_edge(folder / "toy" / "edge", CPU)
    with ExitStack() as stack:
        port = stack.enter_context(cloud(CloudConfig(), load_cloud(folder / "toy" / "cloud", CPU)))
        capture = folder / "tap.capture"
        port = stack.enter_context(tap(TapConfig(upstream=f"127.0.0.1:{port}", capture=capture)))
        client = EdgeConfig(cloud=f"127.0.0.1:{port}", model="toy")
        ledger = stream_file(client, half, folder / "victims.npz")
        port = stack.enter_context(edge(EdgeServiceConfig(client=client), half, "toy"))
        yield SimpleNamespace(
            folder=folder,
            capture=capture,
            half=half,
            ledger=ledger,
            edge=f"127.0.0.1:{port}",
            before=capture.stat().st_size,
        )


def config(**changes):
    return AttackConfig(**{"attack": "decoder", "settings": QUICK, **changes})


def attack(deployed, out, asked=None, public="public.npz"):
    return run_attack(asked or config(), deployed.capture, deployed.folder / public, deployed.edge, out, CPU, silent)


def test_a_probe_sees_what_the_encoder_gives(deployed, small_splits):
    probe = EdgeProbe(deployed.edge, deployed.capture, "toy")
    images = small_splits.public.floats()[:40]
    np.testing.assert_allclose(probe(images), deployed.half.encode(images.numpy()), atol=1e-5)


def test_a_probe_knows_its_own_requests_from_all_others(deployed, small_splits):
    first, second = (EdgeProbe(deployed.edge, deployed.capture, "toy") for _ in range(2))
    first(small_splits.public.floats()[:3])
    names = [name for name, _ in captures.inference_requests(captures.read(deployed.capture))]
    assert sum(map(first.owns, names)) == 1
    assert not any(map(second.owns, names))


def test_a_tap_that_the_edge_does_not_pass_is_noticed(deployed, small_splits, tmp_path):
    empty = tmp_path / "elsewhere.capture"
    empty.write_bytes(deployed.capture.read_bytes()[: deployed.before])
    with pytest.raises(WireError, match="the 1 queries just made, but 1 are missing"):
        EdgeProbe(deployed.edge, empty, "toy")(small_splits.public.floats()[:3])


def test_an_edge_that_is_not_there_is_a_connection_error(deployed, small_splits, monkeypatch):
    monkeypatch.setattr("attacker.run.ChannelConfig", lambda: ChannelConfig(connect_timeout_s=0.2))
    probe = EdgeProbe("127.0.0.1:1", deployed.capture, "toy")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        probe(small_splits.public.floats()[:1])


def test_an_attack_leaves_one_image_for_each_captured_victim_and_says_how(deployed, tmp_path, small_splits):
    made = attack(deployed, tmp_path / "out", config(seed=3))
    assert made["folder"] == str(tmp_path / "out")
    assert "history" not in made["findings"]
    assert set(Reconstructions.load(tmp_path / "out" / "reconstructions.npz").ids) >= set(deployed.ledger.places)
    record = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert record["queries"] == len(small_splits.public)
    assert record["seed"] == 3
    assert record["config"]["epochs"] == 1
    assert record["public_hashes"] == small_splits.public.hashes()
    assert record["findings"]["chosen_epoch"] == 1
    assert (tmp_path / "out" / "weights.safetensors").exists()
    assert {"command", "commit", "hardware", "time"} <= record["provenance"].keys()


def test_no_query_is_sent_over_the_budget(deployed, tmp_path):
    size = deployed.capture.stat().st_size
    with pytest.raises(PermissionError, match="at most 299 queries, got 300"):
        attack(deployed, tmp_path / "out", config(max_queries=299))
    assert deployed.capture.stat().st_size == size
    assert not (tmp_path / "out").exists()


def test_a_capture_without_requests_is_refused(deployed, tmp_path):
    with captures.CaptureWriter(tmp_path / "empty.capture"):
        pass
    with pytest.raises(WireError, match="at least one inference request, found none"):
        run_attack(
            config(),
            tmp_path / "empty.capture",
            deployed.folder / "public.npz",
            deployed.edge,
            tmp_path / "o",
            CPU,
            silent,
        )


def test_an_unknown_attack_or_setting_is_refused_by_name():
    with pytest.raises(ValueError, match="expected an attack of decoder, got 'magic'"):
        config(attack="magic").build()
    with pytest.raises(ValueError, match=r"attack 'decoder': .*epoch"):
        config(settings={"epoch": 3}).build()


def test_settings_lie_over_the_preset():
    built = config(preset="paper", settings={"epochs": 7}).build()
    assert (built.config.epochs, built.config.blocks) == (7, 8)
