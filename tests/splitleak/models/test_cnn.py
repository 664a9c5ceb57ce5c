import pytest
import torch
from torch.nn import functional

from splitleak.models.split import ModelConfig, build


@pytest.mark.parametrize(("cut", "feature"), [(1, (16, 16, 16)), (2, (32, 8, 8)), (3, (64, 4, 4))])
def test_each_position_halves_the_side(cut, feature):
    assert build(ModelConfig(architecture="cnn", channels=1, size=32, classes=4, cut=cut)).feature_shape == feature


def test_it_learns_two_classes_in_a_few_steps():
    torch.manual_seed(0)
    model = build(ModelConfig(architecture="cnn", channels=1, size=8, classes=2, width=0.5))
    labels = torch.arange(32) % 2
    images = (0.5 + 0.3 * torch.randn(32, 1, 8, 8)) * labels.view(-1, 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model(images).argmax(1) == labels).all()
