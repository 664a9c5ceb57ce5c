"""Noise-ARL: adversarial representation learning in which the adversary gets the noisy features that are sent."""

from torch import Tensor

from splitleak.defenses.base import Step
from splitleak.defenses.features.adversary import AdversarialDefense, AdversaryConfig
from splitleak.models.split import SplitModel


class NoiseARLConfig(AdversaryConfig):
    """The adversary; the noise is another element of the stack."""


class NoiseARL(AdversarialDefense):
    """`AdversarialDefense` whose surrogate decoder gets the features as sent, with the noise of the stack.

    What a half can undo, as the order of a permutation, is undone for it.

    Jeong et al., "Noisy adversarial representation learning for effective and efficient image obfuscation", UAI 2023,
    for which there is no public code: adversarial representation learning with noise on the features. Deviation from
    the code of Xia et al., CEM, CVPR 2025: there the surrogate gets features without noise, so that its table row
    differs from ResSFL's only by the standard deviation of the noise (0.05 to 0.15).

    Raises:
        ValueError: The stack adds no noise.
    """

    name = "noise-arl"
    config_type = NoiseARLConfig

    def __init__(self, config: NoiseARLConfig) -> None:
        super().__init__(config)
        self.config = config

    def adversary_input(self, step: Step) -> Tensor:
        return step.undo(step.sent)

    def prepare(self, model: SplitModel, classes: int) -> None:
        if self.noise_variance_on_wire == 0:
            raise ValueError("noise-arl: expected noise in the stack (without any it is ressfl), got none")
        super().prepare(model, classes)
