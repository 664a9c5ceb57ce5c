from collections.abc import Callable

import pytest

from splitleak.datasets.splits import Splits
from splitleak.defenses.stack import DefenseConfig
from splitleak.defenses.training import TargetConfig, TrainingConfig
from splitleak.models.split import ModelConfig


@pytest.fixture(scope="session")
def small_target(small_splits: Splits) -> Callable[..., TargetConfig]:
    """Makes configs of a narrow network on the small images; defenses are names or documents."""

    def make(*defenses, seed=0, **training) -> TargetConfig:
        documents = ({"name": each} if isinstance(each, str) else each for each in defenses)
        return TargetConfig(
            model=ModelConfig(
                architecture="cnn", width=0.5, channels=1, size=16, classes=len(small_splits.train.classes)
            ),
            defenses=tuple(DefenseConfig.model_validate(document) for document in documents),
            training=TrainingConfig(**{"epochs": 2, "batch_size": 64, **training}),
            seed=seed,
        )

    return make
