"""Inversion of prediction vectors: from the confidence scores that a victim shares back to the image."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from splitleak.attacker.base import Attack, Knowledge, Run
from splitleak.attacker.training.fitting import (
    LEAST_STEPS,
    FitConfig,
    cosine,
    fit,
    gather,
    one_cycle,
    parted,
    predict,
    set_apart,
    set_rate,
    step,
)
from splitleak.attacker.training.ridge import RidgeGauge
from splitleak.measures.scores import check_scores, truncate
from splitleak.models.inverter import (
    HiddenLayers,
    JoinedRescale,
    LogRescale,
    PredictionInverter,
    QuantileRescale,
    Rescaling,
)
from splitleak.seeding import generator, seeded

_FEWEST_OF_RIDGE, _RIDGE_BATCH = 3, 256  # pairs
_FOLDS = 5  # of pairs, each of which is held out in turn
_FEWEST_TOLD_BY = 10  # held-out pairs: fewer, of which the best epoch has the least error by chance, tell nothing


class InverterConfig(FitConfig):
    """An inverter and its training. The defaults are a preset for a CPU."""

    rescale: Rescaling | Literal["best"] = Field(
        default="quantiles",
        description="how scores are fed to it, see `Rescaling`; best: with the least held-out error",
    )
    c: float | None = Field(default=None, gt=0, description="fixed c (default 50), or where it starts if learned")
    width: float = Field(default=0.125, gt=0, description="factor on its layers; 1 is the published network")
    learning_rate: float = Field(default=1e-2, gt=0)
    schedule: Literal["one-cycle", "cosine", "constant"] = Field(
        default="cosine", description="one-cycle: rises, and falls to nothing; cosine: falls to a hundredth"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="of Adam")
    amsgrad: bool = False
    hidden: int = Field(default=0, ge=0, description="width of two layers before the inverter; 0: none, as published")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="in these layers")

    def _used(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """As `Config.later` has it, for both at once: without hidden layers, a document says nothing of them."""
        used = super()._used(document)
        return {key: value for key, value in used.items() if key not in ("hidden", "dropout") or self.hidden}


class PredictionInversionConfig(InverterConfig):
    """The inverter, and what it is trained on. The defaults had the least error of those tried at all scores."""

    rescale: Rescaling | Literal["best"] = Field(
        default="joined",
        description="how scores are fed to it, see `Rescaling`; best: with the least held-out error",
    )
    hidden: int = Field(default=512, ge=0, description="width of two layers before the inverter; 0: none, as published")
    dropout: float = Field(default=0.25, ge=0, lt=1, description="in these layers")
    learning_rate: float = Field(default=4e-3, gt=0)
    schedule: Literal["one-cycle", "cosine", "constant"] = Field(
        default="one-cycle", description="one-cycle: rises, and falls to nothing; cosine: falls to a hundredth"
    )
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=128, ge=2)
    finish: float = Field(default=0.25, ge=0, lt=1, description="share of the epochs, the last, that see all pairs")
    align: bool = Field(default=True, description="truncate answers and victims' to as many scores as both tell")


class PredictionInversionAttack(Attack):
    r"""Queries the service with public images, and trains an inverter on as many of the scores as the victims share.

    .. math:: \min_\theta \mathrm{E}_a \lVert G_\theta(\log \mathrm{trunc}_m(F(a)) + c) - a \rVert^2

    Yang et al., "Neural network inversion in adversarial setting via background knowledge alignment", CCS 2019
    (arXiv:1902.08552). Captured are scores ``(N, K)``, zero where a victim does not tell; m is the largest number of
    scores that any of them tells, or any answer: where the service tells its attacker less, the rest of the victims'
    teaches nothing. Without ``align`` it is the paper's baseline without truncation: trained on whole answers, so that
    its held-out error is of whole answers too, and says nothing of the victims'.

    Classes that no pair shows cannot be learnt: their columns are dropped from pairs and victims alike, and a victim
    of whom nothing is left gets the mean of the public images (unless some pair has nothing either, and was learnt).

    Deviations: the epoch is chosen on held-out public pairs, where the published code takes the least error on the
    target's own training images; few pairs are gone through several times an epoch; the CPU preset takes scores by
    their rank beside their logarithm (see `JoinedRescale`; ``learned`` is the formula above, scaled and bent to stay
    positive, see `LogRescale`; ``best`` tries all and keeps the one with the least error on held-out pairs), puts two
    layers with dropout before the inverter, which is an eighth as wide, and trains 40 epochs of batch 128, the last ten
    on all pairs, at a rate that rises to a twenty times higher one, and falls. Few pairs teach these layers little:
    ridge regression from the same ranks and logarithms takes their place where it does better on the held-out pairs, or
    these are fewer than ten; or the mean images of the classes do, or both methods' mean, whichever does best on pairs
    that it was not fitted to, of all pairs in turn.
    """

    name = "prediction-inversion"
    config_type = PredictionInversionConfig
    needs = frozenset({"public", "query"})
    takes = "scores"
    config: PredictionInversionConfig

    @classmethod
    def paper_config(cls) -> PredictionInversionConfig:
        """The published code's: c fixed, full width, 100 epochs of batch 128, Adam at 2e-4, (0.5, 0.999), AMSGrad."""
        return PredictionInversionConfig(
            rescale="fixed",
            width=1,
            epochs=100,
            batch_size=128,
            learning_rate=2e-4,
            schedule="constant",
            beta1=0.5,
            amsgrad=True,
            hidden=0,
            finish=0,
        )

    def reconstruct(self, known: Knowledge, run: Run) -> Tensor:
        assert known.public is not None
        check_scores(known.captured)
        answers = gather(known, self.name)
        check_scores(answers.flatten(0, 1))
        share = int((known.captured > 0).sum(1).max())
        if share == 0:
            raise ValueError(f"{self.name}: expected at least one score above zero among those shared, got none")
        captured, told = known.captured, int((answers > 0).sum(2).max())
        if told == 0:
            raise ValueError(f"{self.name}: expected answers with at least one score above zero, got none")
        if self.config.align:
            share = min(share, told)
            answers = truncate(answers.flatten(0, 1), share).unflatten(0, answers.shape[:2])
            captured = truncate(captured, share)
        seen = (answers > 0).flatten(0, 1).any(0)
        pairs, shared = answers[..., seen], captured[:, seen]
        self.network, findings = train_inverter(self.name, self.config, pairs, known.public, run, self.config.finish)
        if self.config.hidden and self.config.align:
            self._or_regression(findings, pairs, known.public, run)
        images = predict(self.network, shared, run.device)
        nothing_left = shared.sum(1) == 0
        if bool((pairs.sum(2) > 0).all()):
            images[nothing_left] = known.public.mean(0)
        self.findings = {
            **findings,
            "share": share,
            "classes_seen": int(seen.sum()),
            "mass_dropped": round(float(known.captured[:, ~seen].double().sum() / known.captured.double().sum()), 6),
            "nothing_left": int(nothing_left.sum()),
        }
        return images

    def _or_regression(self, findings: dict[str, object], pairs: Tensor, public: Tensor, run: Run) -> None:
        """Puts a regression in the network's place where that does better on held-out pairs, or these are too few."""
        out, used, _ = parted(self.name, public, self.config.held_out, run.seed)
        if len(used) < _FEWEST_OF_RIDGE:
            return
        name = _best_regression(self.name, pairs, public, run)
        regression = _regressions(pairs[:, used], public[used], run)[name]
        error = float(functional.mse_loss(predict(regression, pairs[0, out], run.device), public[out]))
        errors = {"network": float(str(findings["held_out_mse"])), name: error}
        chosen = name if len(out) < _FEWEST_TOLD_BY else min(errors, key=lambda each: errors[each])
        findings |= {"held_out_mse": errors[chosen], "held_out_mse_by": errors, "rebuilt_by": chosen}
        if chosen == name:
            self.network = _regressions(pairs, public, run)[name]


def _best_regression(name: str, scores: Tensor, images: Tensor, run: Run) -> str:
    """Which of `_regressions` has the least error on pairs that it was not fitted to, of all pairs in turn."""
    shuffled, errors = torch.randperm(len(images), generator=generator(run.seed, name, "folds")), dict[str, float]()
    for fold in shuffled.tensor_split(min(_FOLDS, len(images))):
        order = torch.cat([fold, shuffled[~torch.isin(shuffled, fold)]])
        out, used = set_apart(images, order, len(fold))
        if len(used) < _FEWEST_OF_RIDGE:
            continue
        for each, fitted in _regressions(scores[:, used], images[used], run).items():
            rebuilt = predict(fitted, scores[0, out], run.device)
            errors[each] = errors.get(each, 0) + float((rebuilt - images[out]).square().sum())
    return min(errors, key=lambda each: errors[each], default="class means")


def _ridge(scores: Tensor, images: Tensor, run: Run) -> nn.Module:
    """Ridge regression from scores ``(draws, M, K)``, by rank and logarithm, to images ``(M, C, H, W)``."""
    encode = _Regressors(None, scores.flatten(0, 1)).requires_grad_(False)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    rows = [encode(drawn) for drawn in scores]
    gauge = RidgeGauge([tuple(rows[0].shape[1:])], shape, len(images), seed=run.seed, device=run.device)
    for drawn in rows:
        for batch in torch.arange(len(images)).split(_RIDGE_BATCH):
            gauge.add(drawn[batch], images[batch])
    return nn.Sequential(encode, gauge.solve()).to(run.device)


class _Regressors(JoinedRescale):
    """Logarithms of what is known are one above those of a `JoinedRescale`, which of the least scores are about 0.

    A class of which one picture alone tells such a score would else have a column next to constant; and scaled by its
    deviation, what a victim tells would be a million times what it should be.
    """

    def forward(self, scores: Tensor) -> Tensor:
        ranks, known, logarithms = super().forward(scores).chunk(3, dim=1)
        return torch.cat([ranks, known, logarithms + known], 1)


class _ClassMeans(nn.Module):
    """The mean image of the class with the highest score, as one picture nearer to that of all: few tell little."""

    def __init__(self, scores: Tensor, images: Tensor, run: Run) -> None:
        super().__init__()
        tops, mean = _tops(scores).mean(0), images.mean(0)
        sums = (tops.T @ (images - mean).flatten(1)).unflatten(1, mean.shape)
        self.mean: Tensor
        self.register_buffer("mean", mean)
        self.apart: Tensor
        self.register_buffer("apart", sums / (tops.sum(0) + 1)[:, None, None, None])
        self.to(run.device)

    def forward(self, scores: Tensor) -> Tensor:
        rebuilt: Tensor = self.mean + torch.tensordot(_tops(scores), self.apart, 1)
        return rebuilt


class _Halfway(nn.Module):
    """The mean of what both of two networks rebuild."""

    def __init__(self, *both: nn.Module) -> None:
        super().__init__()
        self.both = nn.ModuleList(both)

    def forward(self, scores: Tensor) -> Tensor:
        return torch.stack([each(scores) for each in self.both]).mean(0)


def _tops(scores: Tensor) -> Tensor:
    """1 at the highest of scores ``(..., K)`` above zero, in parts where several are as high."""
    highest = (scores == scores.amax(-1, keepdim=True)) & (scores > 0)
    parts: Tensor = highest / highest.sum(-1, keepdim=True).clamp_min(1)
    return parts


def _regressions(scores: Tensor, images: Tensor, run: Run) -> dict[str, nn.Module]:
    """By name, what scores ``(draws, M, K)`` are taken to images ``(M, C, H, W)`` by, beside a trained network."""
    ridge, means = _ridge(scores, images, run), _ClassMeans(scores, images, run)
    return {"ridge": ridge, "class means": means, "ridge and class means": _Halfway(ridge, means)}


def train_inverter(
    name: str, config: InverterConfig, scores: Tensor, images: Tensor, run: Run, finish: float = 0
) -> tuple[nn.Module, dict[str, object]]:
    """Trains an inverter of scores to images.

    With ``rescale="best"`` one is trained for each `Rescaling`; the findings hold the held-out errors of all.

    Args:
        name: The attack's, for random streams and errors.
        config: Width, rescaling and training.
        scores: ``(draws, M, K)``.
        images: ``(M, C, S, S)`` in [0, 1].
        run: Seed, device, report and checkpoint.
        finish: Share of the epochs, the last, that see all pairs, see `fit`.

    Returns:
        The module of the best epoch, or with ``finish`` of the last, which takes scores ``(N, K)`` and rescales them
        itself, and the findings.

    Raises:
        ValueError: The images are fewer than three.
    """
    if config.rescale == "best":
        return _best_inverter(name, config, scores, images, run, finish)
    like = scores.flatten(0, 1)
    rescale = rescaling(config.rescale, config.c, like)
    with seeded(run.seed, name, "init"):
        shape = (images.shape[1], images.shape[2], images.shape[3])
        inputs, draw = rescale(like[:1]).shape[1], generator(run.seed, name, "dropout")
        hidden = [HiddenLayers(inputs, config.hidden, config.dropout, draw)] if config.hidden else []
        inverter = PredictionInverter(config.hidden or inputs, shape, config.width)
    network = nn.Sequential(rescale, *hidden, inverter).to(run.device)
    optimizer = Adam(network.parameters(), lr=config.learning_rate, betas=(config.beta1, 0.999), amsgrad=config.amsgrad)

    def descend(batch: Tensor, target: Tensor, progress: float) -> Tensor:
        if config.schedule != "constant":
            factor = cosine(progress) if config.schedule == "cosine" else one_cycle(progress)
            set_rate(optimizer, config.learning_rate * factor)
        return step(optimizer, functional.mse_loss(network(batch), target))

    trained, optimizers = {"network": network}, {"adam": optimizer}
    findings = fit(
        *(name, network, descend, scores, images, config, run),
        modules=trained,
        optimizers=optimizers,
        generators={"dropout": draw} if config.hidden else None,
        finish=finish,
        least_steps=LEAST_STEPS,
    )
    return network, {**findings, "c": rescale.c if config.rescale in ("joined", "learned", "fixed") else None}


def rescaling(how: Rescaling, c: float | None, like: Tensor) -> QuantileRescale | JoinedRescale | LogRescale:
    """The encoding ``how`` of scores, of those ``like`` ``(M, K)``; ``c`` as of `InverterConfig`."""
    if how == "quantiles":
        return QuantileRescale(like)
    return JoinedRescale(c, like) if how == "joined" else LogRescale(how, c, like=like)


def _best_inverter(
    name: str, config: InverterConfig, scores: Tensor, images: Tensor, run: Run, finish: float
) -> tuple[nn.Module, dict[str, object]]:
    """Model selection: of an inverter for each `Rescaling`, the one with the least held-out error."""
    trained: dict[str, tuple[nn.Module, dict[str, object]]] = {}
    for how in get_args(Rescaling):
        one = config.model_copy(update={"rescale": how})
        trained[how] = train_inverter(name, one, scores, images, run.part(how), finish)
    errors = {how: float(str(findings["held_out_mse"])) for how, (_, findings) in trained.items()}
    chosen = min(errors, key=lambda how: errors[how])
    inverter, findings = trained[chosen]
    return inverter, {**findings, "rescale": chosen, "held_out_mse_by_rescaling": errors}
