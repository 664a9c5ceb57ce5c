"""What the checks are made with: few small images, small networks, and ways to say what is not kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, Splits, split
from splitleak.models import ArchitectureName
from splitleak.models.split import ModelConfig, SplitModel, build

CPU = torch.device("cpu")
CLASSES = 10


@cache
def small_splits() -> Splits:
    """Built-in images at 16 × 16, few enough to train on in a second."""
    return split(load("builtin").fitted(16, 1), SplitConfig(train=600, public=300, victims=40, test=300))


def small_network(architecture: ArchitectureName = "cnn") -> SplitModel:
    """An untrained network for `small_splits`, whose weights are drawn from torch's global stream."""
    return build(ModelConfig(architecture=architecture, width=0.5, channels=1, size=16, classes=CLASSES))


@cache
def undefended(architecture: ArchitectureName = "cnn") -> SplitModel:
    """The same with fixed weights, in eval mode."""
    with drawn_from(0):
        return small_network(architecture).requires_grad_(False).eval()


@cache
def classifier() -> nn.Module:
    """A softmax regression on the training images of `small_splits`."""
    images, labels = small_splits().train.floats(), small_splits().train.labels
    with drawn_from(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.requires_grad_(False).eval()


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Torch's global stream begins at ``seed`` in the block, and goes on behind it as if nothing had been drawn."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


@contextmanager
def refused(error: type[Exception], *words: str) -> Iterator[None]:
    """The block is to raise ``error`` with all of the words in its message.

    Raises:
        AssertionError: It raises nothing, or another message.
    """
    said = None
    try:
        yield
    except error as raised:
        said = str(raised)
    assert said is not None, f"expected {error.__name__} with {words}, got none"
    missing = [word for word in words if word not in said]
    assert not missing, f"expected an error with {missing}, got {said}"


def same(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)
