"""Feature inversion by gradient descent on the image, shared by the white-box and the query-free attack."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from splitleak.attacker.base import AsSent, Knowledge, Run
from splitleak.attacker.reconstruction.decoder import DecoderAttack, DecoderConfig
from splitleak.attacker.training.fitting import cosine, crossed, gather, predict, replayed, set_rate
from splitleak.config import Config, digest
from splitleak.measures.pixel import total_variation
from splitleak.models.decoder import channel_levels, unusual_variance
from splitleak.models.grids import channels_of
from splitleak.training.fit import Resumable, step_ranges
from splitleak.training.memory import affordable_rows
from splitleak.training.modules import freeze, passes_gradients

_DIRECTIONS = 2000  # errors on public images that directions are taken from, at most
_SLIGHTEST = 1e-5  # share of the largest variance below which a direction is left out
_ENCODE_BATCH = 256
_LARGE, _CHANCE = 0.9, 1e-3  # of the values, those below the large ones; share of zeros that are no dropout yet
_REACH, _HALF_OF_NORMAL = 4.0, 0.6745  # deviations of noise that tell from it; half of a normal's values are within
_DROPPED = 0.02  # of the large values, at least, where values are dropped: the tails of noise alone do less
_USUAL = 0.1  # variance that features of an unusual one are weighed as of: the weights of the priors are meant for it

DRAWS = DecoderConfig().draws
"""Features of an image that a white box's decoder learns from, where each is drawn anew: as many as one alone."""


class DescentConfig(Config):
    """Initialisation and steps of the descent. The defaults are a preset for a CPU."""

    start: Literal["decoder", "mean"] = Field(
        default="decoder", description="the decoder's reconstruction, or the mean of the public images"
    )
    decoder_epochs: int = Field(default=12, ge=1, description="training of that decoder")
    iterations: int = Field(default=150, ge=1)
    learning_rate: float = Field(default=0.3, gt=0, description="falls along a cosine to a hundredth")
    adam_epsilon: float = Field(default=1e-8, gt=0)
    box: bool = Field(default=True, description="show the encoder values clamped to [0, 1]; else clamp at the end only")
    batch_size: int = Field(default=256, ge=1, description="images in one pass; does not change what becomes of one")


@dataclass(frozen=True)
class Start:
    """Initial images, and the directions in which they may move, each of one standard deviation."""

    centre: Callable[[Tensor], Tensor]  # features (N, *cut) to images (N, C, H, W)
    directions: Tensor  # (r, C*H*W); or (C*H*W,) where every pixel moves alone, by that much
    deviation: Tensor  # (C, 1, 1), standard deviation of the public images a channel: the unit of the smoothness
    weight: float = 1.0  # of the feature's error, beside which priors are weighed, see `error_weight`
    drops: bool = False  # whether values of 0 were dropped on the way, see `drops`


@dataclass(frozen=True)
class Descended:
    """Images ``(N, C, H, W)``, not clamped, and the losses on the way."""

    images: Tensor
    feature_losses: list[float]  # mean squared error of the features, before the first iteration and every 25 after
    gradient_norm: float  # at the start, of the weighed feature loss of one image in its pixels; mean over images

    def findings(self) -> dict[str, object]:
        """The findings of an attack."""
        return {
            "feature_losses": self.feature_losses,
            "feature_loss_start": self.feature_losses[0],
            "feature_loss_end": self.feature_losses[-1],
            "gradient_norm_start": self.gradient_norm,
        }


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Features ``(N, *cut)`` of images, on the CPU."""
    rows = affordable_rows(encoder, images[:1].to(device), math.prod(images.shape[2:]), _ENCODE_BATCH)
    return torch.cat([encoder(batch.to(device)).float().cpu() for batch in images.split(rows)])


def frozen_encoder(name: str, known: Knowledge, run: Run) -> nn.Module:
    """The edge's encoder, a frozen copy on the run's device, through which images are to be descended on.

    Raises:
        ValueError: No gradient of its features reaches an image; ``name`` is the attack's.
    """
    assert known.encoder is not None
    encoder = freeze(copy.deepcopy(known.encoder), run.device)
    if not passes_gradients(encoder, known.image_shape, run.device):
        expected = "an encoder that lets gradients through to the image"
        raise ValueError(f"{name}: expected {expected}, got one that rounds it, or casts it to whole numbers")
    return encoder


def encode_public(name: str, encoder: nn.Module, known: Knowledge, device: torch.device) -> Tensor:
    """The public images' features ``(1, M, *cut)`` by the attacker's own encoder, in place of queries to the edge.

    Raises:
        ValueError: Their shape is not that of the captured ones; ``name`` is the attack's.
    """
    assert known.public is not None
    features = encode(encoder, known.public, device)
    if features.shape[1:] != known.captured.shape[1:]:
        expected, got = tuple(known.captured.shape[1:]), tuple(features.shape[1:])
        raise ValueError(f"{name}: expected an encoder to features {expected}, got {got}")
    return features[None]


def public_features(name: str, encoder: nn.Module, known: Knowledge, run: Run, draws: int = 1) -> Tensor:
    """What a white box learns from: the public images' features ``(draws, M, *cut)``.

    By queries, so that they crossed the wire as the victims' did; without, by its own encoder, and what the edge's half
    tells of the wire. So many of each where something is drawn on it, as far as `gather` and `crossed` go.

    Raises:
        ValueError: Their shape is not that of the captured ones; ``name`` is the attack's.
    """
    if known.query is not None:
        return gather(known, name, draws)
    bare = encoder[0] if isinstance(encoder, AsSent) and known.simulate is not None else encoder
    return crossed(encode_public(name, bare, known, run.device)[0], known, draws, run.seed)


@torch.no_grad()
def cleared(encoder: nn.Module, answers: Tensor, known: Knowledge, device: torch.device) -> tuple[Tensor, Knowledge]:
    """The answers and what is known with 0 where a value was dropped and then had noise added to it.

    That is where large values arrive either about as the encoder gives them or about 0, beside little noise; what is
    within four deviations of it is then taken for dropped. Elsewhere all is as it was.

    Args:
        encoder: On the device.
        answers: Features ``(draws, M, *cut)`` of the public images.
        known: With these images and the captured features.
        device: Where the encoder is.
    """
    assert known.public is not None
    own, sent = encode(encoder, known.public[:_ENCODE_BATCH], device), answers[0, :_ENCODE_BATCH].float()
    large = _large(own)
    if not bool(large.any()):
        return answers, known
    apart, size = (sent - own)[large].abs(), sent[large].abs()
    reach = _REACH * float(torch.minimum(apart, size).median()) / _HALF_OF_NORMAL
    dropped = (size < reach) & (apart > reach)
    if not float(own[large].abs().min()) > 2 * reach > 0 or not dropped.float().mean() > _DROPPED:
        return answers, known
    answers, captured = (part.where(part.abs() > reach, 0) for part in (answers, known.captured))
    return answers, replace(known, captured=captured)


def _large(own: Tensor) -> Tensor:
    """Which values of features are large ones, of those that are not 0."""
    sizes = own[own != 0].abs()
    return own.abs() >= (sizes.kthvalue(max(1, round(_LARGE * len(sizes)))).values if len(sizes) else torch.inf)


class _Divided(nn.Module):
    """Features ``(B, *cut)`` divided by what is given for their channels."""

    def __init__(self, by: Tensor) -> None:
        super().__init__()
        self.register_buffer("by", by)
        self.by: Tensor

    def forward(self, features: Tensor) -> Tensor:
        return features / self.by


@torch.no_grad()
def evened(
    encoder: nn.Module, answers: Tensor, known: Knowledge, device: torch.device
) -> tuple[nn.Module, Tensor, Knowledge]:
    """The encoder, its answers and what is known, with channels divided so that a few drown no others in an error.

    That is where `channel_levels` finds some; elsewhere all is as it was.

    Args:
        encoder: On the device.
        answers: Features ``(draws, M, *cut)`` of the public images.
        known: With the captured features.
        device: Where the encoder is.
    """
    channels = channels_of((tuple(answers.shape[2:]),), known.image_shape)
    level = channel_levels(answers[0].float(), channels)
    if not bool((level > 1).any()):
        return encoder, answers, known
    divided = _Divided(level)
    known = replace(known, captured=divided(known.captured))
    return nn.Sequential(encoder, copy.deepcopy(divided).to(device)), divided(answers.float()), known


def white_box(name: str, known: Knowledge, run: Run, draws: int = 1) -> tuple[nn.Module, Tensor, Knowledge]:
    """What a white box descends through, what public images cross as ``(draws, M, *cut)``, and what is known.

    The encoder is frozen, see `frozen_encoder`, and the features are `public_features`; in all three what was dropped
    before noise is 0, see `cleared`, and no channels drown the others, see `evened`.

    Raises:
        ValueError: No gradient reaches an image, or features are of another shape; ``name`` is the attack's.
    """
    encoder = frozen_encoder(name, known, run)
    answers, known = cleared(encoder, public_features(name, encoder, known, run, draws), known, run.device)
    return evened(encoder, answers, known, run.device)


def error_weight(features: Tensor) -> float:
    """The weight of the error of features like ``(M, *cut)``: 1, unless their variance is far from the usual.

    Beside the error of slight features the priors would drown it, and so would the epsilon of Adam.
    """
    variance = unusual_variance(features)
    return 1.0 if variance is None else _USUAL / variance


def drops(encoder: nn.Module, images: Tensor, answers: Tensor, captured: Tensor, device: torch.device) -> bool:
    """Whether values are set to 0 on the way, be they large or small: by dropout, and not by quantisation.

    By what crossed of public images; where that is just what the encoder gives, by what was captured, if the encoder
    itself gives no 0.

    Args:
        encoder: On the device.
        images: Public images ``(M, C, H, W)`` in [0, 1].
        answers: What crossed of them ``(M, *cut)``.
        captured: Of others ``(N, *cut)``.
        device: Where the encoder is.
    """
    own = encode(encoder, images[:_ENCODE_BATCH], device)
    sent = answers[:_ENCODE_BATCH].float()
    if torch.equal(own, sent) and bool((own != 0).all()):
        sent = captured[:_ENCODE_BATCH]
        own = own.mean(0).expand_as(sent)
    lost = (sent == 0).float()
    share = lost[own != 0].mean()
    return bool(share > _CHANCE and lost[_large(own)].mean() > share / 2)


def feature_errors(found: Tensor, sent: Tensor, *, drops: bool) -> Tensor:
    """The mean squared error ``(B,)`` of features ``(B, *cut)``; where values are dropped, of what is not 0."""
    squares = (found - sent).square().flatten(1)
    if not drops:
        return squares.mean(1)
    kept = (sent != 0).flatten(1)
    return (kept * squares).sum(1) / kept.sum(1).clamp(min=1)


def start_from(
    config: DescentConfig, encoder: nn.Module, answers: Tensor, images: Tensor, known: Knowledge, run: Run
) -> Start:
    """The initialisation that ``config`` names, learnt from public images and their features.

    From a decoder, images move along the principal directions of its errors on those images: a Gaussian prior whose
    covariance is theirs. From the mean, each pixel moves alone, by its channel's standard deviation.

    Args:
        config: The descent's.
        encoder: What is descended through, frozen, on the run's device.
        answers: Features ``(draws, M, *cut)``.
        images: Public images ``(M, C, H, W)`` in [0, 1].
        known: The threat model; these pairs take the place of its own.
        run: Seed, device, report, and checkpoint, which is kept under a name of its own.

    Raises:
        ValueError: A decoder cannot be built for the feature's shape, or there are too few images for one.
    """
    spread = images.std((0, 2, 3), correction=0).clamp(min=1e-3)[:, None, None]
    weight = error_weight(answers[0])
    dropped = drops(encoder, images, answers[0], known.captured, run.device)
    if config.start == "mean":
        return Start(
            lambda features: images.mean(0).expand(len(features), *images.shape[1:]),
            spread.expand(images.shape[1:]).flatten(),
            spread,
            weight,
            dropped,
        )
    decoder = decoder_of(config.decoder_epochs, answers, images, known, run)
    errors = (predict(decoder, answers[0, :_DIRECTIONS], run.device) - images[:_DIRECTIONS]).flatten(1)
    errors /= len(errors) ** 0.5
    variances, weights = torch.linalg.eigh((errors @ errors.T).double())
    kept = variances > _SLIGHTEST * variances[-1]
    directions = weights[:, kept].T.float() @ errors
    return Start(lambda features: predict(decoder, features, run.device), directions, spread, weight, dropped)


def decoder_of(epochs: int, answers: Tensor, images: Tensor, known: Knowledge, run: Run) -> nn.Module:
    """A decoder from features to images, trained for so many epochs on answers and images as `start_from`'s.

    Raises:
        ValueError: A decoder cannot be built for the feature's shape, or there are too few images for one.
    """
    pairs = replace(known, public=images, query=replayed(answers))
    attack = DecoderAttack(DecoderConfig(epochs=epochs))
    attack(pairs, run.part("decoder"))
    assert attack.network is not None
    return attack.network


def descend(
    encoder: nn.Module,
    features: Tensor,
    start: Start,
    config: DescentConfig,
    run: Run,
    *,
    tv_weights: Tensor,
    l2_weights: Tensor,
    name: str,
) -> Descended:
    r"""Minimises, for each image x that moved by u along the directions from its start,

    .. math:: \frac w{d_z} \| f(x) - z \|^2 + \lambda_{TV}\,TV(x) + \frac{\lambda_2}{d_x} \| u \|^2

    with Adam (AMSGrad), and the weight w of the start. No image's descent depends on another's. TV is in units of the
    public images' deviation. Where values are dropped on the way, those of exactly 0 are left out of the error.

    Args:
        encoder: f, frozen, on the run's device.
        features: z, ``(N, *cut)``.
        start: The initial images, and the directions.
        config: Iterations and learning rate.
        run: Device, report, and checkpoint, which is kept under a name of this descent's own.
        tv_weights: Of the total variation, ``(N,)``.
        l2_weights: Of the distance from the start, ``(N,)``.
        name: Of this descent, among those of one attack; names its checkpoint.
    """
    problem = _Problem(encoder, features, start, config, tv_weights, l2_weights, run.device)
    optimizer = Adam([problem.moves], lr=config.learning_rate, eps=config.adam_epsilon, amsgrad=True)
    state = Resumable(
        identity=digest([config.document(), run.seed, name, problem.sums()]),
        modules={"images": nn.ParameterDict({"moves": problem.moves})},
        optimizers={"adam": optimizer},
        generators={},
    )
    first, gradient_norm = problem.look(), problem.gradient_norm()
    for iterations in step_ranges(name, config.iterations, state, run.part(name).checkpoint, run.report):
        for iteration in iterations:
            set_rate(optimizer, config.learning_rate * cosine(iteration / config.iterations))
            problem.moves.grad = problem.gradient()
            optimizer.step()
        state.history.append({"feature_loss": problem.look()})
    losses = [first, *(figures["feature_loss"] for figures in state.history)]
    return Descended(problem.images().cpu(), losses, gradient_norm)


class _Problem:
    """The loss of all images, a batch at a time."""

    def __init__(
        self,
        encoder: nn.Module,
        features: Tensor,
        start: Start,
        config: DescentConfig,
        tv_weights: Tensor,
        l2_weights: Tensor,
        device: torch.device,
    ) -> None:
        self.encoder, self.config = encoder, config
        self.features, self.centre = features.to(device), start.centre(features).to(device)
        self.directions, self.deviation = start.directions.to(device), start.deviation.to(device)
        self.tv_weights, self.l2_weights = tv_weights.to(device), l2_weights.to(device)
        self.weight, self.drops = start.weight, start.drops
        self.moves = nn.Parameter(torch.zeros(len(features), len(self.directions), device=device))
        rows = affordable_rows(encoder, self.centre[:1], math.prod(self.centre.shape[2:]), config.batch_size)
        self.parts = [slice(at, at + rows) for at in range(0, len(features), rows)]

    def sums(self) -> list[float]:
        """A fingerprint of the problem."""
        parts = (self.features, self.centre, self.directions.square(), self.tv_weights, self.l2_weights)
        return [float(each.double().sum()) for each in parts]

    def moved(self, part: slice, moves: Tensor) -> Tensor:
        step = moves * self.directions if self.directions.ndim == 1 else moves @ self.directions
        return self.centre[part] + step.view_as(self.centre[part])

    def shown(self, images: Tensor) -> Tensor:
        return images.clamp(0, 1) if self.config.box else images

    def errors(self, part: slice, shown: Tensor) -> Tensor:
        return feature_errors(self.encoder(shown), self.features[part], drops=self.drops)

    def gradient(self) -> Tensor:
        """Of each image's loss in its moves ``(N, r)``."""
        found = torch.empty_like(self.moves)
        for part in self.parts:
            moves = self.moves.detach()[part].requires_grad_()
            shown = self.shown(self.moved(part, moves))
            far = moves.square().sum(1) / shown[0].numel()
            loss = self.weight * self.errors(part, shown) + self.l2_weights[part] * far
            if bool(self.tv_weights.any()):
                loss = loss + self.tv_weights[part] * total_variation(shown / self.deviation)
            (found[part],) = torch.autograd.grad(loss.sum(), moves)
        return found

    def gradient_norm(self) -> float:
        """Of one image's feature error, as weighed, in its pixels, where it is now; the mean over images."""
        norms = []
        for part in self.parts:
            shown = self.shown(self.moved(part, self.moves.detach()[part])).requires_grad_()
            (gradient,) = torch.autograd.grad(self.weight * self.errors(part, shown).sum(), shown)
            norms.append(gradient.flatten(1).norm(dim=1))
        return float(torch.cat(norms).mean())

    @torch.no_grad()
    def images(self) -> Tensor:
        return torch.cat([self.moved(part, self.moves[part]) for part in self.parts])

    @torch.no_grad()
    def look(self) -> float:
        """The mean squared error of the features, now."""
        shown = self.shown(self.images())
        return float(torch.cat([self.errors(part, shown[part]) for part in self.parts]).mean())
