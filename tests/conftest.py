import pytest
import torch

from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, Splits, split


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_splits() -> Splits:
    """Built-in images at 16 × 16, few enough to train on in a second."""
    return split(load("builtin").fitted(16, 1), SplitConfig(train=600, public=300, victims=40, test=300))
