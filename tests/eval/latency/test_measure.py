"""What the bench runs, and what it refuses before anything starts; `test_latency` measures with all of it."""

import time

import numpy as np
import pytest

from splitleak.defenses.importing import import_network
from splitleak.eval.latency.measure import Runner, bench
from splitleak.eval.latency.plan import Setting, SweepConfig
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import Preprocessing, prepare
from splitleak.graphs.user_module import export_module
from splitleak.wire.protocol import codec
from tests.splitleak.graphs.test_network import Residual


def config(artifact, **more):
    return SweepConfig.parse({"artifacts": (artifact,), "device": "cpu", "threads": 1, **more}, source="test")


def test_each_round_has_images_of_its_own_and_the_same_ones_again():
    sent = []
    images = np.random.default_rng(0).random((50, 1, 4, 4), dtype=np.float32)
    setting = Setting(way="split", target=0, batch=3, engine="torch", codec="fp32", link="loopback", window=5)
    runner = Runner(setting, {}, images, lambda batches: sent.append(np.array(batches)) or [])
    for turn in (0, 1, 0):
        assert runner.round(turn)[1] > 0
    assert sent[0].shape == (20, 3, 1, 4, 4)  # four windows full
    assert not np.array_equal(sent[0], sent[1])
    np.testing.assert_array_equal(sent[0], sent[2])


def test_a_cut_that_the_architecture_has_not_is_refused_before_anything_starts(artifact):
    with pytest.raises(ValueError, match=r"cut 9: .*cut at 1\.\.\d, got 9"), bench(config(artifact, cuts=(9,))):
        pass


def test_two_targets_of_one_name_are_refused(artifact):
    asked = config(artifact, artifacts=(artifact, artifact))
    with pytest.raises(ValueError, match=r"names of their own, got \['toy', 'toy'\]"), bench(asked):
        pass


@pytest.mark.parametrize("unknown", [{"links": ("carrier-pigeon",)}, {"device_profile": "abacus"}])
def test_an_unknown_profile_is_refused_before_anything_starts(artifact, unknown):
    with pytest.raises(ValueError, match=r"carrier-pigeon|abacus"), bench(config(artifact, **unknown)):
        pass


@pytest.mark.slow
def test_over_a_link_the_network_takes_its_round_trip_and_the_rest_is_unchanged(artifact):
    asked = config(artifact, engines=("torch",), links=("lte",), alternatives=False)
    with bench(asked) as (runner,):
        samples, _ = runner.round(0)
        assert (runner.facts["link"], runner.facts["cloud_engine"]) == ("lte", "torch")
    assert all(each["network_ms"] > 50 for each in samples)  # 70 both ways, but for jitter
    for each in samples:
        parts = sum(each[f"{part}_ms"] for part in ("encode", "serialise", "network", "queue", "compute"))
        assert parts == pytest.approx(each["total_ms"], abs=0.01)


def test_a_network_that_was_imported_has_no_further_cuts(tmp_path):
    inputs = {"image": (3, 16, 24)}
    whole = Network(prepare(export_module(Residual().eval(), inputs), Preprocessing(), inputs, {}, None))
    import_network(whole, whole.cuts()[0], tmp_path / "m", source="", name="mine", names=None, images=None)
    asked = config(tmp_path / "m", cuts=(2,))
    with pytest.raises(ValueError, match=r"cut 2: expected .*got 'mine', which was imported"), bench(asked):
        pass


@pytest.mark.slow
def test_an_emulated_device_packs_features_and_images_as_slowly_as_it_computes(artifact, monkeypatch):
    plain = codec.encode

    def slow(values, name):
        time.sleep(0.01)
        return plain(values, name)

    asked = config(artifact, engines=("torch",), device_profile="raspberry-pi-4")
    with bench(asked) as runners:
        monkeypatch.setattr(codec, "encode", slow)
        sent = {(each.setting.way, each.setting.codec): each.round(0)[0] for each in runners}
    assert sent.keys() == {("split", "fp32"), ("image", "uint8"), ("image", "fp32"), ("device", None)}
    assert all(each["serialise_ms"] >= 50 for key in sent if key[1] for each in sent[key])
