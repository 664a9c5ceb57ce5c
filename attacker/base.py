"""The base class of attacks, and the threat model as a type: the victims' images are not part of it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, final

import torch
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.defenses.stack import Stack
from splitleak.logs import Report, silent
from splitleak.models.grids import check_parts
from splitleak.seeding import generator
from splitleak.tables import Table

if TYPE_CHECKING:
    from splitleak.attacker.diffusion import DiffusionPrior
    from splitleak.attacker.prior import Prior

Simulate = Callable[[Tensor, int, int], Tensor]
"""An encoder's features ``(M, *cut)``, how often, and a seed, to what would be captured of them ``(draws, M, *cut)``:
each time with fresh noise, the mean of as many crossings as what was captured, and undone like that; on the CPU."""

Seen = Literal["features", "scores"]
"""What an attack on victims starts from."""


class Query:
    """The attacker's access to the deployed edge or service, as any user has it: images in, features or scores seen.

    Counts every image sent. Defenses act on the answers as on everybody's: asked again, a randomised one answers anew.
    """

    def __init__(
        self,
        send: Callable[[Tensor], Tensor],
        budget: int | None = None,
        *,
        draws: int = 1,
        averaging: int = 1,
        answers: Literal["scores", "labels"] = "scores",
        recorded: bool = False,
    ) -> None:
        """A black box that answers queries.

        Args:
            send: Images ``(N, C, H, W)`` in [0, 1] to features ``(N, *cut)`` or scores ``(N, K)``.
            budget: Queries at most; None: no limit.
            draws: How often an attack that learns from noise should ask for the same image.
            averaging: Answers of which ``send`` gives the mean; an image costs as many queries.
            answers: ``labels`` are one-hot rows.
            recorded: ``send`` replays what was answered, so that asking again brings nothing new.

        Raises:
            ValueError: An image is not asked about once.
        """
        if draws < 1 or averaging < 1:
            raise ValueError(f"expected draws and averaging of at least 1, got {draws} and {averaging}")
        self._send = send
        self.budget = budget
        self.draws = draws
        self.averaging = averaging
        self.answers = answers
        self.recorded = recorded
        self.made = 0
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Features of ``images`` as they crossed the wire.

        Raises:
            PermissionError: The budget would be exceeded; nothing is sent.
        """
        keys = map(_key, images) if self._kept else ()
        kept = {key: place for place, key in enumerate(keys) if key in self._kept}
        others = sorted({*range(len(images))} - {*kept.values()})
        if not self.affords(len(others)):
            queries = self.made + len(others) * self.averaging
            raise PermissionError(f"expected at most {self.budget} queries, got {queries}")
        self.made += len(others) * self.averaging
        if not kept:
            return self._send(images)
        answers = {place: self._kept.pop(key) for key, place in kept.items()}
        answers |= dict(zip(others, self._send(images[others]), strict=True)) if others else {}
        return torch.stack([answers[place] for place in range(len(images))])

    def ahead(self, images: Tensor) -> Tensor:
        """Features of ``images``, each of which is given again, and not asked for, when it is asked about next."""
        answers = self(images)
        self._kept = dict(zip(map(_key, images), answers, strict=True))
        return answers

    def seen_as(self, change: Callable[[Tensor], Tensor]) -> "Query":
        """This black box with ``change`` made to all that it answers; what is asked is counted in both."""
        seen = copy.copy(self)
        seen._kept = {}
        seen._send = lambda images: change(self(images))
        return seen

    def affords(self, images: int) -> bool:
        """Whether answers for so many more images are within the budget."""
        return self.most(images) == images

    def most(self, images: int) -> int:
        """As many of so many more images as are within the budget."""
        return images if self.budget is None else min(images, (self.budget - self.made) // self.averaging)

    def affordable(self, images: int, seed: int) -> Tensor | None:
        """Which of so many images to ask about, each ``draws`` times; see `affordable`."""
        return affordable(self.budget, images, self.draws * self.averaging, seed)


def _key(image: Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()


def affordable(budget: int | None, images: int, each: int, seed: int) -> Tensor | None:
    """Which of the attacker's images to query where a budget does not cover all: a random choice, in their order.

    Under one seed, a larger budget adds to the choice of a smaller one.

    Args:
        budget: Queries at most; None: no limit.
        images: How many images there are.
        each: Queries that one of them takes.
        seed: Of the choice.

    Returns:
        Their indices; None where all are to be queried, or not even one can be, which is then the query's error.
    """
    if budget is None or budget // each >= images or budget < each:
        return None
    return torch.randperm(images, generator=generator(seed, "queried"))[: budget // each].sort().values


class AsSent(nn.Sequential):
    """A white box: the edge's encoder, and what some of its defenses send on average of what that gives."""

    def __init__(self, encoder: nn.Module, stack: Stack) -> None:
        super().__init__(encoder, _Expected(stack))


class _Expected(nn.Module):
    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, features: Tensor) -> Tensor:
        return self.stack.expected(features)


@dataclass(frozen=True)
class Knowledge:
    """The threat model of an attack on victims: all that it may use. None is withheld."""

    # float32, of the victims: features (N, *cut) read off the wire, averaged where an image was sent repeatedly, that
    # is (N, c, h, w), tokens (N, n, d) or vectors (N, d); or the scores (N, K) that they share, zero where they do not
    captured: Tensor
    image_shape: tuple[int, int, int]  # (C, H, W) of what is to be rebuilt
    public: Tensor | None = None  # (M, C, H, W) in [0, 1], disjoint from the victims' images
    query: Query | None = None  # the deployed edge, or the prediction service, as a black box
    labels: Tensor | None = None  # (M,) int64, the classes of the public images
    encoder: nn.Module | None = None  # a white box: the edge's weights, and what its defenses send on average
    head: nn.Module | None = None  # the cloud's weights, features to logits
    fresh_encoder: Callable[[], nn.Module] | None = None  # the edge's architecture: untrained encoders, global stream
    prior: "Prior | DiffusionPrior | None" = None  # a generator or a denoiser of images like the attacker's own
    kind: Seen = "features"  # what ``captured`` holds
    parts: tuple[tuple[int, ...], ...] | None = None  # shapes of the tensors that captured vectors pack, in order
    simulate: Simulate | None = None  # the wire, as a half tells its defenses; None: no half, or none of them draws


@dataclass(frozen=True)
class Shapes:
    """What a network from features to images is made for."""

    feature_shape: tuple[int, ...]  # without batch dimension
    image_shape: tuple[int, int, int]  # (C, H, W)
    pairs: int  # that it is trained on
    parts: tuple[tuple[int, ...], ...] | None = None  # shapes of the tensors that flat features pack, or were

    @classmethod
    def of(cls, known: Knowledge) -> "Shapes":
        """Those of what an attacker has captured, and has images of its own for."""
        pairs = 0 if known.public is None else len(known.public)
        return cls(tuple(known.captured.shape[1:]), known.image_shape, pairs, known.parts)


@dataclass(frozen=True)
class Run:
    """How an attack is run: seed, device, progress report, and the file of its checkpoint."""

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Report = silent
    checkpoint: Path | None = None

    def part(self, name: str) -> "Run":
        """The same run for one part of an attack, whose checkpoint is a file of its own beside the attack's."""
        path = self.checkpoint
        return replace(self, checkpoint=None if path is None else path.with_name(f"{path.name}.{name}"))


class Method(ABC):
    """The base of every attack: a name, a closed config, and the knowledge it needs.

    After a run, ``findings`` holds its diagnostics (losses, the chosen epoch, ...).
    """

    name: ClassVar[str]
    config_type: ClassVar[type[Config]]
    needs: frozenset[str]  # fields of what it is given to know that must be there; a config may add to its class's
    network: nn.Module | None = None  # what the attack has trained, after a run

    def __init__(self, config: Config) -> None:
        self.config = config
        self.findings: dict[str, object] = {}

    @classmethod
    def paper_config(cls) -> Config:
        """The published settings, where they differ from the defaults."""
        return cls.config_type()

    def weights(self) -> dict[str, Tensor]:
        """The weights of what the attack has trained, after a run; empty if nothing."""
        return {} if self.network is None else dict(self.network.state_dict())

    def _check_needs(self, known: object) -> None:
        for need in sorted(self.needs):
            if getattr(known, need) is None:
                raise PermissionError(f"attack {self.name!r} needs {need!r}, which this threat model withholds")

    def _check_public(self, public: Tensor | None, image_shape: tuple[int, int, int]) -> None:
        if public is not None and tuple(public.shape[1:]) != image_shape:
            got = tuple(public.shape[1:])
            raise ValueError(f"attack {self.name!r}: expected public images {image_shape}, got {got}")

    def _check_prior(self, prior: "Prior | DiffusionPrior | None", image_shape: tuple[int, int, int]) -> None:
        if prior is not None and prior.image_shape != image_shape:
            got = prior.image_shape
            raise ValueError(f"attack {self.name!r}: expected a prior of images {image_shape}, got {got}")

    def _checked(self, images: Tensor, expected: tuple[int, ...]) -> Tensor:
        """The reconstructions clamped to [0, 1], after a check that they are finite and of the ``expected`` shape."""
        if tuple(images.shape) != expected or not bool(images.isfinite().all()):
            what = "finite" if bool(images.isfinite().all()) else "not all finite"
            raise RuntimeError(f"attack {self.name!r}: expected finite images {expected}, got {what} {images.shape}")
        return images.clamp(0, 1)


AnyMethod = TypeVar("AnyMethod", bound=Method)


def build(kinds: Table[type[AnyMethod]], name: str, preset: str, settings: Mapping[str, Any]) -> AnyMethod:
    """The attack ``name`` of a table, from one of its presets, with ``settings`` on top.

    Args:
        kinds: The table, attacks by name.
        name: Which of them.
        preset: ``cpu``, the defaults, or ``paper``, the published settings.
        settings: Fields of its config that replace the preset's.

    Raises:
        ValueError: There is no such attack, or the settings do not fit it.
    """
    kind = kinds.choose(name)
    base = kind.paper_config() if preset == "paper" else kind.config_type()
    return kind(kind.config_type.parse({**base.document(), **settings}, source=f"attack {name!r}"))


class Attack(Method):
    """Rebuilds images from captured features or shared scores. A subclass writes `reconstruct`; the entry is final.

    Its needs are fields of `Knowledge`, beside ``captured``.
    """

    takes: ClassVar[Seen] = "features"  # what ``captured`` must be

    @final
    def __call__(self, known: Knowledge, run: Run | None = None) -> Tensor:
        """The rebuilt images ``(N, C, H, W)`` in [0, 1], in the order of ``known.captured``.

        Raises:
            PermissionError: The threat model withholds what the attack needs.
            ValueError: What is known does not fit together.
            RuntimeError: The attack gave something else than finite images of the right shape.
        """
        self._check_needs(known)
        if len(known.captured) == 0:
            raise ValueError(f"attack {self.name!r}: expected at least one captured feature, got none")
        shape = tuple(known.captured.shape)
        if known.kind != self.takes or (known.kind == "scores" and len(shape) != 2):
            expected = f"{self.takes} {'(N, K)' if self.takes == 'scores' else '(N, *cut)'}"
            raise ValueError(f"attack {self.name!r}: expected captured {expected}, got {known.kind} {shape}")
        if known.parts is not None:
            check_parts(shape[1:], known.parts)
        self._check_public(known.public, known.image_shape)
        self._check_prior(known.prior, known.image_shape)
        images = self.reconstruct(known, run or Run()).detach().float().cpu()
        return self._checked(images, (len(known.captured), *known.image_shape))

    def untrained(self, shapes: Shapes) -> nn.Module | None:
        """The network from features to images that `reconstruct` trains, before it did; None: it trains none."""
        return None

    @abstractmethod
    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        """The attack itself, called when all that it needs is there."""
