"""Dropout of the features sent, in training and at inference."""

import torch
from pydantic import Field
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense


class DropoutConfig(Config):
    """Dropout rate."""

    rate: float = Field(default=0.2, ge=0, lt=1, description="probability that a value is zeroed")


class Dropout(Defense):
    """Zeroes each value with probability ``rate``, without rescaling the others; a new mask at every call.

    He et al., ACSAC 2019; Xia et al., CEM, CVPR 2025. Deviation from CEM's code: there only the classifier gets masked
    features and the attacker the unmasked ones; here the masked features are sent, so both get them.
    """

    name = "dropout"
    config_type = DropoutConfig
    randomised = True

    def __init__(self, config: DropoutConfig) -> None:
        super().__init__(config)
        self.config = config

    def forward(self, features: Tensor) -> Tensor:
        uniform = torch.empty_like(features).uniform_(generator=self.generator)
        return features * (uniform >= self.config.rate)

    def expected(self, features: Tensor) -> Tensor:
        return (1 - self.config.rate) * features

    def undone(self, sent: Tensor, crossings: int = 1) -> Tensor:
        """Of what was not zeroed each time, the mean is the encoder's: once, that is what it is already."""
        rate = self.config.rate
        return sent * ((1 - rate**crossings) / (1 - rate))
