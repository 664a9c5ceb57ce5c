"""DRAG: sample a diffusion prior of images like the public ones, guided towards the captured feature."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.diffusion import DIFFUSION, DiffusionConfig, DiffusionPrior
from splitleak.attacker.reconstruction.descent import (
    DRAWS,
    decoder_of,
    drops,
    feature_errors,
    white_box,
)
from splitleak.attacker.training.denoiser import Denoiser, alpha_bar
from splitleak.attacker.training.fitting import predict, rebuilding_loss, set_apart
from splitleak.config import Config, digest
from splitleak.measures.pixel import total_variation
from splitleak.models.grids import channels_last
from splitleak.seeding import generator
from splitleak.training.fit import Resumable, step_ranges
from splitleak.training.memory import affordable_rows

_BATCH = 256  # pictures in one pass, at most; does not change what becomes of one
_BETAS = (0.9, 0.999)
_SSIM_WEIGHT = 0.02  # of 1 - SSIM beside the MSE, where the guidance is rehearsed
_LIGHTER, _LIGHTEST = 3.0, 2  # the lightest guidance is divided by it, where that is the best, and how often


class DragConfig(Config):
    """The guided sampling. The defaults are a preset for a CPU."""

    training: DiffusionConfig = Field(
        default=DiffusionConfig(iterations=400), description="of the denoiser, where no prior is given"
    )
    start: Literal["decoder", "noise"] = Field(
        default="decoder", description="a decoder's reconstruction, noised (DRAG++), or noise alone (DRAG)"
    )
    decoder_epochs: int = Field(default=10, ge=1, description="training of that decoder")
    timesteps: int = Field(default=250, ge=1, description="times between noise and picture")
    strength: float = Field(default=0.12, gt=0, le=1, description="share of them that is gone through from a decoder's")
    recurrences: int = Field(default=5, ge=1, description="steps at each time, noised again between them")
    eta: float = Field(default=1.0, ge=0, le=1, description="of the noise in a step; 0: none, and no guidance")
    guidance: tuple[float, ...] = Field(
        default=(0.2, 0.5, 0.9), min_length=1, description="of the descent in a step's noise, from 0 to 1; rehearsed"
    )
    distance: Literal["error", "cosine"] = Field(
        default="error", description="of features: mean squared error, or 1 - cosine of each position's"
    )
    clip: float = Field(default=0.02, gt=0, description="largest norm of an image's gradient")
    brightness_weight: float = Field(default=0.0, ge=0, description="of the mean square of the image in [-1, 1]")
    tv_weight: float = Field(default=0.0, ge=0, description="of its smoothness")
    rehearsal_images: int = Field(default=8, ge=1, description="public images that the guidance is tried on")


class DragAttack(Attack):
    r"""Denoises step by step, and turns the noise of each step towards images whose feature is the captured one.

    .. math:: x_{t-1} = \sqrt{\bar\alpha_{t-1}}\,\hat x_0 + \sqrt{1 - \bar\alpha_{t-1} - \sigma_t^2}\,\epsilon + d,
        \quad \|d\| = \sqrt{N}\,\sigma_t

    with d between noise and the descent of the feature's distance (`guided`), whose gradient goes through the denoiser.
    Lei et al., "DRAG: data reconstruction attack using guided diffusion", ICML 2025 (arXiv:2509.11724): DRAG++ begins
    with another attack's picture, here a decoder's, noised; DRAG with noise. Spherical Gaussian guidance is that of
    Yang et al., "Guidance with spherical Gaussian constraint for conditional diffusion", ICML 2024. ``encoder`` and
    public images are needed; with ``query`` decoder and rehearsal see features that crossed the wire as the victims'
    did; what is dropped on the way is left out of the distance, and channels that drown the others in it are divided,
    see `white_box`. A denoiser is trained on the public images, less those of the rehearsal, where no prior is given.

    Deviations: the denoiser is small, of pixels, and trained on the public images, where the paper has Stable
    Diffusion's or another large one; guidance is chosen in a rehearsal on public images, by MSE and SSIM, where lighter
    ones are tried if the lightest is the best, and the decoder's pictures stay as they are if none betters them, as
    behind much noise; the CPU preset has the mean squared error for a distance, fewer steps, and starts from less
    noise.
    """

    name = "drag"
    config_type = DragConfig
    needs = frozenset({"encoder", "public"})
    config: DragConfig

    @classmethod
    def paper_config(cls) -> DragConfig:
        """The published code's for a denoiser of pixels: 250 steps of 16 recurrences from noise, guidance .2."""
        return DragConfig(
            training=DiffusionConfig.paper(),
            start="noise",
            recurrences=16,
            guidance=(0.2,),
            distance="cosine",
            brightness_weight=0.01,
            tv_weight=0.1,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        config = self.config
        draws = DRAWS if config.start == "decoder" else 1
        encoder, asked, known = white_box(self.name, known, run, draws)
        assert known.public is not None
        dropped = drops(encoder, known.public, asked[0], known.captured, run.device)
        order = torch.randperm(len(known.public), generator=generator(run.seed, self.name, "rehearsal"))
        count = min(config.rehearsal_images, len(order) // 4) if len(config.guidance) > 1 else 0
        rehearsed, used = set_apart(known.public, order, count)
        features = torch.cat([asked[0, rehearsed].float(), known.captured])
        begun = None
        if config.start == "decoder":
            decoder = decoder_of(config.decoder_epochs, asked[:, used], known.public[used], known, run)
            begun = predict(decoder, features, run.device).clamp(0, 1).to(run.device)
        features, truth, chosen = features.to(run.device), known.public[rehearsed].to(run.device), config.guidance[0]
        with self.prior(known, known.public[used], run) as prior:
            self.findings["prior"] = prior.digest
            sampler = Sampler(config, encoder, prior, known.image_shape, run, drops=dropped)
            if count:
                tried = self.rehearsed(sampler, features[:count], None if begun is None else begun[:count], truth)
                chosen = min(tried, key=lambda guidance: tried[guidance])
                self.findings["rehearsed_guidance"] = [list(each) for each in tried.items()]
            if count and begun is not None:
                self.findings["rehearsed_start"] = kept = float(rebuilding_loss(begun[:count], truth, _SSIM_WEIGHT))
                if kept < tried[chosen]:
                    return begun[count:]
            weights = torch.full((len(known.captured),), chosen, device=run.device)
            start = None if begun is None else begun[count:]
            images, history = sampler.sample("sampling", features[count:], start, weights)
        self.findings |= {"guidance": chosen, "history": history}
        self.findings |= {"distance_start": history[0]["distance"], "distance_end": history[-1]["distance"]}
        return images

    def rehearsed(
        self, sampler: "Sampler", features: Tensor, start: Tensor | None, truth: Tensor
    ) -> dict[float, float]:
        """By guidance, the loss of what is sampled for features ``(n, *cut)`` beside their images ``truth``."""

        def sampled(guidance: tuple[float, ...], name: str) -> dict[float, float]:
            tries = len(guidance)
            weights = torch.tensor(guidance, device=features.device).repeat_interleave(len(truth))
            own = features.repeat(tries, *[1] * (features.ndim - 1))
            found, _ = sampler.sample(name, own, None if start is None else start.repeat(tries, 1, 1, 1), weights)
            parts = found.clamp(0, 1).split(len(truth))
            losses = [float(rebuilding_loss(part, truth, _SSIM_WEIGHT)) for part in parts]
            return dict(zip(guidance, losses, strict=True))

        tried = sampled(self.config.guidance, "rehearsal")
        for lighter in range(1, _LIGHTEST + 1):
            if min(tried) == 0 or min(tried.values()) < tried[min(tried)]:
                break
            tried |= sampled((min(tried) / _LIGHTER,), f"rehearsal {lighter}")
        return tried

    def prior(self, known: Knowledge, images: Tensor, run: Run) -> AbstractContextManager[DiffusionPrior]:
        """The given prior, or one trained on ``images``."""
        if known.prior is not None:
            if not isinstance(known.prior, DiffusionPrior):
                raise ValueError(f"attack {self.name!r}: expected a prior of kind diffusion, got a generator")
            return nullcontext(known.prior)
        return DIFFUSION.trained_here(self.config.training, images, run)


class _Cleaned(nn.Module):
    """Noisy pictures to the clean ones that a denoiser takes them to be made of, at half of the time."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, noisy: Tensor) -> Tensor:
        return self.denoiser.split(noisy, 0.5)[0]


class Sampler:
    """Guided sampling of images, each towards a feature of its own."""

    def __init__(
        self,
        config: DragConfig,
        encoder: nn.Module,
        prior: DiffusionPrior,
        image_shape: tuple[int, int, int],
        run: Run,
        *,
        drops: bool = False,
    ) -> None:
        self.drops = drops
        self.config, self.encoder, self.image_shape, self.run = config, encoder, image_shape, run
        self.denoiser: Denoiser = prior.denoiser
        self.identity = [config.document(), prior.digest]
        picture, pixels = torch.zeros(1, *image_shape, device=run.device), math.prod(image_shape[1:])
        self.at_once = affordable_rows(nn.Sequential(_Cleaned(prior.denoiser), encoder), picture, pixels, _BATCH)

    def sample(
        self, name: str, features: Tensor, start: Tensor | None, guidance: Tensor
    ) -> tuple[Tensor, list[dict[str, float]]]:
        """Samples an image for each feature; resumable.

        Args:
            name: Of checkpoint and random stream.
            features: ``(N, *cut)``.
            start: Images ``(N, C, H, W)`` in [0, 1] that are noised and denoised; None: begins with noise.
            guidance: Of each ``(N,)``.

        Returns:
            Images in [0, 1], and the mean distance of the features on the way.
        """
        config, draw = self.config, generator(self.run.seed, "drag", name)
        total = config.timesteps if start is None else max(1, round(config.strength * config.timesteps))
        shape = (len(features), *self.image_shape)

        def noise() -> Tensor:
            return torch.randn(shape, generator=draw).to(features.device)

        noisy = noise()
        if start is not None:
            share = alpha_bar(total / config.timesteps)
            noisy = math.sqrt(share) * (2 * start - 1) + math.sqrt(1 - share) * noisy
        sums = [float(each.double().sum()) for each in (features, features.square(), noisy.square(), guidance)]
        state = Resumable(
            identity=digest([self.identity, name, self.run.seed, sums]),
            modules={},
            optimizers={},
            generators={"noise": draw},
            kept={"noisy": noisy, "first": torch.zeros_like(noisy), "second": torch.zeros_like(noisy)},
        )
        checkpoint = self.run.part(name).checkpoint
        for steps in step_ranges(name, total, state, checkpoint, self.run.report, size=5):
            distances = []
            for step in steps:
                now, after = (alpha_bar((total - step - gone) / config.timesteps) for gone in (0, 1))
                time = (total - step) / config.timesteps
                for turn in range(config.recurrences):
                    clean, noise_found, distance = self.step(state.kept, features, time)
                    distances.append(distance)
                    taken = step * config.recurrences + turn + 1
                    direction = self.direction(state.kept, taken)
                    spread = deviation(config.eta, now, after)
                    moved = guided(spread * noise(), direction, spread, guidance)
                    rest = math.sqrt(max(0.0, 1 - after - spread**2))
                    following = math.sqrt(after) * clean + rest * noise_found + moved
                    if turn + 1 < config.recurrences:
                        kept = now / after
                        following = math.sqrt(kept) * following + math.sqrt(1 - kept) * noise()
                    state.kept["noisy"] = following
            state.history.append({"distance": sum(distances) / len(distances)})
        return (state.kept["noisy"] + 1) / 2, state.history

    def step(self, kept: dict[str, Tensor], features: Tensor, time: float) -> tuple[Tensor, Tensor, float]:
        """The clean images, the noise and the mean distance; Adam's moments in ``kept`` follow the gradient."""
        clean, noise, distances = [], [], []
        for at in range(0, len(features), self.at_once):
            part = slice(at, at + self.at_once)
            noisy = kept["noisy"][part].detach().requires_grad_()
            cleaned, noise_found = self.denoiser.split(noisy, time)
            distance = self.distance((cleaned + 1) / 2, features[part])
            loss = distance + self.config.brightness_weight * cleaned.square().flatten(1).mean(1)
            if self.config.tv_weight:
                loss = loss + self.config.tv_weight * total_variation(cleaned)
            (gradient,) = torch.autograd.grad(loss.sum(), noisy)
            norms = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            gradient = gradient * (self.config.clip / norms.clamp(min=1e-12)).clamp(max=1)
            for name, value, beta in zip(("first", "second"), (gradient, gradient.square()), _BETAS, strict=True):
                kept[name][part] = beta * kept[name][part] + (1 - beta) * value
            clean.append(cleaned.detach())
            noise.append(noise_found.detach())
            distances.append(distance.detach())
        return torch.cat(clean), torch.cat(noise), float(torch.cat(distances).mean())

    def direction(self, kept: dict[str, Tensor], taken: int) -> Tensor:
        """Adam's step, after so many gradients."""
        first, second = (kept[name] / (1 - beta**taken) for name, beta in zip(("first", "second"), _BETAS, strict=True))
        return first / (second.sqrt() + 1e-8)

    def distance(self, images: Tensor, features: Tensor) -> Tensor:
        """Of the features of images ``(B, C, H, W)`` in [0, 1] to those captured, but for dropped values, ``(B,)``."""
        found: Tensor = self.encoder(images)
        if self.config.distance == "error":
            return feature_errors(found, features, drops=self.drops)
        found = found * (features != 0) if self.drops else found
        last = found.ndim != 4 or channels_last(tuple(found.shape[1:]), (images.shape[2], images.shape[3]))
        axis = found.ndim - 1 if last else 1  # a map's channels; a token's, or a vector's, values
        cosine = torch.nn.functional.cosine_similarity(found, features, dim=axis)
        return 1 - cosine.flatten(1).mean(1) if cosine.ndim > 1 else 1 - cosine


def deviation(eta: float, now: float, after: float) -> float:
    r"""The deviation σ of a step's noise from a share of the picture's variance ``now`` to one ``after``."""
    return eta * math.sqrt(max(0.0, (1 - after) / (1 - now) * (1 - now / after))) if now < after else 0.0


def guided(noise: Tensor, direction: Tensor, spread: float, guidance: Tensor) -> Tensor:
    r"""What a step adds: noise turned against a direction, of the length that noise has, :math:`\sqrt N \sigma`.

    Args:
        noise: ``(B, C, H, W)`` of deviation ``spread``.
        direction: The ascent ``(B, C, H, W)``.
        spread: σ.
        guidance: From 0, which leaves the noise as it is, to 1, the descent alone ``(B,)``.
    """
    length = spread * math.sqrt(noise[0].numel())
    norms = direction.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    share = guidance.view(-1, 1, 1, 1)
    turned = noise + share * (-length * direction / norms - noise)
    turned = turned * (length / turned.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1))
    return torch.where(share > 0, turned, noise)
