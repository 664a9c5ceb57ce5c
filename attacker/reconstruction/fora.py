"""FORA: a substitute of the encoder whose features of public images are like the captured ones, and its inverse."""

from pydantic import Field
from torch import Tensor

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.reconstruction.descent import decoder_of, encode_public
from splitleak.attacker.training.alignment import AlignmentConfig, align, discrepancy, evening
from splitleak.attacker.training.fitting import crossed, predict


class ForaConfig(AlignmentConfig):
    """The substitute's training, and that of its inverse."""

    discrepancy_weight: float = Field(default=1.0, ge=0, description="of the MK-MMD in the encoder's loss")
    decoder_epochs: int = Field(default=12, ge=1, description="training of the inverse network")


class ForaAttack(Attack):
    """Without a query, a weight or a label: what the cloud sees by itself, and the edge's architecture.

    Xu et al., "A stealthy wrongdoer: feature-oriented reconstruction attack against split learning", CVPR 2024
    (arXiv:2405.04115). A substitute encoder is trained so that neither a critic nor the maximum mean discrepancy tells
    its features of public images from the captured ones ``(N, *cut)``; a decoder is trained on the substitute's pairs,
    and applied to what was captured. Nothing says that a feature means the same to both, only that all together are
    distributed alike: the more is captured, and the more alike public and private images are, the better.
    Deviations: the attacker has the features that crossed the wire, not a whole training's; the critic has a hinge
    loss; the inverse network is `decoder`'s, and where the cloud's half tells that noise or dropout is drawn on the
    wire, its pairs are the substitute's features behind that, drawn anew for each epoch. The alignment has them clean.
    Critic and discrepancy see features whose variance is not in 0.001 to 10 scaled to a variance of 1, and a few
    channels that drown the others brought down to these.
    """

    name = "fora"
    config_type = ForaConfig
    needs = frozenset({"public", "fresh_encoder"})
    config: ForaConfig

    @classmethod
    def paper_config(cls) -> ForaConfig:
        """In kind: a long alignment of batches of 64 at 1e-4, and 50 epochs of the inverse network."""
        return ForaConfig(
            iterations=20_000,
            batch_size=64,
            learning_rate=1e-4,
            critic_learning_rate=1e-4,
            critic_width=64,
            decoder_epochs=50,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        unit = evening(known).to(run.device)

        def further(_: Tensor, features: Tensor, captured: Tensor, __: float) -> Tensor:
            return self.config.discrepancy_weight * discrepancy(unit * features, unit * captured)

        encoder, history = align(self.name, known, self.config, run, further)
        features = encode_public(self.name, encoder, known, run.device)[0]
        answers = crossed(features, known, self.config.decoder_epochs, run.seed)
        self.network = decoder_of(self.config.decoder_epochs, answers, known.public, known, run)
        self.findings = {"history": history, **{f"{key}_end": value for key, value in history[-1].items()}}
        return predict(self.network, known.captured, run.device)
