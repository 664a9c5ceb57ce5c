"""NoPeek: minimises the distance correlation between image and transmitted features."""

from pydantic import Field
from torch import Tensor

from splitleak.config import Config
from splitleak.defenses.base import Defense, Step
from splitleak.measures.dependence import distance_correlation


class NoPeekConfig(Config):
    """Weight and form of the penalty."""

    weight: float = Field(default=0.5, ge=0, description="lambda of the equation")
    squared: bool = Field(default=False, description="squared distances inside the correlation, as Titcombe et al.")


class NoPeek(Defense):
    r"""Adds the distance correlation between images and features sent to the task loss.

    .. math:: \mathrm{CE}(y, g(z)) + \lambda\,\mathrm{dCor}(x, z), \qquad z = f(x)

    Vepakomma et al., "NoPeek: information leakage reduction to share activations in distributed deep learning", 2020,
    arXiv:2008.09161; the row "DistCorr" of the published tables. Their row "Noise_NoPeek" is a stack of noise and this
    defense: Laplace noise in Titcombe et al., 2021, arXiv:2104.05743, Gaussian noise in the code of Xia et al., CEM,
    CVPR 2025.
    Shapes: images x ``(N, C, H, W)`` in [0, 1]; z ``(N, *cut)`` including the stack's noise, sent unchanged.
    Deviations from CEM's code: there x is normalised per channel and z is without noise; there the weight is divided by
    ten on every data set but CIFAR-10. Published weights: 0.05 to 1 (Titcombe et al.), 1 to 2 (ResSFL's baselines).
    """

    name = "nopeek"
    config_type = NoPeekConfig

    def __init__(self, config: NoPeekConfig) -> None:
        super().__init__(config)
        self.config = config

    def penalty(self, step: Step) -> Tensor | None:
        if self.config.weight == 0:
            return None
        return self.config.weight * distance_correlation(step.images, step.sent, squared=self.config.squared)
