import numpy as np
import pytest
import torch
from torch import nn

from defenses.adaptive import adaptive_model, bypasses_a_defense, features_before_head, white_box
from defenses.artifact import load_whole, save
from defenses.low_rank import LowRankHead
from defenses.training import train

CPU = torch.device("cpu")
NOISY_MID = {"name": "mid", "noise_at_test": True}


@pytest.fixture(scope="module")
def deployed(small_target, small_splits, tmp_path_factory):
    """``deployed(document)`` is the whole model of a target trained under one defense, or none."""

    @torch.enable_grad()
    def make(*defenses):
        folder = tmp_path_factory.mktemp("adaptive") / "a"
        save(folder, "a", train(small_target(*defenses, epochs=1), small_splits, device=CPU))
        return load_whole(folder, CPU, seed=0)

    return make


@pytest.fixture
def images(small_splits):
    return small_splits.victims.floats()


@torch.no_grad()
def test_a_low_rank_head_loses_its_tanh_and_keeps_its_weights(deployed, images):
    whole = deployed({"name": "low-rank", "rank": 4})
    head = whole.cloud.head[-1][-1]
    assert isinstance(head, LowRankHead)
    adaptive, features = adaptive_model(whole), features_before_head(whole)(images)
    assert features.shape == (len(images), 32)
    torch.testing.assert_close(adaptive(images), head.up(head.down(features)))
    torch.testing.assert_close(white_box(whole)(images), head.up(head.down(features).tanh()))
    assert isinstance(head.activation, nn.Tanh), "the deployed model was changed"
    assert bypasses_a_defense(whole)


@torch.no_grad()
def test_a_variational_head_takes_the_mean_of_its_code(deployed, images):
    whole = deployed(NOISY_MID)
    head = whole.cloud.head[-1][-1]
    adaptive = adaptive_model(whole)
    assert torch.equal(adaptive(images), adaptive(images))
    assert not np.array_equal(whole.predict(images.numpy()), whole.predict(images.numpy()))
    mean = head.posterior(features_before_head(whole)(images)).chunk(2, 1)[0]
    torch.testing.assert_close(adaptive(images), head.classifier(mean))
    assert bypasses_a_defense(whole)


@pytest.mark.parametrize("defense", ["mid", {"name": "low-rank", "activation": "identity"}, "bottleneck"])
@torch.no_grad()
def test_where_nothing_is_to_be_bypassed_the_model_comes_as_it_is(deployed, images, defense):
    whole = deployed(defense)
    assert not bypasses_a_defense(whole)
    torch.testing.assert_close(adaptive_model(whole)(images), torch.from_numpy(whole.predict(images.numpy())))
    assert features_before_head(whole)(images).shape == (len(images), 32)


def test_gradients_reach_the_image(deployed, images):
    pixels = images.requires_grad_()
    adaptive_model(deployed({"name": "low-rank", "rank": 4}))(pixels).sum().backward()
    assert bool(pixels.grad.flatten(1).any(1).all())
