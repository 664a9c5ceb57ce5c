import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.attacker.base import Query
from splitleak.attacker.class_inversion.base import ClassKnowledge


@pytest.fixture(scope="session")
def searched(tiny_prior, small_splits):
    """All that an attack may know of a small network that knows the training images."""
    torch.manual_seed(0)
    images, labels = small_splits.train.floats(), small_splits.train.labels
    layers = (
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.requires_grad_(False).eval()
    return ClassKnowledge(
        image_shape=(1, 16, 16),
        classes=10,
        public=small_splits.public.floats(),
        query=Query(lambda asked: model(asked).softmax(1)),
        labels=small_splits.public.labels,
        model=model,
        prior=tiny_prior,
    )
