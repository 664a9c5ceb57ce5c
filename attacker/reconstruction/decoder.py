"""Decoding attack: a decoder from features to images, trained on the attacker's own pairs."""

import math
from collections.abc import Callable
from functools import partial

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.training.fitting import FitConfig, cosine, fit, gather, predict, rebuilding_loss, set_rate, step
from splitleak.models.decoder import LARGE, GridDecoder, decoder_for
from splitleak.seeding import generator, seeded
from splitleak.training.modules import to_channels_last
from splitleak.training.precision import mixed_precision


class DecoderConfig(FitConfig):
    """The decoder and its training. The defaults are a preset for a CPU."""

    blocks: int = Field(default=2, ge=0, description="residual blocks at the resolution of the features")
    channels: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0, description="falls along a cosine to a hundredth")
    weight_decay: float = Field(default=1e-4, ge=0)
    ssim_weight: float = Field(default=0.02, ge=0, description="weight of 1 - SSIM beside the MSE, in the loss")


class DecoderAttack(Attack):
    """Queries the edge with its public images, and trains a decoder on the (feature, image) pairs.

    Xia et al., CEM, CVPR 2025, and Li et al., ResSFL, CVPR 2022: the decoding attack, with MSE in [0, 1]. It is
    aware of any defense on the wire, noise included, because its pairs crossed the same wire.
    Features of any shape; see `decoder_for` for the decoder's form.
    Deviations: the epoch is chosen on held-out public pairs (the published code scores the last one, or chooses it
    on what it is scored on), and weights are those of that epoch; the CPU preset adds ``1 - SSIM`` to the loss, which
    leaves the MSE as it is and raises the SSIM, so that neither score flatters a defense (the paper's has none).
    """

    name = "decoder"
    config_type = DecoderConfig
    needs = frozenset({"public", "query"})
    config: DecoderConfig

    @classmethod
    def paper_config(cls) -> DecoderConfig:
        """CEM's ``res_normN8C64``: 50 epochs, batch 256, Adam at 5e-3 (its text; 1e-3, as in its code, is weaker)."""
        return DecoderConfig(blocks=8, channels=64, epochs=50, batch_size=256, learning_rate=5e-3, ssim_weight=0)

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        config, features = self.config, gather(known, self.name)
        training = DecoderTraining(config, tuple(features.shape[2:]), known.image_shape, run, known.parts)
        self.network = training.decoder
        self.findings = fit(
            self.name,
            training.decoder,
            training.descend,
            features,
            known.public,
            config,
            run,
            modules={"decoder": training.decoder},
            optimizers={"adam": training.optimizer},
            begin=linear_start(training.decoder, run),
        )
        return predict(training.decoder, known.captured, run.device)


def linear_start(decoder: nn.Module, run: Run) -> Callable[[Tensor, Tensor], None] | None:
    """How a decoder begins on the pairs that it is trained on: see `GridDecoder.start_linearly`; None: as it is."""
    if not isinstance(decoder, GridDecoder):
        return None
    return partial(decoder.start_linearly, draw=generator(run.seed, "decoder", "linear"))


class DecoderTraining:
    """A new decoder on the run's device, and the step that trains it."""

    def __init__(
        self,
        config: DecoderConfig,
        feature_shape: tuple[int, ...],
        image_shape: tuple[int, int, int],
        run: Run,
        parts: tuple[tuple[int, ...], ...] | None = None,
    ) -> None:
        self.config, self.large = config, math.prod(image_shape[1:]) > LARGE
        with seeded(run.seed, "decoder", "init"):
            self.decoder = decoder_for(
                feature_shape, image_shape, blocks=config.blocks, channels=config.channels, parts=parts
            )
        to_channels_last(self.decoder, run.device)
        weights = self.decoder.parameters()
        self.optimizer = Adam(weights, lr=config.learning_rate, weight_decay=config.weight_decay)

    def descend(self, features: Tensor, images: Tensor, progress: float) -> Tensor:
        """A step on features ``(B, *cut)`` and images ``(B, C, H, W)``; see `fitting.Descend`."""
        set_rate(self.optimizer, self.config.learning_rate * cosine(progress))
        with mixed_precision(features.device, on_cpu=self.large):
            rebuilt = self.decoder(features)
        return step(self.optimizer, rebuilding_loss(rebuilt.float(), images, self.config.ssim_weight))
