"""Noise injection: additive Gaussian or Laplace noise on the features sent, in training and at inference."""

import torch
from pydantic import Field
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense


class GaussianNoiseConfig(Config):
    """Scale of the noise."""

    sigma: float = Field(default=0.1, ge=0, description="standard deviation, in units of the feature")


class GaussianNoise(Defense):
    r"""Gaussian noise injection: adds :math:`\varepsilon \sim N(0, \sigma^2)` to every value, redrawn at every call.

    He et al., "Model inversion attacks against collaborative inference", ACSAC 2019 (there at inference only);
    Xia et al., CEM, CVPR 2025 (in training too, as here). The README of CEM's code calls its parameter a variance;
    it is used as a standard deviation, as here.
    """

    name = "gaussian-noise"
    config_type = GaussianNoiseConfig
    randomised = True

    def __init__(self, config: GaussianNoiseConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def noise_variance(self) -> float:
        return self.config.sigma**2

    def forward(self, features: Tensor) -> Tensor:
        noise = torch.empty_like(features).normal_(generator=self.generator)
        return features + self.config.sigma * noise


class LaplaceNoiseConfig(Config):
    """Scale of the noise."""

    scale: float = Field(default=0.1, ge=0, description="scale b; the standard deviation is b times the root of 2")


class LaplaceNoise(Defense):
    r"""Adds Laplace noise, density :math:`\exp(-|\varepsilon|/b)/2b`, to every value, redrawn at every call.

    Titcombe et al., "Practical defences against model inversion attacks for split neural networks", 2021,
    arXiv:2104.05743. Its variance is :math:`2b^2`.
    """

    name = "laplace-noise"
    config_type = LaplaceNoiseConfig
    randomised = True

    def __init__(self, config: LaplaceNoiseConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def noise_variance(self) -> float:
        return 2 * self.config.scale**2

    def forward(self, features: Tensor) -> Tensor:
        # The difference of two exponentials of mean b is Laplace of scale b.
        first = torch.empty_like(features).exponential_(generator=self.generator)
        second = torch.empty_like(features).exponential_(generator=self.generator)
        return features + self.config.scale * (first - second)
