"""MIRROR: latent optimisation in a box of likely latents; by gradients, or with scores alone by a genetic algorithm."""

import torch
from pydantic import Field
from torch import Tensor

from splitleak.attacker.class_inversion.search import OF_GRADIENTS, LatentSearch, Search, SearchConfig, best_first
from splitleak.config import digest
from splitleak.training.fit import Resumable, epochs


class MirrorConfig(SearchConfig):
    """The box, and the descent in it; for the CPU a fifth of the published steps, of a twentieth of the candidates."""

    candidates: int = Field(default=5000, ge=0)
    deviations: float = Field(default=1.0, gt=0, description="half the side of the box, in deviations of the latents")
    learning_rate: float = Field(default=0.25, gt=0)
    steps: int = Field(default=100, ge=0)


class Mirror(LatentSearch):
    """Descends on the cross-entropy from the most confident candidates, with every latent value kept in a box.

    An et al., "MIRROR: model inversion for deep learning network with high fidelity", NDSS 2022, the white-box form.
    The box is in P space, StyleGAN's w before its last leaky ReLU, where it is about Gaussian; a DCGAN's latent is
    Gaussian itself, so the box is around it. Images ``(K, restarts, C, H, W)``, best first. Deviations: that; no
    mirrored views; the loss is not scaled by 10, to which Adam is blind.
    """

    name = "mirror"
    config_type = MirrorConfig
    config: MirrorConfig

    @classmethod
    def paper_config(cls) -> MirrorConfig:
        """500 steps of Adam at 0.25 from eight starts, within a deviation of the mean."""
        return MirrorConfig(steps=500, restarts=8, candidates=100_000)

    def sample(self, search: Search) -> Tensor:
        latents = super().sample(search)
        self.constrain(latents)
        return latents

    def constrain(self, values: Tensor) -> None:
        values.clamp_(-self.config.deviations, self.config.deviations)


class MirrorGeneticConfig(SearchConfig):
    """The evolution. The defaults make some 20,000 queries for ten classes; the published populations a million."""

    candidates: int = Field(default=500, ge=2, description="latents scored for every class; the best begin")
    restarts: int = Field(default=100, ge=2, description="the population of a class")
    images: int | None = Field(default=5, ge=1)
    steps: int = Field(default=20, ge=0, description="generations, at most")
    deviations: float = Field(default=1.0, gt=0, description="half the side of the box, in deviations of the latents")
    mutation: float = Field(default=0.1, ge=0, le=1, description="probability that a child's value is changed")
    enough: float = Field(default=0.95, gt=0, le=1, description="confidence at which a class is done")


class MirrorGenetic(LatentSearch):
    """Breeds latents by the scores of their images: the likelier a parent's image, the more of it is handed on.

    An et al., NDSS 2022, the black-box form. In each generation the best stays; the others are children of two parents,
    drawn in proportion to the confidence in their images. A child takes each value from one of them, in proportion
    again; some values then move by up to one deviation, within the box of `Mirror`. Images ``(K, images, C, H, W)``,
    best first. Deviations: those of `Mirror`; the published code weighs parents by log-probabilities, which hands on
    more of the worse one: here they are probabilities. Candidates are as many as the budget covers, and the best begin
    with the scores that they were chosen by; evolution stops where a generation would exceed the budget.
    """

    name = "mirror-genetic"
    config_type = MirrorGeneticConfig
    access = "score"
    unused = OF_GRADIENTS
    needs = frozenset({"prior", "query"})
    config: MirrorGeneticConfig
    first: Tensor
    last: Tensor

    @classmethod
    def paper_config(cls) -> MirrorGeneticConfig:
        """Populations of 1000 for 100 generations."""
        return MirrorGeneticConfig(candidates=1000, restarts=1000, images=1, steps=100)

    def sample(self, search: Search) -> Tensor:
        assert search.query is not None
        pool = super().sample(search).clamp(-self.config.deviations, self.config.deviations)
        each = 1 if search.generator.config.classes is None else search.classes
        covered = search.query.most(each * len(pool)) // each
        return pool[:covered] if covered > 1 else pool  # one breeds nothing: the first query is refused

    def rate(self, search: Search, pool: Tensor) -> Tensor:
        self.first = super().rate(search, pool)
        return self.first

    def optimise(self, search: Search, starts: Tensor) -> Tensor:
        assert search.query is not None
        config, draw, each = self.config, search.draw("steps"), starts.shape[1]
        scores = self.first.topk(each, dim=1).values
        population = {"latents": starts.clone(), "scores": scores}
        told = [config.document(), search.run.seed, float(starts.double().sum()), float(scores.double().sum())]
        state = Resumable(digest(told), {}, {}, {"steps": draw}, kept=population)
        generations = epochs(self.name, config.steps, state, search.run.part("search").checkpoint, search.run.report)
        for _ in search.counted(state, generations):
            rows = (state.kept["scores"].amax(1) < config.enough).nonzero().flatten()
            if search.query.affords(len(rows) * (each - 1)):
                self.breed(search, state.kept, rows, draw)
            state.history.append({"confidence": float(state.kept["scores"].amax(1).mean()), "going": float(len(rows))})
        self.findings["history"] = state.history
        self.last = state.kept["scores"]
        return state.kept["latents"]

    def breed(self, search: Search, population: dict[str, Tensor], rows: Tensor, draw: torch.Generator) -> None:
        """One generation of the classes ``rows``; the best of each stays."""
        if not len(rows):
            return
        latents, scores = population["latents"][rows], population["scores"][rows]
        classes, each, wide = latents.shape
        drawn = torch.multinomial(scores.cpu().clamp_min(1e-12), 2 * (each - 1), replacement=True, generator=draw)
        parents = drawn.to(latents.device).view(classes, each - 1, 2)
        place = torch.arange(classes, device=latents.device)[:, None]
        first, second = latents[place, parents[:, :, 0]], latents[place, parents[:, :, 1]]
        weights = scores.clamp_min(1e-12).gather(1, parents.flatten(1)).view_as(parents)
        share = (weights[:, :, 0] / weights.sum(2))[:, :, None]
        chance, moved, how_far = torch.rand(3, classes, each - 1, wide, generator=draw).to(latents.device)
        children = torch.where(chance < share, first, second)
        children = children + (moved < self.config.mutation) * (2 * how_far - 1)
        children = children.clamp(-self.config.deviations, self.config.deviations)
        labels = rows.repeat_interleave(each - 1)
        told = self.confidence(search, children.flatten(0, 1), labels).view(classes, each - 1)
        best = scores.argmax(1, keepdim=True)
        population["latents"][rows] = torch.cat([latents[place, best], children], 1)
        population["scores"][rows] = torch.cat([scores.gather(1, best), told], 1)

    @torch.no_grad()
    def choose(self, search: Search, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The population's best by the scores that are known, without a query."""
        best = best_first(self.last, self.config.images)
        chosen, scores = latents[best], self.last[best]
        images = search.images(chosen.flatten(0, 1), search.labels(chosen.shape[1])).unflatten(0, scores.shape)
        return images, scores, chosen
