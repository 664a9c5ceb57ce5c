"""Supervised training of an inverse network on the attacker's own (feature, image) pairs, shared by such attacks."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.config import Config, digest
from splitleak.measures.ssim import missing as ssim_missing
from splitleak.measures.ssim import ssim
from splitleak.seeding import generator
from splitleak.training.fit import Resumable, epochs
from splitleak.training.memory import affordable_rows

_PREDICT_BATCH = 256
_MOST_FLOATS = 2**28  # values of features that are kept as float32
_ASKED_AGAIN = 8  # images, to see whether answers differ from one time to the next
_ROUNDING = 1e-4  # of their size, by which those to so few differ where nothing is drawn: sums are added otherwise
_CHUNKS = 8  # of so many values, in which more are asked for
_ROUNDED, _LOST = 1e-4, 0.01  # of a value's variance, the squared error of its rounding; share of values with more

LEAST_STEPS = 6
"""Of an epoch of an attack's training, however few pairs there are: these are gone through several times."""

Descend = Callable[[Tensor, Tensor, float], Tensor]
"""One step on features ``(B, *cut)`` and images ``(B, C, H, W)``, with the share of the training that is over in
[0, 1); gives the loss, detached."""


class FitConfig(Config):
    """The length of a training on the attacker's own pairs, and the share of them that chooses the epoch."""

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=2)
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share of the public pairs that choose the epoch")


def gather(known: Knowledge, name: str, draws: int = 1) -> Tensor:
    """The features of the public images ``(draws, M, *cut)``, by as many queries as the black box has draws.

    A live one that answers the first images otherwise when asked again is asked ``draws`` times for each, as far as its
    budget and 2^28 values go. More than so many values, 1 GiB as float32, are asked for a part of the images at a time,
    and kept as float16 where that has digits and range for what varies in the first part.

    Raises:
        ValueError: The edge gives other features than those captured; ``name`` is the attack's.
    """
    assert known.public is not None
    query, public, cut = known.query, known.public, known.captured.shape[1:]
    assert query is not None

    def ask(images: Tensor) -> Tensor:
        features = query(images)
        if features.shape != (len(images), *cut):
            expected, got = (len(images), *cut), tuple(features.shape)
            raise ValueError(f"{name}: expected features {expected} for the public images, got {got}")
        return features

    each = len(public) * math.prod(cut)
    if query.draws * each <= _MOST_FLOATS:
        answers = [ask(public) for _ in range(query.draws)]
        if not query.recorded and draws > len(answers) and query.affords(len(public) + _ASKED_AGAIN):
            again = ask(public[:_ASKED_AGAIN])
            first = answers[0][:_ASKED_AGAIN]
            if not torch.allclose(again, first, rtol=0, atol=_ROUNDING * float(first.square().mean().sqrt())):
                more = min(draws, _MOST_FLOATS // each) - len(answers)
                answers += [ask(public) for _ in range(more) if query.affords(len(public))]
                query.draws = len(answers)
        return torch.stack(answers)
    size = max(1, _MOST_FLOATS // (_CHUNKS * math.prod(cut)))
    kept: Tensor | None = None
    for draw in range(query.draws):
        for places in torch.arange(len(public)).split(size):
            answered = ask(public[places])
            if kept is None:
                kind = torch.float16 if _told_in_half(answered) else torch.float32
                kept = torch.empty(query.draws, len(public), *cut, dtype=kind)
            most = torch.finfo(kept.dtype).max
            kept[draw, places] = answered.clamp(-most, most).to(kept.dtype)
    assert kept is not None
    return kept


def _told_in_half(features: Tensor) -> bool:
    """Whether float16 keeps what values of features ``(M, *cut)`` tell: by its rounding beside their deviations."""
    errors, variances = (features.half().float() - features).square().mean(0), features.var(0, correction=0)
    lost = errors[variances > 0] > _ROUNDED * variances[variances > 0]
    return not bool(lost.float().mean() > _LOST)


def crossed(features: Tensor, known: Knowledge, draws: int, seed: int) -> Tensor:
    """An encoder's features ``(M, *cut)`` as they would be captured, ``(draws, M, *cut)``, as far as 2^28 values go.

    That is where a half tells that something is drawn on the wire; else they are as they were, ``(1, M, *cut)``.
    """
    if known.simulate is None:
        return features[None]
    return known.simulate(features, max(1, min(draws, _MOST_FLOATS // features.numel())), seed)


def replayed(answers: Tensor) -> Query:
    """A black box that gives answers ``(draws, M, *cut)`` once, in the order in which `gather` asks for them."""
    rows, given = answers.flatten(0, 1), 0

    def send(images: Tensor) -> Tensor:
        nonlocal given
        given += len(images)
        return rows[given - len(images) : given]

    return Query(send, draws=len(answers), recorded=True)


def set_apart(images: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` of an ``order``, to measure on, and the others but for their copies and mirror images.

    A network that is trained on the mirror image of a picture knows the picture: its error there says too little, and
    chooses too late an epoch.

    Args:
        images: ``(M, C, H, W)``.
        order: Indices of all of them ``(M,)``.
        count: How many are set apart.
    """
    apart, others = order.tensor_split([count])
    known = {image.numpy().tobytes() for each in images[apart].cpu() for image in (each, each.flip(2))}
    fresh = [image.numpy().tobytes() not in known for image in images[others].cpu()]
    return apart, others[torch.tensor(fresh, dtype=torch.bool)]


def parted(name: str, images: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of `fit`: a share that chooses the epoch, those that it trains on before, and all, shuffled.

    Raises:
        ValueError: There are fewer than three images; ``name`` is the attack's.
    """
    shuffled = torch.randperm(len(images), generator=generator(seed, name, "held-out"))
    out, used = set_apart(images, shuffled, max(1, round(share * len(images))))
    if len(used) < 2:
        raise ValueError(f"{name}: expected at least 3 public images, no two of them alike, got {len(images)}")
    return out, used, shuffled


def fit(
    name: str,
    network: nn.Module,
    descend: Descend,
    features: Tensor,
    images: Tensor,
    config: FitConfig,
    run: Run,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    generators: Mapping[str, torch.Generator] | None = None,
    warm_up: int = 0,
    begin: Callable[[Tensor, Tensor], None] | None = None,
    average: float = 0,
    finish: float = 0,
    least_steps: int = 1,
) -> dict[str, object]:
    """Trains ``network`` on (feature, image) pairs, and leaves it with the weights of the best epoch.

    Best is the least MSE on pairs held out of the training, see `set_apart`: no victim has a say. With ``finish``, the
    training goes on from there on all pairs, those held out as well, and its last weights count. Resumable: the
    checkpoint is identified by config, seed and training pairs.

    Args:
        name: The attack's, for random streams and errors.
        network: Features to images.
        descend: One step on a batch.
        features: ``(draws, M, *cut)``. A draw is taken an epoch in turn, so that a network learns what noise may look
            like; the held-out ones are of the first draw.
        images: ``(M, C, H, W)`` in [0, 1].
        config: Epochs, batch size (of large pictures as many as memory affords, see `affordable_rows`), and the share
            of the pairs that is held out.
        run: Seed, device, report and checkpoint.
        modules: All that ``descend`` trains, ``network`` among it, by their names in the checkpoint.
        optimizers: Those of ``descend``.
        generators: Those of ``descend``.
        warm_up: Epochs before the config's.
        begin: Called before the first epoch with the features ``(n, *cut)`` and images that ``network`` is trained on.
        average: Decay of an exponential moving average of the weights, which takes their place in the end and wherever
            an error is measured (Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992);
            0: none.
        finish: Share of the config's epochs, the last ones, that train on all pairs.
        least_steps: Of an epoch, which goes through few pairs several times.

    Returns:
        The findings: ``history``, ``chosen_epoch`` (from 1), ``held_out_mse`` (before the finish), that of the mean
        image, ``parameters``.

    Raises:
        ValueError: There are fewer than three public images.
    """
    mean = _Average(network, average) if average else None
    judged = network if mean is None else mean.module
    state = Resumable(
        identity=digest([config.document(), run.seed, _sum(features), float(images.sum())]),
        modules=modules if mean is None else {**modules, "average": mean},
        optimizers=optimizers,
        generators={"order": generator(run.seed, name, "order"), **(generators or {})},
    )
    total, pixels = warm_up + config.epochs, math.prod(images.shape[2:])
    measured = max(1, total - round(finish * config.epochs))  # epochs, before the finish
    out, used, shuffled = parted(name, images, config.held_out, run.seed)
    features, images = features.to(run.device), images.to(run.device)
    mean_image_mse = float((images[out] - images[used].mean(0)).square().mean())
    batch_size = max(2, affordable_rows(network.eval(), features[0, :1].float(), pixels, config.batch_size))
    if begin is not None:
        begin(features[0, used], images[used])
    for epoch in epochs("attack", total, state, run.checkpoint, run.report):
        if epoch == measured and _best(state.history) < measured:
            network.load_state_dict(state.kept)
            judged.load_state_dict(state.kept)
        used = used if epoch < measured else shuffled
        network.train()
        batches = list[Tensor]()
        while not batches or len(batches) < least_steps:
            order = used[torch.randperm(len(used), generator=state.generators["order"])].to(run.device)
            batches += [batch for batch in order.split(batch_size) if len(batch) > 1]
        drawn, losses = features[epoch % len(features)], []
        for index, batch in enumerate(state.steps(batches, len(batches))):
            losses.append(descend(drawn[batch].float(), images[batch], (epoch + index / len(batches)) / total))
            if mean is not None:
                mean.update_parameters(network)
        figures = {"loss": float(torch.stack(losses).mean())}
        if epoch < measured:
            error = float(functional.mse_loss(predict(judged, features[0, out], run.device), images[out].cpu()))
            figures["held_out_mse"] = error
        state.history.append(figures)
        if epoch < measured and _best(state.history) == epoch + 1:
            state.kept = {key: value.clone() for key, value in judged.state_dict().items()}
    network.load_state_dict(judged.state_dict() if measured < total else state.kept)
    best = _best(state.history)
    return {
        "history": state.history,
        "chosen_epoch": best,
        "held_out_mse": state.history[best - 1]["held_out_mse"],
        "mean_image_mse": mean_image_mse,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _best(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch, from 1, with the least held-out error; the first of several."""
    errors = [figures["held_out_mse"] for figures in history if "held_out_mse" in figures]
    return errors.index(min(errors)) + 1


class _Average(AveragedModel):
    """A moving average of a network's weights and buffers; torch's own reads its count from the device at each step."""

    n_averaged: Tensor  # on the CPU

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average towards ``model``, the more the fewer weights it has seen; counters are copied."""
        count = int(self.n_averaged)
        share = 1 - min(self.decay, (1 + count) / (10 + count))
        for mean, new in zip(_values(self.module), _values(model), strict=True):
            if count and mean.dtype.is_floating_point:
                mean.lerp_(new, share)
            else:
                mean.copy_(new)
        self.n_averaged += 1


def _values(network: nn.Module) -> Iterator[Tensor]:
    """Weights and buffers."""
    return chain(network.parameters(), network.buffers())


def rebuilding_loss(rebuilt: Tensor, images: Tensor, ssim_weight: float) -> Tensor:
    """MSE of two batches ``(B, C, H, W)``, plus ``ssim_weight`` times 1 - SSIM, if pictures are large enough for it."""
    error = functional.mse_loss(rebuilt, images)
    if not ssim_weight or ssim_missing(tuple(images.shape[1:])):
        return error
    return error + ssim_weight * (1 - ssim(rebuilt, images).mean())


def unlikeness(own: Tensor, captured: Tensor) -> float:
    """How unlike two sets of features are, by their means: about 1 if they are of one distribution, else more.

    The mean over their values of the squared difference of the means, in units of what it is for one distribution, the
    statistic of a t-test.

    Args:
        own: Of the attacker's images ``(M, *cut)``.
        captured: Of the victims' ``(N, *cut)``.
    """
    ours, theirs = own.flatten(1).double(), captured.flatten(1).double()
    expected = ours.var(0) / len(ours) + theirs.var(0) / len(theirs)
    varying = expected > 0
    apart: Tensor = (ours.mean(0) - theirs.mean(0))[varying].square() / expected[varying]
    return float(apart.mean()) if varying.any() else 0.0


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def cosine(progress: float) -> float:
    """Cosine schedule: the factor on the learning rate after the share ``progress`` of a training, from 1 to 0.01."""
    return 0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


def one_cycle(progress: float) -> float:
    """One-cycle schedule: the factor on the learning rate, from 0.04 up to 1 in three tenths of a training, then to 0.

    Smith and Topin, "Super-convergence", 2019 (arXiv:1708.07120), both ways along a cosine.
    """
    rising, start, end = 0.3, 0.04, 1e-4
    if progress < rising:
        return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * progress / rising))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (progress - rising) / (1 - rising)))


def step(optimizer: Optimizer, loss: Tensor) -> Tensor:
    """One optimiser step on ``loss``, which is returned detached."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _sum(features: Tensor) -> float:
    """Of all values in double precision, a part of them at a time."""
    return sum(float(part.double().sum()) for draw in features for part in draw.split(_PREDICT_BATCH))


@torch.no_grad()
def predict(network: nn.Module, features: Tensor, device: torch.device) -> Tensor:
    """The images ``(N, C, H, W)`` that ``network`` in eval mode makes of features ``(N, *cut)``, on the CPU."""
    row = features[:1].to(device).float()
    pixels = math.prod(network.eval()(row).shape[2:])
    rows = affordable_rows(network, row, pixels, _PREDICT_BATCH)
    return torch.cat([network(batch.to(device).float()).float().cpu() for batch in features.split(rows)])
