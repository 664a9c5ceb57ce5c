import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from splitleak.artifacts import load_tensors, save_weights
from splitleak.attacker.base import Knowledge, Query, Run, build
from splitleak.attacker.likeness import Apart
from splitleak.attacker.outputs import Reconstructions, described, write_result
from splitleak.attacker.queries import Pairs
from splitleak.attacker.rebuilders import linear_gauge, saved_decoder
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.wire.files.captures import CaptureWriter
from splitleak.wire.protocol import codec
from splitleak.wire.protocol.paths import MODEL_INFER

TINY = {
    "decoder": {"epochs": 1, "channels": 8, "blocks": 1},
    "gan": {"epochs": 1, "decoder_epochs": 1, "channels": 8, "blocks": 1},
    "inverse-network": {"epochs": 1, "channels": 8},
    "linear": {},
}
TRAINED_ON = {"served": "toy", "apart": '{"distance": 2.5, "ratio": 0.5}'}


def shrunk(images):
    """Features (N, 4, 8, 8) of images (N, 1, 16, 16)."""
    return images.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).squeeze(1).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def attacked(tmp_path, small_splits):
    def run(name):
        public = small_splits.public.select(torch.arange(24))
        attack = build(ATTACKS, name, "cpu", TINY[name])
        captured = shrunk(small_splits.victims.floats()[:5])
        images = public.floats()
        known = Knowledge(captured, (1, 16, 16), public=images, query=Query(shrunk))
        made = Reconstructions(tuple("abcde"), attack(known, Run()))
        about = described(attack, known, public, seed=0, views=1)
        write_result(
            tmp_path / name,
            attack,
            made,
            known,
            about,
            trained_on=lambda: {"served": "toy", "apart": '{"distance": 2.5, "ratio": 0.5}'},
        )
        return tmp_path / name, captured, made.images

    return run


@pytest.mark.parametrize("name", ["decoder", "gan", "inverse-network"])
def test_a_saved_decoder_rebuilds_what_the_attack_rebuilt(attacked, name):
    folder, captured, expected = attacked(name)
    found = saved_decoder(folder)
    assert (found.name, found.feature_shape) == (name, (4, 8, 8))
    assert torch.allclose(found.rebuild(captured).clamp(0, 1), expected, atol=1e-5)


def test_the_capture_and_the_target_of_others_are_refused(attacked, tmp_path):
    found = saved_decoder(attacked("inverse-network")[0])
    assert (found.served, found.apart) == ("toy", Apart(2.5, 0.5))
    capture = tmp_path / "tap.capture"
    with CaptureWriter(capture) as writer:
        found.check_capture(capture)  # nothing is known so far
        for shape in ((1, 2, 8, 8), (1, 4, 8, 8)):
            message = codec.request("toy", codec.encode(np.ones(shape, np.float32), "fp32"), request_id=str(shape))
            writer.write(MODEL_INFER, 1, "request", message.SerializeToString())
            if shape[1] == 2:
                with pytest.raises(ValueError, match="takes features of 4 × 8 × 8, and these are of 2 × 8 × 8"):
                    found.check_capture(capture)
    found.check_capture(capture)  # some are of the target
    half = SimpleNamespace(name="theirs", feature_shape=(4, 8, 8), digest="abc")
    found.check_target(half)
    replace(found, edge="abc").check_target(half)
    with pytest.raises(ValueError, match="for the target theirs, whose edge half has the digest abc; it attacked xyz"):
        replace(found, edge="xyz").check_target(half)
    half.feature_shape = (3,)
    with pytest.raises(ValueError, match=r"target theirs; the inverse-network takes features of .* of 3"):
        found.check_target(half)


def test_what_is_no_decoder_is_refused_by_name(attacked, tmp_path):
    folder, *_ = attacked("linear")
    with pytest.raises(ValueError, match="expected an attack that trains a decoder, got 'linear'"):
        saved_decoder(folder)
    with pytest.raises(FileNotFoundError, match="expected a folder that `splitleak attack` wrote"):
        saved_decoder(tmp_path / "nothing")
    weights = folder / "weights.safetensors"
    save_weights(weights, load_tensors(weights)[0])
    with pytest.raises(ValueError, match="`attack --force` writes them anew"):
        saved_decoder(folder)
    about = json.loads((folder / "attack.json").read_text())
    (folder / "attack.json").write_text(json.dumps({**about, "attack": "gmi"}))
    with pytest.raises(ValueError, match="expected an attack on features, got 'gmi'"):
        saved_decoder(folder)


@pytest.mark.parametrize(("setting", "value"), [("channels", 50_000), ("channels", 2**40), ("blocks", 2**31)])
def test_settings_of_a_network_that_the_weights_are_not_of_take_no_memory(attacked, setting, value):
    """50,000 channels are weights of 90 GB."""
    folder, *_ = attacked("decoder")
    about = json.loads((folder / "attack.json").read_text())
    about["config"][setting] = value
    (folder / "attack.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"expected (weights of|the settings of) 'decoder'"):
        saved_decoder(folder)


def test_a_gauge_of_recorded_queries_rebuilds_better_than_the_mean_picture(small_splits, tmp_path):
    public, victims = small_splits.public, small_splits.victims.floats()
    Pairs(shrunk(public.floats()).unsqueeze(0), tuple(public.hashes()), "probe-", 1).save(tmp_path / "pairs.npz")
    found = linear_gauge(public, pairs=tmp_path / "pairs.npz")
    error = (found.rebuild(shrunk(victims)) - victims).square().mean()
    assert found.feature_shape == (4, 8, 8)
    assert error < 0.2 * (public.floats().mean(0) - victims).square().mean()
    with pytest.raises(ValueError, match="expected either an encoder or recorded queries"):
        linear_gauge(public)
    with pytest.raises(ValueError, match="expected queries with the images"):
        linear_gauge(replace(public, pixels=255 - public.pixels), pairs=tmp_path / "pairs.npz")


def test_a_gauge_of_recorded_queries_tells_how_the_values_of_a_vector_lay(small_splits, tmp_path):
    public, victims = small_splits.public, shrunk(small_splits.victims.floats())
    sent = shrunk(public.floats())
    found = []
    for name, answers in {"maps": sent, "vectors": sent.flatten(1)}.items():
        path = tmp_path / f"{name}.npz"
        Pairs(answers[None], tuple(public.hashes()), "probe-", 1).save(path)
        found.append(linear_gauge(public, pairs=path))
    maps, vectors = found
    assert vectors.feature_shape == (256,)
    torch.testing.assert_close(vectors.rebuild(victims.flatten(1)), maps.rebuild(victims))
