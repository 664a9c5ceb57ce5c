"""Latent optimisation, shared by attacks with a generator: sample latents, select, optimise, select again."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion.base import (
    Access,
    ClassInversion,
    ClassKnowledge,
    check_gradients,
    check_width,
)
from splitleak.attacker.class_inversion.features import FeatureGoal, MatchedFeatures
from splitleak.attacker.training.critic import Critic
from splitleak.config import Config, digest
from splitleak.defenses.classes.adaptive import feature_extractor
from splitleak.defenses.features.layers import last_layer
from splitleak.measures.identity import IDENTITY_LOSSES
from splitleak.models.engine import fused
from splitleak.models.generator import Generator
from splitleak.models.imported import ImportedGenerator
from splitleak.seeding import generator
from splitleak.training.fit import Resumable, step_ranges
from splitleak.training.modules import freeze

OF_GRADIENTS = frozenset({"identity", "optimizer", "learning_rate", "beta1", "beta2"})
"""The settings of a descent, which is not made without the weights."""

_BATCH = 256
_MADE = "queries made"  # in a checkpoint

_Stretch = TypeVar("_Stretch")
Drawing = Generator | ImportedGenerator
Identity = Literal["cross-entropy", "logit", "max-margin", "poincare"] | MatchedFeatures


class SearchConfig(Config):
    """The settings of every search: ``restarts`` latents are optimised per class; the best ``images`` are returned."""

    identity: Identity = Field(default="cross-entropy", description="the loss that says how far from a class it is")
    candidates: int = Field(
        default=0, ge=0, description="latents scored for every class, the best of which are its starts; 0: no selection"
    )
    restarts: int = Field(default=5, ge=1, description="latents optimised for each class")
    images: int | None = Field(default=None, ge=1, description="given of each class, at most; default: all")
    optimizer: Literal["adam", "nesterov"] = "adam"
    learning_rate: float = Field(default=0.05, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1, description="of Adam; Nesterov's momentum")
    beta2: float = Field(default=0.999, ge=0, lt=1)
    steps: int = Field(default=150, ge=0)


@dataclass
class Search:
    """The networks of one search: generator, critic, and the model by its weights or by queries, which are counted."""

    name: str
    generator: Drawing
    critic: Critic | None
    model: nn.Module | None
    query: Query | None
    known: ClassKnowledge
    run: Run
    classes: int = 0
    evaluations: int = 0  # images that went through the attacker's own copy of the model
    goal: FeatureGoal | None = None  # if features are to be matched
    confidences: list[Tensor] = field(default_factory=list)  # logged and not popped yet

    def counted(self, state: Resumable, stretches: Iterable[_Stretch]) -> Iterator[_Stretch]:
        """The stretches of a loop that asks the model, whose count of queries is part of its checkpoint.

        A loop that is taken up again so ends with the pictures and the count of one that was not interrupted. What it
        asked after its last checkpoint, and again for its starts, is counted nowhere.
        """
        assert self.query is not None
        for stretch in stretches:
            if _MADE in state.kept:
                self.query.made = int(state.kept[_MADE])
            yield stretch
            state.kept[_MADE] = torch.tensor(self.query.made)

    def draw(self, use: str) -> torch.Generator:
        """A stream of randomness for one use."""
        return generator(self.run.seed, self.name, use)

    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The generator's images ``(B, C, H, W)`` of latents ``(B, d)``, of ``labels`` if it is conditional."""
        drawn: Tensor = self.generator(latents, labels if self.generator.config.classes else None)
        return drawn

    def logits(self, images: Tensor) -> Tensor:
        """The white-box model's logits ``(B, K)`` of images."""
        assert self.model is not None
        self.evaluations += len(images)
        answers: Tensor = self.model(images)
        check_width(self.name, self.known, answers.shape[1])
        return answers

    @torch.no_grad()
    def log_confidence(self, logits: Tensor, labels: Tensor) -> None:
        """Logs the model's confidence that images of logits ``(B, K)`` show classes ``(B,)``."""
        self.confidences.append(logits.softmax(1).gather(1, labels[:, None]))

    def pop_confidence(self) -> dict[str, float]:
        """The mean ``confidence`` logged since the last time; nothing where none was."""
        logged, self.confidences = self.confidences, []
        return {"confidence": float(torch.cat(logged).mean())} if logged else {}

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """The model's probabilities of images ``(B, K)``, by its weights or by queries."""
        if self.model is not None:
            return self.logits(images).softmax(1)
        assert self.query is not None
        answers = self.query(images.cpu())
        if answers.ndim != 2 or len(answers) != len(images):
            expected = f"({len(images)}, K)"
            raise ValueError(f"attack {self.name!r}: expected scores {expected}, got {tuple(answers.shape)}")
        check_width(self.name, self.known, answers.shape[1])
        return answers.to(images.device)

    def labels(self, each: int) -> Tensor:
        """The classes of ``each`` latents a class ``(K * each,)``."""
        return torch.arange(self.classes, device=self.run.device).repeat_interleave(each)


Loss = Callable[[Search, Tensor, Tensor, torch.Generator], Tensor]
"""The loss ``(B,)`` of rows ``(B, ...)`` for classes ``(B,)``; randomness comes from the generator."""


class LatentSearch(ClassInversion):
    """Optimises latents so that the model classifies their images as the class. Subclasses override single stages.

    After a run, ``findings`` holds ``scores``, the target's confidence in every returned image, ``[class][image]``, and
    `weights` the ``latents`` ``(K, R, d)`` behind them. All selection is by the attacked model. To match features it
    also needs public images.

    ``unused`` are the settings of every search that have no effect on it, which are left as they are.

    Raises:
        ValueError: Features are to be matched by an attack that does not see the weights, or a setting is unused.
    """

    access: ClassVar[Access] = "white"
    needs = frozenset({"model", "prior"})
    unused: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: SearchConfig) -> None:
        super().__init__(config)
        self.config: SearchConfig = config
        if isinstance(config.identity, MatchedFeatures):
            if self.access != "white":
                raise ValueError(f"attack {self.name!r}: expected a white box to match features, got {self.access}s")
            self.needs = self.needs | {"public"}
        default = type(config)()
        if given := [name for name in sorted(self.unused) if getattr(config, name) != getattr(default, name)]:
            raise ValueError(f"attack {self.name!r}: expected settings that it uses, got {', '.join(given)}")
        self.kept: dict[str, Tensor] = {}

    def weights(self) -> dict[str, Tensor]:
        return self.kept

    def invert(self, known: ClassKnowledge, run: Run) -> Tensor:
        search = self.prepare(known, run)
        starts = self.select(search, self.sample(search))
        latents = self.optimise(search, starts)
        images, scores, latents = self.choose(search, latents)
        self.kept = {**self.kept, "latents": latents.cpu()}
        self.findings |= {**self.told(scores), "evaluations": search.evaluations}
        return images

    def told(self, scores: Tensor) -> dict[str, object]:
        """The findings about the scores ``(K, R)`` by which the returned images were chosen."""
        return {
            "scores": [[round(float(score), 6) for score in row] for row in scores],
            "confidence": float(scores.mean()),
        }

    def prepare(self, known: ClassKnowledge, run: Run) -> Search:
        """The networks, copied to the run's device, and the number of classes.

        Raises:
            ValueError: The generator draws by class, and not those of the model; or no gradient reaches an image.
        """
        model = None if known.model is None or self.access != "white" else freeze(fused(known.model), run.device)
        if model is not None:
            check_gradients(self.name, model, known.image_shape, run.device)
        drawing, critic = self.networks(known, run, model)
        drawing = freeze(fused(drawing), run.device)
        search = Search(self.name, drawing, critic, model, known.query, known, run)
        with torch.no_grad():
            blank = torch.zeros(1, *known.image_shape, device=run.device)
            search.classes = known.classes if model is None and known.classes else search.scores(blank).shape[1]
        own = drawing.config.classes
        if own not in (None, search.classes):
            expected = f"a prior without classes, or of the model's {search.classes}"
            raise ValueError(f"attack {self.name!r}: expected {expected}, got one of {own} classes")
        if isinstance(self.config.identity, MatchedFeatures):
            search.goal = self.goal(search, self.config.identity)
        return search

    def goal(self, search: Search, identity: MatchedFeatures) -> FeatureGoal:
        """The target features of each class.

        Raises:
            ValueError: The model has no head that is known, or cannot tell public images apart.
        """
        assert search.model is not None
        assert search.known.public is not None
        public, device = search.known.public, search.run.device
        try:
            body = feature_extractor(search.model)
            scores = answers_to(search.model, public, device).softmax(1)
            return FeatureGoal.of(body, answers_to(body, public, device), scores, identity.each)
        except ValueError as error:
            raise ValueError(f"attack {self.name!r}: {error}") from None

    def networks(self, known: ClassKnowledge, run: Run, model: nn.Module | None) -> tuple[Drawing, Critic | None]:
        """The generator, which is copied, and its frozen critic: the prior's, unless the attack trains its own."""
        assert known.prior is not None
        critic = known.prior.critic
        return known.prior.generator, critic and freeze(copy.deepcopy(critic), run.device)

    def sample(self, search: Search) -> Tensor:
        """Initial latents: candidates ``(S, d)``, the same for all classes, or the starts ``(K, N, d)``."""
        config, wide = self.config, search.generator.config.latent
        shape = (config.candidates, wide) if config.candidates else (search.classes, config.restarts, wide)
        return torch.randn(shape, generator=search.draw("sample")).to(search.run.device)

    def select(self, search: Search, pool: Tensor) -> Tensor:
        """The starts ``(K, N, d)``: the candidates of highest confidence for each class."""
        if pool.ndim == 3:
            return pool
        best = self.rate(search, pool).topk(min(self.config.restarts, len(pool)), dim=1).indices
        starts: Tensor = pool[best]
        return starts

    @torch.no_grad()
    def rate(self, search: Search, pool: Tensor) -> Tensor:
        """The model's confidence in each class ``(K, S)`` of candidates ``(S, d)``."""
        if search.generator.config.classes is None:
            return torch.cat([self.first_scores(search, search.images(part)) for part in pool.split(_BATCH)]).T
        labels = search.labels(len(pool))
        pairs = zip(pool.repeat(search.classes, 1).split(_BATCH), labels.split(_BATCH), strict=True)
        told = torch.cat([self.first_scores(search, search.images(*pair)) for pair in pairs])
        return told.gather(1, labels[:, None]).view(search.classes, len(pool))

    def first_scores(self, search: Search, images: Tensor) -> Tensor:
        """The probabilities ``(B, K)`` by which images of candidates are selected."""
        return search.scores(images)

    def optimise(self, search: Search, starts: Tensor) -> Tensor:
        """Optimises latents ``(K, N, d)``, each independently of the others."""
        each = starts.shape[1]
        moved = self.descend(search, starts.flatten(0, 1), search.labels(each), self.loss, self.constrain)
        found: Tensor = moved.unflatten(0, (-1, each))
        return found

    def descend(
        self,
        search: Search,
        start: Tensor,
        labels: Tensor,
        loss: Loss,
        constrain: Callable[[Tensor], None],
        *,
        steps: int | None = None,
        rate: float | None = None,
        stage: str = "search",
    ) -> Tensor:
        """Gradient descent on each row's own loss; resumable.

        Args:
            search: Networks and random streams.
            start: The initial rows ``(B, ...)``.
            labels: Their classes ``(B,)``.
            loss: Of rows and classes.
            constrain: Projects rows back, in place, after each step.
            steps: How many; default: the config's.
            rate: The learning rate; default: the config's.
            stage: Names the checkpoint, the random stream and the history.
        """
        total = self.config.steps if steps is None else steps
        values = nn.Parameter(start.clone())
        optimizer, draw = self.optimizer(values, rate), search.draw(stage)
        state = Resumable(
            identity=self.fingerprint(search, start, stage),
            modules={"latents": nn.ParameterDict({"latents": values})},
            optimizers={"steps": optimizer},
            generators={"steps": draw},
        )
        checkpoint, started = search.run.part(stage).checkpoint, search.evaluations
        for iterations in step_ranges(self.name, total, state, checkpoint, search.run.report):
            losses, before = torch.zeros(len(values), device=values.device), search.evaluations
            for _ in iterations:
                values.grad, losses = _slope(search, values.detach(), labels, loss, draw)
                optimizer.step()
                with torch.no_grad():
                    constrain(values)
            figures = {"loss": float(losses.mean()), "evaluations": search.evaluations - before}
            state.history.append(figures | search.pop_confidence())
        self.findings["history" if stage == "search" else f"history_{stage}"] = state.history
        search.evaluations = started + int(sum(figures["evaluations"] for figures in state.history))
        return values.detach()

    def loss(self, search: Search, values: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """The loss ``(B,)`` of latents, by default the identity loss of their images."""
        return self.identity(search, search.images(values, labels), labels)

    def identity(self, search: Search, images: Tensor, labels: Tensor) -> Tensor:
        """The identity loss ``(B,)``: how far the model is from classifying images as ``labels``."""
        if isinstance(self.config.identity, MatchedFeatures):
            assert search.goal is not None
            assert search.model is not None
            search.evaluations += len(images)
            features = search.goal.body(images)
            search.log_confidence(last_layer(search.model).layer(features.detach()), labels)
            return search.goal.distance(features, labels)
        logits = search.logits(images)
        search.log_confidence(logits, labels)
        return IDENTITY_LOSSES[self.config.identity](logits, labels)

    def optimizer(self, values: nn.Parameter, rate: float | None = None) -> Optimizer:
        """The optimiser of the latents, or of other values at a ``rate`` of their own."""
        config, chosen = self.config, self.config.learning_rate if rate is None else rate
        if config.optimizer == "nesterov":
            return SGD([values], lr=chosen, momentum=config.beta1, nesterov=True)
        return Adam([values], lr=chosen, betas=(config.beta1, config.beta2))

    def constrain(self, values: Tensor) -> None:
        """Projects latents, in place, onto the allowed set after each step."""

    @torch.no_grad()
    def choose(self, search: Search, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The returned images ``(K, R, C, H, W)``, best first, the model's confidence in them, and their latents."""
        each, flat = latents.shape[1], latents.flatten(0, 1)
        labels = search.labels(each)
        scores = self.confidence(search, flat, labels).unflatten(0, (-1, each))
        best = best_first(scores, self.config.images)
        chosen, scores = latents[best], scores[best]
        parts = zip(chosen.flatten(0, 1).split(_BATCH), search.labels(chosen.shape[1]).split(_BATCH), strict=True)
        return torch.cat([search.images(*part) for part in parts]).unflatten(0, scores.shape), scores, chosen

    @torch.no_grad()
    def confidence(self, search: Search, latents: Tensor, labels: Tensor) -> Tensor:
        """The model's confidence ``(B,)`` that images of latents ``(B, d)`` show classes ``(B,)``."""
        parts = zip(latents.split(_BATCH), labels.split(_BATCH), strict=True)
        return torch.cat([self.judge(search, search.images(*part), part[1]) for part in parts])

    def judge(self, search: Search, images: Tensor, labels: Tensor) -> Tensor:
        """The model's confidence ``(B,)`` that images ``(B, C, H, W)`` show classes ``(B,)``."""
        return search.scores(images).gather(1, labels[:, None]).squeeze(1)

    @torch.no_grad()
    def fingerprint(self, search: Search, start: Tensor, stage: str) -> str:
        """The checkpoint's fingerprint: of config, seed, start, generator and model."""
        wide = search.generator.config.latent
        latents = torch.zeros(search.classes, wide, device=search.run.device)
        scores = self.confidence(search, latents, search.labels(1))
        goal = [] if search.goal is None else [search.goal.means / search.goal.spread]
        sums = [float(each.double().sum()) for each in (start, start.square(), scores, *goal)]
        return digest([self.name, stage, self.config.document(), search.run.seed, search.classes, sums])


def best_first(scores: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """An index to the highest ``count`` of scores ``(K, N)`` of each class, best first; None: to all.

    >>> best_first(torch.tensor([[0.1, 0.7, 0.2]]), 2)
    (tensor([[0]]), tensor([[1, 2]]))
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.arange(len(scores), device=scores.device)[:, None], order


def _slope(search: Search, values: Tensor, labels: Tensor, loss: Loss, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each row's gradient of its own loss ``(B, ...)``, and the losses ``(B,)``."""
    gradients, losses = [], []
    for part, own in zip(values.split(_BATCH), labels.split(_BATCH), strict=True):
        part = part.requires_grad_()
        found = loss(search, part, own, draw)
        gradients += torch.autograd.grad(found.sum(), part)
        losses.append(found.detach())
    return torch.cat(gradients), torch.cat(losses)


@torch.no_grad()
def answers_to(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """A white-box model's logits ``(M, K)``, or features, of images ``(M, C, H, W)``; on ``device``, batched."""
    return torch.cat([model(batch.to(device)) for batch in images.split(_BATCH)])
