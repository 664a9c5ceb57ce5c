import pytest

from splitleak.datasets import load
from splitleak.datasets.statistics import normalisation


def test_the_built_in_sets_constants_are_its_own_statistics():
    pixels = load("builtin").train.floats()
    found = normalisation("builtin", 1)
    assert found.mean[0] == pytest.approx(float(pixels.mean()), abs=0.01)
    assert found.std[0] == pytest.approx(float(pixels.std()), abs=0.01)


def test_channels_are_matched_and_an_unknown_set_is_centred():
    assert len(normalisation("builtin", 3).mean) == 3
    assert len(normalisation("cifar10_5k", 1).mean) == 1
    assert normalisation("holiday", 3).mean == (0.5, 0.5, 0.5)
