from dataclasses import replace

import pytest
import torch
from torch import nn

from splitleak.models.cnn import CNN
from splitleak.testing import ArchitectureSubject, check_architecture
from splitleak.testing import architectures as checks


class Unused(nn.Linear):
    def forward(self, features):
        return features


def with_unused(*given):
    positions, classifier = CNN.build(*given)
    return positions, nn.Sequential(classifier, Unused(2, 2))


def of_one_size(channels, classes, width, size):
    layer = nn.Sequential(nn.Conv2d(channels, 2, 3, padding=1), nn.ReLU())
    return [layer], nn.Sequential(nn.Flatten(), nn.Linear(2 * 32 * 32, classes))


def of_its_own_stream(*given):
    positions, classifier = CNN.build(*given)
    own = torch.Generator()
    own.seed()
    nn.init.normal_(classifier[2].weight, generator=own)
    return positions, classifier


@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"about": " "}, checks.it_says_what_it_is, "does not say"),
        ({"build": with_unused}, checks.the_gradient_reaches_every_weight, "no gradient reaches"),
        (
            {"build": of_one_size, "positions": 1, "default_cut": 1},
            checks.any_size_and_width_gives_logits,
            "do not pass",
        ),
        ({"build": of_its_own_stream}, checks.one_seed_gives_one_model, "two models"),
    ],
)
def test_what_an_architecture_does_not_keep_is_named(changes, check, said):
    with pytest.raises(AssertionError, match=said):
        check(ArchitectureSubject(replace(CNN, **changes)))


def test_an_architecture_that_keeps_all_of_it_passes():
    check_architecture(CNN)
