import pytest
import torch

from splitleak.defenses.base import Step
from splitleak.defenses.features.nopeek import NoPeek, NoPeekConfig
from splitleak.defenses.training import train
from splitleak.measures.dependence import distance_correlation

CPU = torch.device("cpu")


def step(images, features, sent):
    return Step(images, torch.zeros(len(images)).long(), features, sent, torch.empty(0), 0, 0.1)


@pytest.mark.parametrize("squared", [False, True])
def test_the_penalty_is_the_weighted_correlation_of_image_and_what_is_sent(squared):
    draw = torch.Generator().manual_seed(0)
    images, features = torch.rand(9, 3, 8, 8, generator=draw), torch.rand(9, 4, 2, 2, generator=draw)
    sent = features + torch.rand(9, 4, 2, 2, generator=draw)
    found = NoPeek(NoPeekConfig(weight=0.7, squared=squared)).penalty(step(images, features, sent))
    torch.testing.assert_close(found, 0.7 * distance_correlation(images, sent, squared=squared))
    assert found != 0.7 * distance_correlation(images, features, squared=squared)


def dependence(target, images):
    with torch.no_grad():
        return float(distance_correlation(images, target.model.encoder(images)))


def test_training_with_it_reduces_the_distance_correlation_of_features_and_images(small_target, small_splits):
    images = small_splits.test.floats()
    plain = train(small_target(epochs=4), small_splits, device=CPU)
    protected = train(small_target({"name": "nopeek", "weight": 2}, epochs=4), small_splits, device=CPU)
    assert dependence(protected, images) < dependence(plain, images) - 0.1
    history = [figures["penalty"] for figures in protected.record["history"]]
    assert history[-1] < history[0]
