"""ResSFL: adversarial training of the encoder against a decoder that is trained jointly to invert it."""

from splitleak.defenses.features.adversary import AdversarialDefense, AdversaryConfig


class ResSFLConfig(AdversaryConfig):
    """The adversary; the defaults are those of CEM's tables for CIFAR-10."""


class ResSFL(AdversarialDefense):
    """`AdversarialDefense` whose surrogate decoder gets the features without the noise of the stack.

    Li et al., "ResSFL: a resistance transfer framework for defending model inversion attack in split federated
    learning", CVPR 2022; weight, threshold and steps as in Xia et al., CEM, CVPR 2025 (threshold 0.6 on FaceScrub and
    TinyImageNet). Deviations beside those of `AdversarialDefense`: one encoder, trained from scratch, as in CEM's
    tables, where the paper transfers from an "expert"; noise on the features is another element of the stack.
    """

    name = "ressfl"
    config_type = ResSFLConfig

    def __init__(self, config: ResSFLConfig) -> None:
        super().__init__(config)
        self.config = config
