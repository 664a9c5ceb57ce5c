"""ResSFL: train the encoder against a decoder that learns, at the same time, to invert it."""

from splitleak.defenses.features.adversary import AdversarialDefense, AdversaryConfig


class ResSFLConfig(AdversaryConfig):
    """Strength of the game; the defaults are those of CEM's tables for CIFAR-10."""


class ResSFL(AdversarialDefense):
    """The game of `AdversarialDefense`, in which the surrogate sees the features without any noise of the stack.

    Li et al., "ResSFL: a resistance transfer framework for defending model inversion attack in split federated
    learning", CVPR 2022; weight, threshold and steps as in Xia et al., CEM, CVPR 2025 (threshold 0.6 on FaceScrub and
    TinyImageNet). Deviations beside those of the game: one encoder, trained from scratch, as in CEM's tables, where
    the paper's transfers from an "expert"; noise on what is sent is another element of the stack.
    """

    name = "ressfl"
    config_type = ResSFLConfig

    def __init__(self, config: ResSFLConfig) -> None:
        super().__init__(config)
        self.config = config
