"""Quantisation: features are sent in a few levels, in training and at inference."""

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense


class QuantisationConfig(Config):
    """Number and range of the levels."""

    levels: int = Field(default=4, ge=2, le=256, description="that a value may have, evenly spaced")
    low: float = Field(default=0.0, description="the lowest; values below it are sent as it")
    high: float = Field(default=1.0, description="the highest")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"expected the lowest level below the highest, got {self.low:g} and {self.high:g}")
        return self


class Quantisation(Defense):
    r"""Rounds every value to the nearest of ``levels`` between ``low`` and ``high``.

    .. math:: l + \frac{h - l}{L - 1} \mathrm{round}\Big((L - 1)\frac{\mathrm{clamp}(z, l, h) - l}{h - l}\Big)

    The gradient passes as if nothing were rounded or clamped (straight through; Hubara et al., "Quantized neural
    networks", JMLR 2018). The defaults suit a bottleneck's sigmoid. It is a function of the feature: the same picture
    is sent as the same values. The codec ``uint8`` is another thing: 256 levels over the range of each message, not
    trained with.
    """

    name = "quantisation"
    config_type = QuantisationConfig

    def __init__(self, config: QuantisationConfig) -> None:
        super().__init__(config)
        self.config = config

    def forward(self, features: Tensor) -> Tensor:
        low, high = self.config.low, self.config.high
        step = (high - low) / (self.config.levels - 1)
        rounded = low + step * ((features.detach().clamp(low, high) - low) / step).round()
        return rounded + (features - features.detach())  # zero, with the gradient of the feature
