from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from splitleak.config import Config
from splitleak.defenses.artifact import load_whole, save
from splitleak.defenses.base import Defense
from splitleak.defenses.classes.adaptive import adaptive_model, feature_extractor, white_box
from splitleak.defenses.classes.low_rank import LowRankHead
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import train

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
def test_the_feature_extractor_removes_a_low_rank_head_completely(deployed, images):
    whole = deployed({"name": "low-rank", "rank": 4})
    head, features = whole.cloud.head[-1][-1], feature_extractor(white_box(whole))(images)
    assert isinstance(head, LowRankHead)
    assert features.shape == (len(images), 32)
    torch.testing.assert_close(white_box(whole)(images), head(features))


def test_the_backward_pass_bypasses_the_tanh_of_a_low_rank_head_and_the_forward_pass_does_not(deployed, images):
    whole = deployed({"name": "low-rank", "rank": 4})
    head, model = whole.cloud.head[-1][-1], white_box(whole)
    through, without = (pixels.clone().requires_grad_() for pixels in (images, images))
    found = adaptive_model(whole)(through)
    assert torch.equal(found, model(images))
    found.sum().backward()
    head.up(head.down(feature_extractor(model)(without))).sum().backward()
    torch.testing.assert_close(through.grad, without.grad)
    assert isinstance(head.activation, nn.Tanh), "the deployed model was changed"


@torch.no_grad()
def test_features_are_the_input_of_the_layer_that_computes_logits(images):
    pixels, layer = nn.Flatten(), nn.Linear(256, 3)
    model = nn.Sequential(pixels, nn.Sequential(layer))
    torch.testing.assert_close(feature_extractor(model)(images), pixels(images))
    assert model[1][0] is layer, "the model was changed"
    with pytest.raises(ValueError, match="layer or the head of a defense, got Softmax"):
        feature_extractor(nn.Sequential(model, nn.Softmax(1)))
    with pytest.raises(ValueError, match="expected a head of several layers, got Linear"):
        feature_extractor(layer)


@torch.no_grad()
def test_a_variational_head_takes_the_mean_of_its_code(deployed, images):
    whole = deployed(NOISY_MID)
    head = whole.cloud.head[-1][-1]
    adaptive = adaptive_model(whole)
    assert torch.equal(adaptive(images), adaptive(images))
    assert not np.array_equal(whole.predict(images.numpy()), whole.predict(images.numpy()))
    mean = head.posterior(feature_extractor(white_box(whole))(images)).chunk(2, 1)[0]
    torch.testing.assert_close(adaptive(images), head.classifier(mean))


@pytest.mark.parametrize("defense", ["mid", {"name": "low-rank", "activation": "identity"}, "bottleneck"])
@torch.no_grad()
def test_without_obfuscated_gradients_the_adaptive_model_is_the_white_box(deployed, images, defense):
    whole = deployed(defense)
    torch.testing.assert_close(adaptive_model(whole)(images), torch.from_numpy(whole.predict(images.numpy())))
    assert feature_extractor(white_box(whole))(images).shape == (len(images), 32)


def test_gradients_reach_the_image(deployed, images):
    pixels = images.requires_grad_()
    adaptive_model(deployed({"name": "low-rank", "rank": 4}))(pixels).sum().backward()
    assert bool(pixels.grad.flatten(1).any(1).all())


@pytest.mark.parametrize(
    ("document", "attacks"),
    [
        ({"name": "low-rank"}, {"gradients", "features"}),
        ({"name": "low-rank", "activation": "identity"}, {"features"}),
        (NOISY_MID, {"gradients", "features"}),
        ({"name": "mid"}, {"features"}),
        ({"name": "label-smoothing"}, set()),
    ],
)
def test_a_defense_says_which_adaptive_attacks_there_are_on_its_head(document, attacks):
    assert DefenseConfig.model_validate(document).adaptive_attacks == attacks


@pytest.mark.parametrize("name", ["permutation", {"name": "quantisation", "levels": 2}])
@torch.no_grad()
def test_the_white_box_answers_as_deployed_where_chance_plays_no_part(deployed, images, name):
    """Its head is trained on what is sent: on what the encoder alone gives, it would be another classifier."""
    whole = deployed(name)
    answers = torch.from_numpy(whole.predict(images.numpy()))
    torch.testing.assert_close(white_box(whole)(images), answers)
    bare = whole.cloud.head(whole.edge.encoder(images))
    assert not torch.allclose(bare, answers, atol=0.01)


@torch.no_grad()
def test_the_white_box_answers_as_deployed_does_of_the_mean_of_a_mask(deployed, images):
    whole = deployed({"name": "dropout", "rate": 0.5})
    assert torch.equal(white_box(whole)(images), whole.cloud.head(whole.edge.encoder(images) / 2))


class Rounding(Defense):
    name = "rounding"

    def forward(self, features):
        return (8 * features).round() / 8


def test_a_defense_that_lets_no_gradient_through_is_passed_straight_on_the_way_back(deployed, images):
    whole = deployed({"name": "gaussian-noise", "sigma": 0.1})
    rounding = replace(whole, edge=replace(whole.edge, stack=Stack([Rounding(Config())])))
    model = white_box(rounding)
    assert torch.equal(model(images), whole.cloud.head(Rounding(Config())(whole.edge.encoder(images))))
    asked = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(asked)[:, 0].sum(), asked)
    assert bool(slope.flatten(1).any(1).all())
