"""SDAR: a simulator of the encoder, trained on labels and against a critic of captured features, and its inverse."""

import copy
import math

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.training.alignment import AlignmentConfig, align, evening
from splitleak.attacker.training.critic import PatchCritic, hinge
from splitleak.attacker.training.fitting import cosine, predict, rebuilding_loss, set_rate, step
from splitleak.models.decoder import decoder_for
from splitleak.seeding import seeded
from splitleak.training.modules import freeze

_BETAS = (0.5, 0.99)


class SdarConfig(AlignmentConfig):
    """The simulator's training, and that of its inverse beside it."""

    blocks: int = Field(default=2, ge=0, description="residual blocks of the decoder")
    channels: int = Field(default=32, ge=1, description="of the decoder")
    decoder_learning_rate: float = Field(default=2e-3, gt=0)
    ssim_weight: float = Field(default=0.02, ge=0, description="weight of 1 - SSIM beside the MSE")
    label_weight: float = Field(default=1.0, ge=0, description="of the cross-entropy in the simulator's loss")
    picture_weight: float = Field(
        default=3e-4, ge=0, description="of the picture critic's answer on captured features, beside the MSE"
    )
    picture_critic_width: int = Field(default=8, ge=1)


class SdarAttack(Attack):
    """Without a query or a weight of the edge: labels, and where the attacker is the cloud, its own head, guide it.

    Zhu et al., "Passive inference attacks on split learning via adversarial regularization", NDSS 2025
    (arXiv:2310.10483). A simulator of the encoder is trained so that the head classifies its features of public images,
    and so that a critic cannot tell these from captured ones. Beside it a decoder learns to rebuild public images from
    the simulator's features, while a second critic tells those pictures from what it makes of captured features, which
    the decoder is to prevent. It is then applied to what was captured ``(N, *cut)``. ``head`` is optional: without it
    the simulator has a linear head of its own, and only the critic ties it to the edge.
    Deviations: the model is trained and does not change under attack; critics have hinge losses, and are not told
    labels, which captured features do not have here; features whose variance is not in 0.001 to 10 are scaled to a
    variance of 1, and a few channels that drown the others brought down to these, but for the cloud's head.
    """

    name = "sdar"
    config_type = SdarConfig
    needs = frozenset({"public", "labels", "fresh_encoder"})
    config: SdarConfig

    @classmethod
    def paper_config(cls) -> SdarConfig:
        """In kind: 20,000 iterations of batch 128, at 1e-3 for the simulator, 5e-4 for the decoder."""
        return SdarConfig(
            iterations=20_000,
            batch_size=128,
            learning_rate=1e-3,
            critic_learning_rate=5e-4,
            critic_width=64,
            adversarial_weight=0.04,
            blocks=8,
            channels=64,
            decoder_learning_rate=5e-4,
            ssim_weight=0,
            picture_weight=1e-5,
            picture_critic_width=64,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        assert known.labels is not None
        config, images, labels = self.config, known.public.to(run.device), known.labels.to(run.device)
        shape = tuple(known.captured.shape[1:])
        with seeded(run.seed, self.name, "decoder"):
            decoder = decoder_for(
                shape, known.image_shape, blocks=config.blocks, channels=config.channels, parts=known.parts
            ).to(run.device)
            critic = PatchCritic(known.image_shape, config.picture_critic_width).to(run.device)
            own = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), int(labels.max()) + 1)).to(run.device)
        decoder.adapt(known.captured)
        unit = evening(known).to(run.device) if known.head is None else 1.0  # the cloud's head takes them as they are
        head = own if known.head is None else freeze(copy.deepcopy(known.head), run.device)
        trained = [*decoder.parameters(), *(own.parameters() if known.head is None else ())]
        rebuilding = Adam(trained, lr=config.decoder_learning_rate)
        judging = Adam(critic.parameters(), lr=config.critic_learning_rate, betas=_BETAS)

        def further(rows: Tensor, features: Tensor, captured: Tensor, share: float) -> Tensor:
            set_rate(rebuilding, config.decoder_learning_rate * cosine(share))
            set_rate(judging, config.critic_learning_rate * cosine(share))
            decoder.train()
            rebuilt, of_captured = decoder(features.detach()), decoder(captured)
            step(judging, hinge(critic(rebuilt.detach()), critic(of_captured.detach())))
            critic.requires_grad_(False)
            loss = rebuilding_loss(rebuilt, images[rows], config.ssim_weight)
            loss = loss - config.picture_weight * critic(of_captured).mean()
            if known.head is None:
                loss = loss + functional.cross_entropy(own(unit * features.detach()), labels[rows])
            step(rebuilding, loss)
            critic.requires_grad_(True)
            return config.label_weight * functional.cross_entropy(head(unit * features), labels[rows])

        _, history = align(
            self.name,
            known,
            config,
            run,
            further,
            modules={"decoder": decoder, "pictures": critic, "head": own},
            optimizers={"rebuilding": rebuilding, "judging": judging},
        )
        self.network = decoder
        self.findings = {"history": history, **{f"{key}_end": value for key, value in history[-1].items()}}
        return predict(decoder, known.captured, run.device)
