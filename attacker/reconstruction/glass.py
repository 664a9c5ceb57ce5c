"""GLASS: search a generator of images like the public ones for the image whose feature is the captured one."""

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.prior import GAN, Prior, PriorConfig
from splitleak.attacker.reconstruction.descent import drops, feature_errors, white_box
from splitleak.attacker.training.fitting import rebuilding_loss, set_apart
from splitleak.attacker.training.rows import BATCH, Stage, descend_rows
from splitleak.config import Config
from splitleak.measures.pixel import total_variation
from splitleak.models.generator import Generator
from splitleak.seeding import generator
from splitleak.training.memory import affordable_rows

_SAMPLES = 2048  # of w, for its mean and deviation
_SSIM_WEIGHT = 0.02  # of 1 - SSIM beside the MSE, where settings are rehearsed


class GlassConfig(Config):
    """The search's two stages. The defaults are a preset for a CPU."""

    training: PriorConfig = Field(
        default=PriorConfig(iterations=500), description="of the generator, where no prior is given"
    )
    candidates: int = Field(default=256, ge=1, description="latents that are drawn; every image starts from the best")
    restarts: int = Field(default=2, ge=1, description="candidates that are descended from, for each image")
    latent_steps: int = Field(default=40, ge=0, description="steps on each of those")
    latent_learning_rate: float = Field(default=0.1, gt=0, description="both fall along cosines to a hundredth")
    latent_weight: float = Field(default=0.01, ge=0, description="of the latent's divergence from a standard normal")
    steps: int = Field(default=400, ge=0, description="steps on w, from the best latent")
    learning_rate: float = Field(default=0.1, gt=0)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    noise: float = Field(default=0.02, ge=0, description="added to w at first, in its deviations; gone by 3/8 of steps")
    tv_weights: tuple[float, ...] = Field(default=(0.0, 0.01), min_length=1, description="of the smoothness, rehearsed")
    w_weights: tuple[float, ...] = Field(
        default=(1e-5, 3e-3), min_length=1, description="of w's distance from where it began, rehearsed"
    )
    brightness_weight: float = Field(default=0.0, ge=0, description="of the mean square of the image in [-1, 1]")
    rehearsal_images: int = Field(default=8, ge=1, description="public images that weights are tried on")


class GlassAttack(Attack):
    r"""Finds a latent of a generator, then what its first layers make of it, to match the captured feature.

    .. math:: \frac{1}{d_z \sigma^2} \|f(G(w)) - z\|^2 + \lambda_{TV}\,TV(G(w)) + \lambda_2\,\overline{G(w)^2}

    Li et al., "GAN you see me? Enhanced data reconstruction attacks against split inference", NeurIPS 2023: GLASS.
    Latents are descended from, with their divergence from a standard normal beside the loss (one latent's own mean and
    deviation), the best by its feature is kept, and its w descends further, noisy at first. Every feature is rebuilt on
    its own, but for the drawn candidates, which all share. ``encoder`` and public images are needed; with ``query``
    the settings are rehearsed on features that crossed the wire as the victims' did; what is dropped on the way is left
    out of the error, and channels that drown the others in it are divided, see `white_box`. A generator is trained on
    the public images, less those of the rehearsal, where no prior is given.

    Deviations: what is returned is the iterate with the least feature error, where the paper returns the last; the
    generator is `splitleak prior`'s, whose w is what its first block makes of the latent (a StyleGAN's has as many as
    layers), and w is held to where it began; σ² is the variance of the public images' features, so that weights mean
    the same at every cut; weights are chosen in a rehearsal on public images, by MSE and SSIM; no label is told, which
    the published code takes from the truth. The CPU preset descends from the best of many candidates only, and shorter.
    """

    name = "glass"
    config_type = GlassConfig
    needs = frozenset({"encoder", "public"})
    config: GlassConfig

    @classmethod
    def paper_config(cls) -> GlassConfig:
        """The published code's: 200 restarts of 100 steps at 0.01, then 20,000 steps at 0.1, TV and brightness .01."""
        return GlassConfig(
            training=PriorConfig.paper(),
            candidates=200,
            restarts=200,
            latent_steps=100,
            latent_learning_rate=0.01,
            latent_weight=1.0,
            steps=20_000,
            adam_epsilon=1e-3,
            tv_weights=(0.01,),
            w_weights=(0.0,),
            brightness_weight=0.01,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        encoder, asked, known = white_box(self.name, known, run)
        assert known.public is not None
        order = torch.randperm(len(known.public), generator=generator(run.seed, "glass", "rehearsal"))
        rehearsed, used = set_apart(known.public, order, min(self.config.rehearsal_images, len(order) // 4))
        targets = torch.cat([asked[0, rehearsed].float(), known.captured]).to(run.device)
        dropped = drops(encoder, known.public, asked[0], known.captured, run.device)
        scale = float(asked[0].float().var(0).mean().clamp(min=1e-12))
        with self.prior(known, known.public[used], run) as prior:
            drawing = drawing_of(prior, known.image_shape, self.name)
            identity = [self.config.document(), prior.digest, scale]
            search = Search(encoder, drawing, scale, run, identity, drops=dropped)
            latents = self.latents(search, targets)
            images = self.refined(search, latents, targets, known.public[rehearsed].to(run.device))
        self.findings |= {"prior": prior.digest, "history": search.history}
        return images

    def prior(self, known: Knowledge, images: Tensor, run: Run) -> AbstractContextManager[Prior]:
        """The given prior, or one trained on ``images``, padded to a square that a generator draws."""
        if known.prior is not None:
            if not isinstance(known.prior, Prior):
                raise ValueError(f"attack {self.name!r}: expected a prior with a generator, got one that denoises")
            return nullcontext(known.prior)
        return GAN.trained_here(self.config.training, squared(images), run)

    def latents(self, search: "Search", targets: Tensor) -> Tensor:
        """The best latent ``(N, d)`` for each target: the first stage."""
        config, wide = self.config, search.drawing.latent
        pool = torch.randn(config.candidates, wide, generator=generator(search.run.seed, "glass", "candidates"))
        errors = search.compared(pool.to(targets.device), targets)
        best = errors.topk(min(config.restarts, len(pool)), dim=1, largest=False).indices
        restarts = best.shape[1]
        repeated = targets.repeat_interleave(restarts, 0)
        start = pool.to(targets.device)[best.flatten()]

        def penalty(latents: Tensor, images: Tensor, rows: slice) -> Tensor:
            deviation, mean = latents.std(1, correction=0), latents.mean(1)
            far = -0.5 * (1 + (deviation.square() + 1e-10).log() - mean.square() - deviation.square())
            return config.latent_weight * far + self.plain(images)

        found, errors = search.descend(
            Stage("latents", config.latent_steps, config.latent_learning_rate, config.adam_epsilon),
            0,
            start,
            repeated,
            penalty,
        )
        errors = errors.view(-1, restarts)
        self.findings["latent_error"] = float(errors.min(1).values.mean())
        best_of_all: Tensor = found.unflatten(0, (-1, restarts))[torch.arange(len(errors)), errors.argmin(1)]
        return best_of_all

    def plain(self, images: Tensor) -> Tensor | float:
        """The penalty on an image's brightness."""
        weight = self.config.brightness_weight
        return weight * (2 * images - 1).square().flatten(1).mean(1) if weight else 0.0

    def refined(self, search: "Search", latents: Tensor, targets: Tensor, truth: Tensor) -> Tensor:
        """The victims' images ``(N, C, H, W)``.

        Args:
            search: The networks.
            latents: First those of the rehearsed images, then the victims'.
            targets: Their features, in that order.
            truth: The rehearsed images.
        """
        w, _ = self.descended(search, latents, targets, truth)
        return search.images(w[len(truth) :], search.drawing.first)

    def descended(self, search: "Search", latents: Tensor, targets: Tensor, truth: Tensor) -> tuple[Tensor, float]:
        """The second stage, as `refined`: w of all, and the weight of the smoothness that was chosen."""
        config, drawing, count = self.config, search.drawing, len(truth)
        with torch.no_grad():
            start = drawing.between(latents, 0, drawing.first)
        sample = torch.randn(_SAMPLES, drawing.latent, generator=generator(search.run.seed, "glass", "w"))
        deviation = drawing.deviation(sample.to(latents.device))

        def run(name: str, begun: Tensor, own: Tensor, weights: Tensor) -> Tensor:
            def penalty(w: Tensor, images: Tensor, part: slice) -> Tensor:
                moved = ((w - begun[part]) / deviation).square().flatten(1).mean(1)
                smoothness, nearness = weights[part].unbind(1)
                return nearness * moved + smoothness * total_variation(2 * images - 1) + self.plain(images)

            stage = Stage(name, config.steps, config.learning_rate, config.adam_epsilon)
            noise = config.noise * deviation if config.noise else None
            found, errors = search.descend(stage, drawing.first, begun, own, penalty, noise=noise)
            self.findings[f"{name}_error"] = float(errors.mean())
            return found

        candidates = list(itertools.product(config.tv_weights, config.w_weights))
        chosen, rehearsed, known = candidates[0], start[:count], targets[:count]
        if count:
            tries = len(candidates)
            weights = torch.tensor(candidates, device=targets.device).repeat_interleave(count, 0)
            begun, own = (each.repeat(tries, *[1] * (each.ndim - 1)) for each in (rehearsed, known))
            found = run("rehearsal", begun, own, weights)
            place = self.best(search.images(found, drawing.first), truth, candidates, "weights")
            chosen, rehearsed = candidates[place], found.split(count)[place]
        weights = torch.tensor([chosen] * (len(targets) - count), device=targets.device)
        self.findings |= {"tv_weight": chosen[0], "w_weight": chosen[1]}
        return torch.cat([rehearsed, run("w", start[count:], targets[count:], weights)]), chosen[0]

    def best(self, images: Tensor, truth: Tensor, candidates: Sequence[object], name: str) -> int:
        """Which of the candidates gave the rehearsed images of least loss: images ``(candidates * n, C, H, W)``."""
        losses = [float(rebuilding_loss(part, truth, _SSIM_WEIGHT)) for part in images.split(len(truth))]
        self.findings[f"rehearsed_{name}"] = [list(pair) for pair in zip(candidates, losses, strict=True)]
        return losses.index(min(losses))


class Drawing(nn.Module):
    """A generator by its blocks: rows that enter block 0 are latents, those that enter the block ``first`` are w."""

    def __init__(self, blocks: list[nn.Module], latent: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.blocks, self.latent, self.image_shape = nn.ModuleList(blocks), latent, image_shape
        self.first = min(1, len(blocks) - 1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.images(latents, 0)

    def between(self, rows: Tensor, begin: int, end: int) -> Tensor:
        """What enters block ``end``, of what enters block ``begin``."""
        for block in self.blocks[begin:end]:
            rows = block(rows)
        return rows

    def images(self, rows: Tensor, place: int) -> Tensor:
        """Images ``(N, C, H, W)`` of what enters the block ``place``."""
        _, high, wide = self.image_shape
        return self.between(rows, place, len(self.blocks))[:, :, :high, :wide]

    @torch.no_grad()
    def deviation(self, latents: Tensor) -> Tensor:
        """Of w, by its elements, none less than a tenth of their mean."""
        spread = self.between(latents, 0, self.first).std(0)
        return spread.clamp(min=float(spread.mean()) / 10 + 1e-6)


def drawing_of(prior: Prior, image_shape: tuple[int, int, int], name: str) -> Drawing:
    """The generator of a prior, by its blocks; of an imported one, as one block.

    Raises:
        ValueError: It draws by classes, and nobody tells a victim's.
    """
    if prior.generator.config.classes is not None:
        raise ValueError(f"attack {name!r}: expected a prior without classes, as no victim's is known")
    found = prior.generator
    blocks: list[nn.Module] = list(found.blocks) if isinstance(found, Generator) else [found]
    return Drawing(blocks, found.config.latent, image_shape)


def squared(images: Tensor) -> Tensor:
    """Images ``(M, C, H, W)`` at the least square that a generator draws, their last rows and columns repeated."""
    high, wide = images.shape[2:]
    longest = max(8, high, wide)
    unit = 1 << ((longest // 4).bit_length() - 1)
    side = -(-longest // unit) * unit
    return functional.pad(images, (0, side - wide, 0, side - high), mode="replicate")


class Search:
    """Descents on what enters a block of the generator, each row on its own; the best row by feature error is kept."""

    def __init__(
        self,
        encoder: nn.Module,
        drawing: Drawing,
        scale: float,
        run: Run,
        identity: object,
        *,
        drops: bool = False,
    ) -> None:
        self.drops = drops  # whether captured values of 0 were dropped on the way
        self.encoder, self.drawing, self.scale, self.run, self.identity = encoder, drawing, scale, run, identity
        self.history: dict[str, list[dict[str, float]]] = {}
        latent, pixels = torch.zeros(1, drawing.latent, device=run.device), math.prod(drawing.image_shape[1:])
        self.at_once = affordable_rows(nn.Sequential(drawing, encoder), latent, pixels, BATCH)

    @torch.no_grad()
    def images(self, rows: Tensor, place: int) -> Tensor:
        """The images of rows that enter block ``place``."""
        return torch.cat([self.drawing.images(part, place) for part in rows.split(self.at_once)])

    @torch.no_grad()
    def compared(self, latents: Tensor, targets: Tensor) -> Tensor:
        """The feature errors ``(N, candidates)`` of candidates for targets ``(N, *cut)``."""
        drawn = torch.cat([self.encoder(self.drawing(part)) for part in latents.split(self.at_once)]).flatten(1)
        centre = drawn.mean(0)  # distances about the mean lose no digits
        wanted, drawn = targets.flatten(1) - centre, drawn - centre
        kept = (targets.flatten(1) != 0).float() if self.drops else torch.ones_like(wanted)
        wanted = kept * wanted
        squares = wanted.square().sum(1, keepdim=True) - 2 * wanted @ drawn.T + kept @ drawn.square().T
        return squares / (kept.sum(1, keepdim=True).clamp(min=1) * self.scale)

    def errors(self, images: Tensor, targets: Tensor) -> Tensor:
        """The feature error ``(B,)`` of images, in units of the features' variance."""
        features: Tensor = self.encoder(images)
        return feature_errors(features, targets, drops=self.drops) / self.scale

    def descend(
        self,
        stage: Stage,
        place: int,
        start: Tensor,
        targets: Tensor,
        penalty: Callable[[Tensor, Tensor, slice], Tensor],
        *,
        noise: Tensor | None = None,
        constrain: Callable[[Tensor], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Descends on rows ``(B, ...)`` that enter block ``place``; see `descend_rows`.

        Args:
            stage: Its name, and how long and how fast.
            place: Number of the block, from 0.
            start: The rows.
            targets: Their features ``(B, *cut)``.
            penalty: Of rows, their images and which of all they are, ``(b,)``; beside the feature error.
            noise: Deviation ``(...)`` of what is added to rows at first.
            constrain: Projects all rows, in place, after a step.

        Returns:
            The rows with the least feature error on the way, the start included, and those errors ``(B,)``.
        """

        def objective(rows: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            images = self.drawing.images(rows, place)
            return self.errors(images, targets[part]), penalty(rows, images, part)

        sums = [float(each.double().sum()) for each in (targets, targets.square())]
        found = descend_rows(
            stage,
            start,
            objective,
            self.run,
            [self.identity, place, sums],
            noise=noise,
            constrain=constrain,
            at_once=self.at_once,
        )
        self.history[stage.name] = found.history
        return found.rows, found.errors
