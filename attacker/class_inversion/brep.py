"""BREP-MI: label-only inversion, which moves latents away from the decision boundary."""

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.attacker.class_inversion.search import OF_GRADIENTS, LatentSearch, Search, SearchConfig, best_first
from splitleak.training.fit import Resumable, step_ranges

_BATCH = 512


class BREPConfig(SearchConfig):
    """The walk. The defaults stop sooner than the paper's, with some 20,000 queries for ten classes."""

    restarts: int = Field(default=1, ge=1, description="walks for each class, from different starts")
    candidates: int = Field(
        default=2000, ge=1, description="random latents that are asked for, at most, for the starts"
    )
    bound: float = Field(default=1.5, gt=0, description="largest value of a latent, either way")
    points: int = Field(default=32, ge=1, description="on the sphere, asked for in every iteration")
    radius: float = Field(default=2.0, gt=0, description="of the first sphere")
    growth: float = Field(default=1.3, gt=1, description="of the radius, where the sphere is of the class")
    surplus: float = Field(
        default=0.75, ge=0, lt=1, description="share of points by which those of the class must outnumber the others"
    )
    longest: float = Field(default=3.0, gt=0, description="longest step; a third of the radius, if that is less")
    steps: int = Field(default=80, ge=0, description="iterations of a walk, at most")
    patience: int = Field(default=30, ge=1, description="iterations without growth that end a walk")


class BREPMI(LatentSearch):
    r"""Walks away from points on a sphere that are not labelled as the class, and grows the sphere when hardly any is.

    .. math:: z \leftarrow z + \min(R/3, 3) \cdot \frac1N \sum_i -[f(z + R u_i) \ne y]\; u_i

    Kahla et al., "Label-only model inversion attacks via boundary repulsion", CVPR 2022, and its published code. The
    u are uniform on the unit sphere; a step that would leave the class is not made. If no candidate is
    labelled as a class, the first candidate is returned for it (findings: ``classes_unseen``). For the others it is
    the centre at which the sphere last grew. Images ``(K, restarts, C, H, W)``, the widest sphere first. Only the
    label of an answer is used. A sphere that grows moves too, away from the few points outside. Deviations: a cap on
    the iterations, as the code's walk need not end; a walk stops where the next iteration would exceed the query
    budget.
    """

    name = "brep-mi"
    config_type = BREPConfig
    access = "label"
    unused = OF_GRADIENTS
    needs = frozenset({"prior", "query"})
    config: BREPConfig
    radii: Tensor

    @classmethod
    def paper_config(cls) -> BREPConfig:
        """Walks of any length, ended by 1000 iterations without growth (the code's)."""
        return BREPConfig(steps=100_000, patience=1000, candidates=100_000)

    @torch.no_grad()
    def labelled(self, search: Search, latents: Tensor, classes: Tensor) -> Tensor:
        """The service's labels ``(B,)`` for images of latents ``(B, d)``; a conditional prior's are of ``classes``."""
        parts = zip(latents.split(_BATCH), classes.split(_BATCH), strict=True)
        return torch.cat([search.scores(search.images(*part)).argmax(1) for part in parts])

    def select(self, search: Search, pool: Tensor) -> Tensor:
        """The first candidates labelled as each class, with no more queries than it takes.

        A conditional generator draws each of one class, in turn, and is searched where it is labelled as that.
        """
        assert search.query is not None
        each, by_class = self.config.restarts, search.generator.config.classes is not None
        pool = pool.clamp(-self.config.bound, self.config.bound)
        drawn = torch.arange(len(pool), device=pool.device) % search.classes
        found: list[list[int]] = [[] for _ in range(search.classes)]
        for start in range(0, len(pool), 64):
            end = start + search.query.most(64)
            part, own = pool[start:end], drawn[start:end]
            if all(len(places) >= each for places in found) or not len(part):
                break
            labels = self.labelled(search, part, own)
            for place, (label, meant) in enumerate(zip(labels.tolist(), own.tolist(), strict=True), start=start):
                if label == meant or not by_class:
                    found[label].append(place)
        self.findings["classes_unseen"] = [label for label, places in enumerate(found) if not places]
        chosen = [[(places or [0])[turn % len(places or [0])] for turn in range(each)] for places in found]
        return pool[torch.tensor(chosen)]

    def optimise(self, search: Search, starts: Tensor) -> Tensor:
        config, each = self.config, starts.shape[1]
        labels, draw = search.labels(each), search.draw("steps")
        walks = _Walks(starts.flatten(0, 1), config.radius)
        walks.going &= ~torch.isin(labels, torch.tensor(self.findings["classes_unseen"], device=labels.device))
        state = Resumable(
            identity=self.fingerprint_of(search, starts),
            modules={"walks": walks},
            optimizers={},
            generators={"steps": draw},
        )
        checkpoint = search.run.part("search").checkpoint
        stretches = step_ranges(self.name, config.steps, state, checkpoint, search.run.report, size=10)
        for iterations in search.counted(state, stretches):
            for _ in iterations:
                self.step(search, walks, labels, draw)
            state.history.append({"radius": float(walks.radius.mean()), "going": float(walks.going.sum())})
        self.findings["history"] = state.history
        self.radii = torch.where(walks.grown, walks.radius, 0).unflatten(0, (-1, each))
        ends: Tensor = torch.where(walks.grown[:, None], walks.best, walks.centres).unflatten(0, (-1, each))
        return ends

    def step(self, search: Search, walks: "_Walks", labels: Tensor, draw: torch.Generator) -> None:
        """One iteration of every walk that has not ended."""
        assert search.query is not None
        config, rows = self.config, walks.going.nonzero().flatten()
        if not len(rows) or not search.query.affords(len(rows) * (config.points + 1)):
            return
        centres, radius, own = walks.centres[rows], walks.radius[rows, None, None], labels[rows]
        units = torch.randn(len(rows), config.points, centres.shape[1], generator=draw).to(centres.device)
        units = units / units.norm(dim=2, keepdim=True)
        asked = (centres[:, None] + radius * units).flatten(0, 1)
        asked_of = own.repeat_interleave(config.points)
        inside = self.labelled(search, asked, asked_of).view(len(rows), -1) == own[:, None]
        grows = 2 * inside.sum(1) - config.points > config.surplus * config.points
        walks.best[rows[grows]] = centres[grows]
        walks.radius[rows[grows]] *= config.growth
        walks.grown[rows[grows]] = True
        walks.idle[rows] = torch.where(grows, 0, walks.idle[rows] + 1)
        push = -(units * (~inside)[:, :, None]).mean(1)
        moved = (centres + (radius[:, :, 0] / 3).clamp_max(config.longest) * push).clamp(-config.bound, config.bound)
        stays = (self.labelled(search, moved, own) == own) & push.any(1)
        walks.centres[rows[stays]] = moved[stays]
        walks.going[rows] = walks.idle[rows] < config.patience

    def fingerprint_of(self, search: Search, starts: Tensor) -> str:
        """The checkpoint's fingerprint, without a query."""
        return f"{self.config.digest}/{search.run.seed}/{float(starts.double().sum())!r}"

    @torch.no_grad()
    def choose(self, search: Search, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The images of the widest spheres: the radius stands in for the confidence, which labels do not give."""
        best = best_first(self.radii, self.config.images)
        chosen, radii = latents[best], self.radii[best]
        images = search.images(chosen.flatten(0, 1), search.labels(chosen.shape[1])).unflatten(0, radii.shape)
        return images, radii, chosen

    def told(self, scores: Tensor) -> dict[str, object]:
        """The radii of the spheres: a service that tells labels alone gives no confidence."""
        return {"radii": [[round(float(radius), 6) for radius in row] for row in scores]}


class _Walks(nn.Module):
    """The state of every walk."""

    centres: Tensor  # (B, d)
    best: Tensor  # (B, d), where the sphere last grew
    radius: Tensor  # (B,)
    idle: Tensor  # (B,) int64, iterations since it grew
    grown: Tensor  # (B,) bool, whether it ever did
    going: Tensor  # (B,) bool

    def __init__(self, starts: Tensor, radius: float) -> None:
        super().__init__()
        self.register_buffer("centres", starts.clone())
        self.register_buffer("best", starts.clone())
        self.register_buffer("radius", torch.full((len(starts),), radius, device=starts.device))
        self.register_buffer("idle", torch.zeros(len(starts), dtype=torch.int64, device=starts.device))
        self.register_buffer("grown", torch.zeros(len(starts), dtype=torch.bool, device=starts.device))
        self.register_buffer("going", torch.ones(len(starts), dtype=torch.bool, device=starts.device))
