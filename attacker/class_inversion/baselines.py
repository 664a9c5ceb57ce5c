"""Baselines: pictures that were picked and not rebuilt, which is what an attacker has before any inversion."""

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import Access, ClassInversion, ClassKnowledge, check_width
from splitleak.config import Config
from splitleak.seeding import generator

_BATCH = 256


class SelectionConfig(Config):
    """How many pictures of each class are picked."""

    images: int = Field(default=10, ge=1, description="picked of each class; fewer where the pool is smaller")


class SamplesConfig(SelectionConfig):
    """How many pictures are picked, and of how many samples of the generator."""

    candidates: int = Field(default=2000, ge=1, description="samples of the generator that are picked from")


class Selection(ClassInversion):
    """Picks pictures of each class from a pool, and changes none of them. A subclass says from which pool, and how.

    An attack rebuilds something of the training images only as far as its pictures are recognised more often than those
    of the best baseline of the same access. Images ``(K, images, C, H, W)``, best first where there is an order; where
    a class has fewer, they are repeated, and a class without any gets random ones (findings: ``classes_unseen``). Of a
    pool that is larger than the queries allow, so many are chosen at random and picked from.
    """

    baseline = True
    config_type: ClassVar[type[SelectionConfig]] = SelectionConfig
    config: SelectionConfig

    def invert(self, known: ClassKnowledge, run: Run) -> Tensor:
        pool = self.pool(known, run)
        if "query" in self.needs and known.query is not None:
            chosen = known.query.affordable(len(pool), run.seed)
            pool = pool if chosen is None else pool[chosen]
        scores = self.scores(known, pool)
        check_width(self.name, known, scores.shape[1])
        order = torch.randperm(len(pool), generator=generator(run.seed, self.name, "order"))
        each = min(self.config.images, len(pool))
        self.findings = {
            "pool": len(pool),
            "classes_unseen": (scores.sum(0) == 0).nonzero().flatten().tolist(),
        }
        return torch.stack([pool[self.picked(of_class, order, each)] for of_class in scores.T])

    def picked(self, scores: Tensor, order: Tensor, each: int) -> Tensor:
        """The indices ``(each,)`` of the pictures of a class, of which the pool has scores ``(M,)``.

        Args:
            scores: How much each of the pool is of the class, 0 if it is not.
            order: A random order of the pool ``(M,)``, which decides where scores are equal.
            each: How many.
        """
        best = order[scores[order].sort(descending=True, stable=True).indices]
        own = best[: int((scores > 0).sum())]
        if not len(own):
            return order[:each]
        indices: Tensor = own.repeat(-(-each // len(own)))[:each]
        return indices

    def pool(self, known: ClassKnowledge, run: Run) -> Tensor:
        """The pictures that are picked from ``(M, C, H, W)``, by default the public images."""
        assert known.public is not None
        return known.public

    @abstractmethod
    def scores(self, known: ClassKnowledge, pool: Tensor) -> Tensor:
        """How much each of the pool is of each class ``(M, K)``: 0 if it is not."""


class _ByScores(Selection):
    access: ClassVar[Access] = "score"
    needs = frozenset({"public", "query"})

    def scores(self, known: ClassKnowledge, pool: Tensor) -> Tensor:
        assert known.query is not None
        answers = torch.cat([known.query(batch.cpu()) for batch in pool.split(_BATCH)])
        if answers.ndim != 2:
            raise ValueError(f"attack {self.name!r}: expected scores ({len(pool)}, K), got {tuple(answers.shape)}")
        return answers


class _ByLabel(_ByScores):
    access = "label"

    def scores(self, known: ClassKnowledge, pool: Tensor) -> Tensor:
        answers = super().scores(known, pool)
        return torch.nn.functional.one_hot(answers.argmax(1), answers.shape[1])


class _OfPrior(Selection):
    config_type = SamplesConfig
    config: SamplesConfig
    needs = frozenset({"prior", "query"})

    @torch.no_grad()
    def pool(self, known: ClassKnowledge, run: Run) -> Tensor:
        """Samples of the generator, of its own classes in turn if it is conditional."""
        assert known.prior is not None
        drawing = known.prior.generator
        shape, count = drawing.config, self.config.candidates
        latents = torch.randn(count, shape.latent, generator=generator(run.seed, self.name, "samples"))
        labels = None if shape.classes is None else torch.arange(count) % shape.classes
        drawn = [
            drawing(latents[rows].to(run.device), None if labels is None else labels[rows].to(run.device)).cpu()
            for rows in torch.arange(count).split(_BATCH)
        ]
        return torch.cat(drawn)


class PublicByScores(_ByScores):
    __doc__ = (
        f"Of each class, the public images that the model is surest of: no generator, no gradient. {Selection.__doc__}"
    )

    name = "public-by-scores"


class PublicByLabel(_ByLabel):
    __doc__ = f"Of each class, random public images that the model labels so. {Selection.__doc__}"

    name = "public-by-label"


class PublicOwnLabels(Selection):
    __doc__ = f"""Of each class, random public images by the attacker's own labels: no access to the model at all.

    The labels must be the model's classes. {Selection.__doc__}"""

    name = "public-own-labels"
    access = "none"
    needs = frozenset({"public", "labels"})

    def scores(self, known: ClassKnowledge, pool: Tensor) -> Tensor:
        assert known.labels is not None
        classes = int(known.labels.max()) + 1
        return torch.nn.functional.one_hot(known.labels, max(classes, known.classes or 0))


class PriorSamples(_OfPrior, _ByScores):
    __doc__ = (
        f"Of each class, the samples of the generator that the model is surest of: no descent. {Selection.__doc__}"
    )

    name = "prior-samples"


class PriorSamplesByLabel(_OfPrior, _ByLabel):
    __doc__ = f"Of each class, random samples of the generator that the model labels so. {Selection.__doc__}"

    name = "prior-samples-by-label"
