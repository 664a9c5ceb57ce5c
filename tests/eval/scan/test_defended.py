import pytest
import torch

from splitleak.attacker.training.layout import Layout
from splitleak.eval.scan.defended import bottleneck, defenses, noise, plain

SAMPLE = torch.randn(40, 6, 4, 4, generator=torch.Generator().manual_seed(0))


def test_noise_is_of_the_features_own_deviation():
    sent = noise([(6, 4, 4)], 3 * SAMPLE, 0.5, seed=0)
    difference = sent.defend(SAMPLE) - SAMPLE
    assert float(difference.std()) == pytest.approx(1.5, rel=0.1)
    assert not torch.equal(sent.defend(SAMPLE) - SAMPLE, difference)  # fresh at each call
    assert torch.equal(noise([(6, 4, 4)], 3 * SAMPLE, 0.5, seed=0).defend(SAMPLE) - SAMPLE, difference)


def test_a_bottleneck_keeps_the_components_of_the_largest_variance():
    sample = SAMPLE.clone()
    sample[:, 2] *= 100
    sent = bottleneck([(6, 4, 4)], sample, 1, Layout([(6, 4, 4)], (16, 16)), seed=0)
    kept = sent.defend(sample)
    assert sent.shapes == ((1, 4, 4),)
    assert float(torch.corrcoef(torch.stack([kept.flatten(), sample[:, 2].flatten()]))[0, 1].abs()) > 0.99


def test_a_vector_longer_than_the_sample_is_narrowed_to_as_many_components_as_there_are():
    sample = SAMPLE.flatten(1)
    sent = bottleneck([(96,)], sample, 50, Layout([(96,)], (16, 16)), seed=0)
    assert sent.defend(sample).shape == (40, 40, 1, 1)
    assert sent.shapes == ((40, 1, 1),)


def test_what_has_no_more_channels_is_left_as_it_is():
    found = defenses([(6, 4, 4)], SAMPLE, (16, 16), (), sigmas=(1.0,), channels=(6, 2), seed=0)
    assert [each.name for each in found] == ["noise 1", "bottleneck 2"]
    assert torch.equal(plain([(6, 4, 4)]).defend(SAMPLE), SAMPLE)
