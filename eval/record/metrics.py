"""The one table of metrics: what is measured, in which unit, which way is better, how it is computed and printed.

A metric is one entry of `METRICS`. One with ``compute`` is measured by the judge on what an attack rebuilt and kept in
the record under its ``key``; one with ``read`` alone is read from what a record, or a measure beside it, holds already.
Either way it appears in records, tables, CSV, reports and status without another line.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitleak.defenses.artifact import WholeModel
from splitleak.eval.record.evaluator import Evaluator, probabilities
from splitleak.eval.record.schema import ClassesRecord, Leakage, Record, Score
from splitleak.measures.pixel import batch_psnr, mse, psnr
from splitleak.measures.ssim import ssim, ssim_zero_padded

Kind = Literal["victims", "classes"]
"""What was rebuilt: victims' images, or pictures of the target's classes."""

PSNR_CAP_DB = 100.0
"""An image rebuilt exactly has an infinite PSNR; it counts as this many dB, so that a mean exists."""


@dataclass(frozen=True)
class JudgedClasses:
    """Pictures rebuilt of every class, with all that a metric may hold them against.

    ``rebuilt`` ``(K * R, C, H, W)`` in [0, 1], ``labels`` ``(K * R,)`` their classes, ``means`` ``(K, C, H, W)`` the
    mean private image of each class.
    """

    rebuilt: Tensor
    labels: Tensor
    means: Tensor
    target: WholeModel
    evaluator: Evaluator

    @cached_property
    def nearest(self) -> Tensor:
        """Which class mean each picture is nearest to ``(K * R,)``, see `nearest_mean`."""
        return nearest_mean(self.rebuilt, self.means)


@dataclass(frozen=True)
class Reading:
    """A record, and the measures of its target that stand beside it: without any attack, and of latency."""

    record: Record
    leakage: Leakage | None = None
    latency: Mapping[str, Mapping[str, float | None]] | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Args:
        name: Its column in CSV files, and its name in claims.
        label: Its column in tables; a unit belongs in it.
        of: Where it applies: to rebuilt victims, to pictures of classes, or to both.
        level: A figure of the target, of the attack, or a reference that the attack's figures are read beside.
        better: Which way is better *for the victims*; None where neither is.
        digits: Decimals in tables; None: three significant digits.
        scale: Between what a record holds and what is shown, 100 for percent.
        heading: Over its column, together with others; an attack's name takes its place where attacks are columns.
        key: In a record's ``scores``, where that is not the name.
        compute: What the judge measures: of victims ``(images, truth)``, both ``(N, C, H, W)`` in [0, 1], to ``(N,)``
            or one value of the batch ``()``; of classes `JudgedClasses` to ``(K * R,)``.
        read: What it is, in the unit it is shown in, where that is not ``scale`` times the mean of its score.
        cap: Values above count as this.
        shown: Whether it stands in tables; CSV files have it in any case.
        always: Whether its column stands in a table though nothing of it is measured.
        when: Names the condition under which its column is shown: a codec, or an output policy, is in use.
    """

    name: str
    label: str
    of: tuple[Kind, ...] = ("victims", "classes")
    level: Literal["target", "attack", "reference"] = "attack"
    better: Literal["higher", "lower"] | None = None
    digits: int | None = 4
    scale: float = 1.0
    heading: str = ""
    key: str = ""
    compute: Callable[..., Tensor] | None = None
    read: Callable[[Reading], float | None] | None = None
    cap: float | None = None
    shown: bool = True
    always: bool = False
    when: Literal["codec", "policy"] | None = None

    @property
    def stored(self) -> str:
        """Its key in a record's ``scores``."""
        return self.key or self.name

    def value(self, reading: Reading) -> float | None:
        """The figure in the unit it is shown in; None where it is not measured."""
        if self.read is not None:
            return self.read(reading)
        mean = reading.record.mean(self.stored)
        return None if mean is None else self.scale * mean

    def text(self, value: float) -> str:
        """The figure as tables print it."""
        return f"{value:.3g}" if self.digits is None else f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """A difference of two figures as tables print it."""
        return f"{value:+.3g}" if self.digits is None else f"{value:+.{self.digits}f}"

    def score(self, values: Tensor, pictures: int | None = None) -> Score:
        """What the judge keeps: of values ``(N,)`` their spread, of ``()`` the value alone.

        ``pictures`` is how many there are of each class, where there are classes: the spread is then over classes.
        """
        found = values.double().numpy()
        if self.cap is not None:
            found = np.minimum(found, self.cap)
        if values.ndim == 0:
            return Score(mean=float(found))
        if pictures is None:
            return spread(found)
        rows = found.reshape(-1, pictures)
        several = None if pictures == 1 else tuple(tuple(round(float(each), 6) for each in row) for row in rows)
        return spread(rows.mean(1)).model_copy(update={"images": several})


def spread(values: NDArray[np.float64]) -> Score:
    """Mean and standard deviation (n - 1) of values ``(N,)``, and the values themselves, to six decimals."""
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Score(mean=float(values.mean()), std=deviation, values=tuple(round(float(value), 6) for value in values))


def nearest_mean(images: Tensor, means: Tensor) -> Tensor:
    """Which of ``means`` ``(K, C, H, W)`` each image ``(N, C, H, W)`` is nearest to ``(N,)``, -1 if it is flat.

    Distances are between images of mean 0 and deviation 1 over all their values, so the nearest is the one of the
    highest correlation.
    """
    own, theirs = _standardised(images), _standardised(means)
    nearest = torch.cdist(own, theirs).argmin(1)
    return nearest.where(own.any(1), torch.tensor(-1))


def _standardised(images: Tensor) -> Tensor:
    """``(N, C*H*W)`` float64; an image of one colour becomes zeros."""
    flat = images.flatten(1).double()
    centred = flat - flat.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(deviation > 1e-6, centred / deviation, torch.zeros(()).double())


def _of_record(*path: str, scale: float = 1.0) -> Callable[[Reading], float | None]:
    """What a record holds at a path of attributes; None where there is none, or the record is older."""

    def read(reading: Reading) -> float | None:
        value: Any = reading.record
        for name in path:
            value = getattr(value, name, None)
        return None if value is None else scale * float(value)

    return read


def _of_leakage(name: str) -> Callable[[Reading], float | None]:
    return lambda reading: None if reading.leakage is None else getattr(reading.leakage, name)


def _of_latency(part: str) -> Callable[[Reading], float | None]:
    return lambda reading: None if reading.latency is None else reading.latency[part]["p50"]


def _recognised_error(reading: Reading) -> float | None:
    """Standard error of the share recognised over a target's pictures, in percent; None of one picture.

    The hits are read of the record's figures, which keep them in brief records too; else of the values.
    """
    record = reading.record
    assert isinstance(record, ClassesRecord)
    if record.figures is not None and record.figures.top1 is not None:
        hits = np.array(record.figures.top1.hits, dtype=float)
    else:
        score = record.scores["recognised"]
        hits = np.array(score.images or score.values or (), dtype=float)
    return 100 * float(hits.std(ddof=1) / np.sqrt(hits.size)) if hits.size > 1 else None


_WIRE, _POLICY, _FREE, _TIME = "on the wire", "behind its policy", "without any attack", "latency p50"
_REBUILT, _RIGHT, _OWN = "rebuilt victims", "right class by the evaluator %", "attacker's own held-out images"
_PICTURES, _FEATURES, _EVALUATOR = "pictures of classes", "evaluator's features", "evaluator %"
_VICTIMS: tuple[Kind, ...] = ("victims",)
_CLASSES: tuple[Kind, ...] = ("classes",)

METRICS: list[Metric] = [
    Metric(
        name="accuracy",
        label="accuracy %",
        heading="classifier",
        level="target",
        digits=2,
        read=_of_record("target", "accuracy", scale=100),
        always=True,
    ),
    Metric(
        name="wire_accuracy",
        label="accuracy %",
        heading=_WIRE,
        of=_VICTIMS,
        level="target",
        digits=2,
        read=_of_record("wire", "accuracy", scale=100),
        when="codec",
    ),
    Metric(
        name="bytes",
        label="bytes/image",
        heading=_WIRE,
        of=_VICTIMS,
        level="target",
        digits=0,
        read=_of_record("wire", "bytes_per_image"),
        when="codec",
    ),
    Metric(
        name="service_accuracy",
        label="accuracy %",
        heading=_POLICY,
        level="target",
        digits=2,
        read=_of_record("service", "accuracy", scale=100),
        when="policy",
    ),
    Metric(
        name="distortion",
        label="distortion",
        heading=_POLICY,
        level="target",
        digits=3,
        read=_of_record("service", "distortion"),
        when="policy",
    ),
    Metric(
        name="ssim",
        label="SSIM",
        heading=_REBUILT,
        of=_VICTIMS,
        better="lower",
        digits=3,
        key="ssim_zero_padded",
        compute=ssim_zero_padded,
        always=True,
    ),
    Metric(
        name="psnr",
        label="PSNR dB",
        heading=_REBUILT,
        of=_VICTIMS,
        better="lower",
        digits=2,
        key="batch_psnr",
        compute=batch_psnr,
        cap=PSNR_CAP_DB,
        always=True,
    ),
    Metric(
        name="mse",
        label="MSE",
        heading=_REBUILT,
        of=_VICTIMS,
        better="higher",
        compute=mse,
        always=True,
    ),
    Metric(
        name="ssim_valid",
        label="standard SSIM",
        of=_VICTIMS,
        better="lower",
        digits=3,
        key="ssim",
        compute=ssim,
        shown=False,
    ),
    Metric(
        name="psnr_image",
        label="PSNR dB, mean over images",
        of=_VICTIMS,
        better="lower",
        digits=2,
        key="psnr",
        compute=psnr,
        cap=PSNR_CAP_DB,
        shown=False,
    ),
    Metric(
        name="constant_mse",
        label="constant",
        heading=_REBUILT,
        of=_VICTIMS,
        level="reference",
        read=_of_record("constant_mse"),
    ),
    Metric(name="reclassified", label="rebuilt", heading=_RIGHT, of=_VICTIMS, better="lower", digits=1, scale=100),
    Metric(
        name="evaluator_on_truth",
        label="victims",
        heading=_RIGHT,
        of=_VICTIMS,
        level="reference",
        digits=1,
        read=_of_record("evaluator", "on_truth", scale=100),
    ),
    Metric(
        name="evaluator_accuracy",
        label="test images",
        heading=_RIGHT,
        of=_VICTIMS,
        level="reference",
        digits=1,
        read=_of_record("evaluator", "accuracy", scale=100),
    ),
    Metric(
        name="held_out_mse",
        label="MSE",
        heading=_OWN,
        level="reference",
        read=_of_record("attack", "findings", "held_out_mse"),
    ),
    Metric(
        name="mean_image_mse",
        label="mean image",
        heading=_OWN,
        level="reference",
        read=_of_record("attack", "findings", "mean_image_mse"),
    ),
    Metric(
        name="recognised",
        label="recognised %",
        heading=_PICTURES,
        of=_CLASSES,
        better="lower",
        digits=1,
        scale=100,
        compute=lambda judged: judged.evaluator.recognised(judged.rebuilt, judged.labels),
        always=True,
    ),
    Metric(
        name="recognised_error",
        label="standard error",
        heading=_PICTURES,
        of=_CLASSES,
        level="reference",
        digits=1,
        read=_recognised_error,
    ),
    Metric(
        name="top5",
        label="top-5 %",
        heading=_PICTURES,
        of=_CLASSES,
        better="lower",
        digits=1,
        read=_of_record("figures", "top5", "mean", scale=100),
    ),
    Metric(
        name="rank1",
        label="re-identified %",
        heading=_PICTURES,
        of=_CLASSES,
        better="lower",
        digits=1,
        read=_of_record("figures", "identification", "rank1", scale=100),
    ),
    Metric(
        name="rank5",
        label="re-identified among 5 %",
        of=_CLASSES,
        better="lower",
        digits=1,
        read=_of_record("figures", "identification", "rank5", scale=100),
        shown=False,
    ),
    Metric(
        name="verified",
        label="verified %",
        of=_CLASSES,
        better="lower",
        digits=1,
        read=_of_record("figures", "identification", "verification", "true_match_rate", scale=100),
        shown=False,
    ),
    Metric(
        name="nearest_mean",
        label="nearest mean %",
        heading=_PICTURES,
        of=_CLASSES,
        better="lower",
        digits=1,
        scale=100,
        compute=lambda judged: (judged.nearest == judged.labels).float(),
        always=True,
    ),
    Metric(
        name="chance",
        label="chance %",
        heading=_PICTURES,
        of=_CLASSES,
        level="reference",
        digits=1,
        read=_of_record("chance", scale=100),
        always=True,
    ),
    Metric(
        name="mse",
        label="MSE to the mean",
        heading=_PICTURES,
        of=_CLASSES,
        better="higher",
        compute=lambda judged: mse(judged.rebuilt, judged.means[judged.labels]),
        always=True,
    ),
    Metric(
        name="constant_mse",
        label="constant",
        heading=_PICTURES,
        of=_CLASSES,
        level="reference",
        read=_of_record("constant_mse"),
    ),
    Metric(
        name="target_confidence",
        label="target's confidence",
        heading=_PICTURES,
        of=_CLASSES,
        digits=3,
        compute=lambda judged: probabilities(judged.target, judged.rebuilt)[
            torch.arange(len(judged.labels)), judged.labels
        ],
        always=True,
    ),
    Metric(
        name="delta_eval",
        label="δ",
        heading=_FEATURES,
        of=_CLASSES,
        better="higher",
        digits=2,
        read=_of_record("figures", "delta_eval", "mean"),
    ),
    Metric(
        name="frechet_eval",
        label="Fréchet",
        heading=_FEATURES,
        of=_CLASSES,
        better="higher",
        digits=1,
        read=_of_record("figures", "frechet_eval", "distance"),
    ),
    Metric(
        name="coverage",
        label="coverage",
        heading=_FEATURES,
        of=_CLASSES,
        better="lower",
        digits=2,
        read=_of_record("figures", "diversity_eval", "coverage"),
    ),
    Metric(
        name="evaluator_on_truth",
        label="class means",
        heading=_EVALUATOR,
        of=_CLASSES,
        level="reference",
        digits=1,
        read=_of_record("evaluator", "on_truth", scale=100),
    ),
    Metric(
        name="evaluator_accuracy",
        label="test images",
        heading=_EVALUATOR,
        of=_CLASSES,
        level="reference",
        digits=1,
        read=_of_record("evaluator", "accuracy", scale=100),
    ),
    Metric(
        name="bound",
        label="MSE bound",
        heading=_FREE,
        of=_VICTIMS,
        level="target",
        digits=None,
        read=_of_leakage("mse_bound"),
    ),
    Metric(
        name="fsinfo",
        label="FSInfo",
        heading=_FREE,
        of=_VICTIMS,
        level="target",
        read=_of_leakage("fsinfo_nats_per_pixel"),
    ),
    Metric(
        name="effective_dimensions",
        label="effective dimensions",
        of=_VICTIMS,
        level="target",
        digits=1,
        read=_of_leakage("effective_dimensions"),
        shown=False,
    ),
    *(
        Metric(
            name=part,
            label=f"{part.removesuffix('_ms')} ms",
            heading=_TIME,
            of=_VICTIMS,
            level="target",
            digits=2,
            read=_of_latency(part),
        )
        for part in ("edge_ms", "wire_ms", "cloud_ms", "total_ms")
    ),
]


def metrics_of(kind: Kind) -> Iterator[Metric]:
    """The metrics that apply to what was rebuilt, in the order of tables."""
    return (metric for metric in METRICS if kind in metric.of)


def metric_named(name: str, kind: Kind) -> Metric | None:
    """The metric of that name that applies to what was rebuilt."""
    return next((metric for metric in metrics_of(kind) if metric.name == name), None)


def metric_names() -> tuple[str, ...]:
    """The names of all metrics, each once."""
    return tuple(dict.fromkeys(metric.name for metric in METRICS))


def kind_of(record: Record) -> Kind:
    """What the record is about."""
    return "classes" if isinstance(record, ClassesRecord) else "victims"


def headline(record: Record) -> list[tuple[Metric, float]]:
    """The target's accuracy and the figures of the attack that tables show, for a line about the record."""
    reading = Reading(record)
    named = [each for each in metrics_of(kind_of(record)) if each.shown and (each.level == "attack" or each.always)]
    values = ((each, each.value(reading)) for each in named if each.level != "reference")
    return [(each, value) for each, value in values if value is not None]


def measured_victims(images: Tensor, truth: Tensor) -> dict[str, Score]:
    """Every metric of victims that the judge computes, of ``images`` against ``truth``, ``(N, C, H, W)`` in [0, 1]."""
    return {metric.stored: metric.score(compute(images, truth)) for metric, compute in _computed("victims")}


def measured_classes(judged: JudgedClasses, pictures: int) -> dict[str, Score]:
    """Every metric of classes that the judge computes, of ``pictures`` of each class."""
    return {metric.stored: metric.score(compute(judged), pictures) for metric, compute in _computed("classes")}


def _computed(kind: Kind) -> Iterator[tuple[Metric, Callable[..., Tensor]]]:
    return ((metric, metric.compute) for metric in metrics_of(kind) if metric.compute is not None)
