import pytest
import torch
from torchvision.transforms.v2.functional import normalize

from splitleak.datasets.statistics import Normalisation, normalisation
from splitleak.models.normalise import Normalise


def test_images_are_normalised_as_torchvision_does():
    known = normalisation("cifar10", 3)
    images = torch.rand(4, 3, 5, 7)
    expected = normalize(images, list(known.mean), list(known.std))
    torch.testing.assert_close(Normalise(3, known)(images), expected)


def test_without_statistics_nothing_changes():
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(Normalise(1)(images), images)


def test_statistics_are_state_but_not_parameters():
    layer = Normalise(1, Normalisation(mean=(0.25,), std=(0.5,)))
    assert list(layer.parameters()) == []
    with torch.device("meta"):
        empty = Normalise(1)
    empty.load_state_dict(layer.state_dict(), assign=True)
    images = torch.rand(2, 1, 4, 4)
    assert torch.equal(empty(images), layer(images))


@pytest.mark.parametrize(
    ("channels", "mean", "std", "message"),
    [
        (3, (0.5,), (0.5,), "expected a mean of 3 values, one a channel, got"),
        (1, (0.5,), (0.5, 0.5), "expected a std of 1 values, one a channel, got"),
        (1, (0.5,), (0.0,), "expected positive deviations, got"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(channels, mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalise(channels, Normalisation(mean=mean, std=std))
