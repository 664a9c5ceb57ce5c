"""Decoding attack: a decoder from features to images, trained on the attacker's own pairs."""

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from splitleak.attacker.base import Attack, Knowledge, Run, Shapes
from splitleak.attacker.training.fitting import (
    LEAST_STEPS,
    FitConfig,
    cosine,
    fit,
    gather,
    predict,
    rebuilding_loss,
    set_rate,
    step,
    unlikeness,
)
from splitleak.models.decoder import (
    GridDecoder,
    ResNormDecoder,
    ScaledDecoder,
    SubPixelDecoder,
    decoder_for,
    of_one_scale,
)
from splitleak.models.grids import laid_map
from splitleak.seeding import generator, seeded
from splitleak.training.modules import to_channels_last
from splitleak.training.precision import fused_on, mixed_precision

_MANY_PLACES = 256
_FEW_PAIRS = 500
_LEAST_BATCH = 16


class RebuilderConfig(FitConfig):
    """A decoder, and what its training has whatever its loss."""

    later: ClassVar[Mapping[str, object]] = {"precision": None}

    network: Literal["sub-pixel", "res-norm"] = Field(
        default="sub-pixel", description="where it fits features and picture, see `decoder_for`"
    )
    blocks: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="residual blocks at the resolution of the features; default: see `build`",
    )
    channels: int | None = Field(default=None, ge=1, description="default: see `build`")
    batch_size: int = Field(default=32, ge=2, description="at most; see `least_steps`")
    least_steps: int = Field(
        default=32, ge=1, description="an epoch, which batches of fewer pairs, down to 16, make of a small set"
    )
    weight_decay: float = Field(default=1e-4, ge=0)
    ssim_weight: float = Field(default=0.02, ge=0, description="weight of 1 - SSIM beside the MSE, in the loss")
    average: float = Field(default=0.998, ge=0, lt=1, description="decay of the average of the weights; 0: none")
    finish: float = Field(default=0.25, ge=0, lt=1, description="share of the epochs, the last, that see all pairs")
    draws: int = Field(default=16, ge=1, description="answers it asks for an image, where each is drawn anew")
    precision: Literal["single", "bfloat16"] | None = Field(
        default=None, description="on a CPU; default: bfloat16, single of the published decoder"
    )

    def halved(self, decoder: nn.Module) -> bool:
        """Whether ``decoder`` is computed in bfloat16 on a CPU built for it."""
        if self.precision is None:
            return not isinstance(decoder, ResNormDecoder)
        return self.precision == "bfloat16"

    def sized(self, pairs: int) -> Self:
        """These settings with the batch size for so many pairs."""
        return self.model_copy(
            update={"batch_size": min(self.batch_size, max(_LEAST_BATCH, pairs // self.least_steps))}
        )

    @property
    def steps(self) -> int:
        """Of an epoch, at least: the smallest sets are gone through several times."""
        return min(LEAST_STEPS, self.least_steps)

    def build(self, shapes: Shapes) -> nn.Module:
        """A new decoder, see `decoder_for`, with weights from the global stream.

        Where blocks and channels are left open, a `SubPixelDecoder` has 4 and 64; half as many channels for features of
        over 256 places, which are easy to invert and cost most, and half as many for fewer than 500 pairs. Another
        decoder has 2 and 32.
        """
        blocks, channels = 2, 32
        tensors = shapes.parts or (shapes.feature_shape,)
        if self.network == "sub-pixel" and len(tensors) == 1 and of_one_scale(tensors[0], shapes.image_shape):
            blocks, channels = 4, 64
            places = laid_map(tensors[0], shapes.image_shape).map_shape[1:]
            channels //= 1 + (math.prod(places) > _MANY_PLACES)
            channels //= 1 + (shapes.pairs < _FEW_PAIRS)
        return decoder_for(
            shapes.feature_shape,
            shapes.image_shape,
            blocks=blocks if self.blocks is None else self.blocks,
            channels=self.channels or channels,
            parts=shapes.parts,
            kind=self.network,
        )


class TrainsRebuilder:
    """What an attack has that trains the decoder of its settings."""

    config: RebuilderConfig

    def untrained(self, shapes: Shapes) -> nn.Module:
        return self.config.build(shapes)


class DecoderConfig(RebuilderConfig):
    """The decoder and its training. The defaults are a preset for a CPU."""

    learning_rate: float = Field(default=2e-3, gt=0, description="falls along a cosine to a hundredth")


class DecoderAttack(TrainsRebuilder, Attack):
    """Queries the edge with its public images, and trains a decoder on the (feature, image) pairs.

    Xia et al., CEM, CVPR 2025, and Li et al., ResSFL, CVPR 2022: the decoding attack, with MSE in [0, 1]. It is
    aware of any defense on the wire, noise included, because its pairs crossed the same wire.
    Features of any shape; see `decoder_for` for the decoder's form.
    Deviations: the epoch is chosen on held-out public pairs (the published code scores the last one, or chooses it
    on what it is scored on), and weights are those of that epoch; features whose variance is not in 0.001 to 10 are
    scaled to a variance of 1, and a few channels that drown the others brought down to these, see `drowning`. The
    default is a stronger attack of that kind. Its decoder is a `SubPixelDecoder`, which starts at least
    squares where these find most (shallow cuts, and few pairs), and whose weights are averaged over the steps; the last
    quarter of the epochs trains on all pairs; a target that draws noise is asked again for each epoch, up to 16 times
    an image; and the loss has ``1 - SSIM`` beside the MSE, so that neither score flatters a defense.
    """

    name = "decoder"
    config_type = DecoderConfig
    needs = frozenset({"public", "query"})
    config: DecoderConfig

    @classmethod
    def paper_config(cls) -> DecoderConfig:
        """CEM's ``res_normN8C64``: 50 epochs, batch 256, Adam at 5e-3 (its text; 1e-3, as in its code, is weaker)."""
        return DecoderConfig(
            network="res-norm",
            blocks=8,
            channels=64,
            epochs=50,
            batch_size=256,
            learning_rate=5e-3,
            ssim_weight=0,
            average=0,
            finish=0,
            draws=1,
            least_steps=1,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        features = gather(known, self.name, self.config.draws)
        config = self.config.sized(len(known.public))
        training = DecoderTraining(config, Shapes.of(known), run)
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
            begin=first_steps(training.decoder, run),
            average=config.average,
            finish=config.finish,
            least_steps=config.steps,
        )
        if len(known.captured) > 1:
            self.findings["captured_unlike"] = unlikeness(features[0], known.captured)
        return predict(training.decoder, known.captured, run.device)


def first_steps(decoder: nn.Module, run: Run) -> Callable[[Tensor, Tensor], None] | None:
    """How a decoder begins on the pairs that it is trained on; None: as it is.

    See `ScaledDecoder.adapt`, and `start_linearly` of `GridDecoder` and `SubPixelDecoder`.
    """
    if not isinstance(decoder, ScaledDecoder):
        return None

    def begin(features: Tensor, images: Tensor) -> None:
        decoder.adapt(features)
        if isinstance(decoder, GridDecoder | SubPixelDecoder):
            decoder.start_linearly(features, images, draw=generator(run.seed, "decoder", "linear"))

    return begin


class DecoderTraining:
    """A new decoder on the run's device, and the step that trains it."""

    def __init__(self, config: DecoderConfig, shapes: Shapes, run: Run) -> None:
        self.config = config
        with seeded(run.seed, "decoder", "init"):
            self.decoder = config.build(shapes)
        to_channels_last(self.decoder, run.device)
        weights = self.decoder.parameters()
        faster = fused_on(run.device)
        self.optimizer = Adam(weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=faster)

    def descend(self, features: Tensor, images: Tensor, progress: float) -> Tensor:
        """A step on features ``(B, *cut)`` and images ``(B, C, H, W)``; see `fitting.Descend`."""
        set_rate(self.optimizer, self.config.learning_rate * cosine(progress))
        with mixed_precision(features.device, on_cpu=self.config.halved(self.decoder)):
            rebuilt = self.decoder(features)
        return step(self.optimizer, rebuilding_loss(rebuilt.float(), images, self.config.ssim_weight))
