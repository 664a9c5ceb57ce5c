"""The table of metrics: name, unit, direction (which way is better), computation and format of each.

A metric is one entry of `METRICS`. One with ``compute`` is computed by the judge on the reconstructions and stored in
the record under its ``key``; one with ``read`` alone is read from a record, or from a measure of the target.
Either way it appears in records, tables, CSV, reports and status without further code.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ACCESSES
from splitleak.defenses.artifact import WholeModel
from splitleak.eval.record import MEASURES
from splitleak.eval.record.evaluator import Evaluator, probabilities
from splitleak.eval.record.schema import ClassesRecord, Leakage, Linkage, Record, Score
from splitleak.measures.linkage.refinding import BRIGHTER, MIRRORED, MOVED, SAME
from splitleak.measures.lpips import lpips
from splitleak.measures.lpips import missing as lpips_missing
from splitleak.measures.ms_ssim import ms_ssim
from splitleak.measures.pixel import batch_psnr, mse, psnr
from splitleak.measures.ssim import missing as ssim_missing
from splitleak.measures.ssim import ssim, ssim_zero_padded
from splitleak.plugins import Plugin, packaged

CHOSEN_BY = {"open_gain": "open_set", "open_set": "open_set"}
"""By a metric of classes, the one that says which attack is the strongest, if it is not what is recognised."""

HitMatrix = NDArray[np.float64]
"""Which pictures a judge takes for their class, ``[class][picture]``, 1 or 0; or shares of these."""

Kind = Literal["victims", "classes"]
"""Subject of a reconstruction: victims' images, or pictures of the target's classes."""

_CAP_DB = 100.0
"""PSNR in dB of an exact reconstruction, which is infinite, so that a mean exists."""


@dataclass(frozen=True)
class JudgedClasses:
    """Pictures rebuilt of every class, with the references for metrics.

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
        """Index of the class mean nearest to each picture ``(K * R,)``, see `nearest_mean`."""
        return nearest_mean(self.rebuilt, self.means)


@dataclass(frozen=True)
class Reading:
    """A record with other measures of its target: attack-free leakage, linkage of features, and latency.

    ``baselines`` are the records of the baselines on the same target, by the same attacker's images; those count that
    need no more than ``access``, by default that of the record's attack.
    """

    record: Record
    leakage: Leakage | None = None
    latency: Mapping[str, Mapping[str, float | None]] | None = None
    linkage: Linkage | None = None
    baselines: tuple[ClassesRecord, ...] = ()
    access: str | None = None


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: Its column in CSV files, and its name in claims.
        label: Its column in tables, with the unit.
        heading: Over its column and others; replaced by an attack's name in tables with attacks as columns.
        digits: Decimals in tables; None: three significant digits.
        better: Which way is better *for the victims*; None if neither is.
        of: The subjects it applies to: rebuilt victims, pictures of classes, or both.
        level: A figure of the target, of the attack, or a reference column: chance level, constant predictor, held-out
            error, accuracy on true images.
        scale: Factor from a record's value to the shown one, 100 for percent.
        key: In a record's ``scores``; default: the name.
        compute: By the judge: for victims ``(images, truth)``, both ``(N, C, H, W)`` in [0, 1], to ``(N,)`` or one
            value of the batch ``()``; for classes `JudgedClasses` to ``(K * R,)``.
        missing: Why it cannot be computed of pictures of a shape ``(C, H, W)``, or None; a record repeats it.
        read: The shown value; default: ``scale`` times the mean of its score.
        cap: Upper limit of values; the score counts those above it.
        shown: Whether tables have it; CSV files do in any case.
        always: Whether tables have its column even if it is not measured.
        when: The condition for its column: a codec, or an output policy, is in use.
        optional: Whether CSV files too leave its column out where nothing measured it.
    """

    name: str
    label: str
    heading: str = ""
    digits: int | None = 4
    better: Literal["higher", "lower"] | None = None
    of: tuple[Kind, ...] = field(default=("victims", "classes"), kw_only=True)
    level: Literal["target", "attack", "reference"] = field(default="attack", kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    key: str = field(default="", kw_only=True)
    compute: Callable[..., Tensor] | None = field(default=None, kw_only=True)
    missing: Callable[[tuple[int, ...]], str | None] = field(default=lambda shape: None, kw_only=True)
    read: Callable[[Reading], float | None] | None = field(default=None, kw_only=True)
    cap: float | None = field(default=None, kw_only=True)
    shown: bool = field(default=True, kw_only=True)
    always: bool = field(default=False, kw_only=True)
    when: Literal["codec", "policy"] | None = field(default=None, kw_only=True)
    optional: bool = field(default=False, kw_only=True)

    @property
    def about(self) -> str:
        """What its function says of itself."""
        return inspect.getdoc(self.compute or self.read) or ""

    @property
    def stored(self) -> str:
        """Its key in a record's ``scores``."""
        return self.key or self.name

    def value(self, reading: Reading) -> float | None:
        """The value as shown; None if it is not measured."""
        if self.read is not None:
            return self.read(reading)
        mean = reading.record.mean(self.stored)
        return None if mean is None else self.scale * mean

    def text(self, value: float) -> str:
        """A value formatted for tables."""
        return f"{value:.3g}" if self.digits is None else f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """A difference of two values formatted for tables."""
        return f"{value:+.3g}" if self.digits is None else f"{value:+.{self.digits}f}"

    def score(self, values: Tensor, pictures: int | None = None) -> Score:
        """The entry in a record: the spread of values ``(N,)``, or a single value ``()`` alone.

        With ``pictures`` of each class, the spread is over classes.
        """
        kept, capped = values.double().numpy(), None
        if self.cap is not None:
            capped = int((kept > self.cap).sum()) or None
            kept = np.minimum(kept, self.cap)
        if values.ndim == 0:
            return Score(mean=float(kept), capped=capped)
        if pictures is None:
            return spread(kept).model_copy(update={"capped": capped})
        rows = kept.reshape(-1, pictures)
        several = None if pictures == 1 else tuple(tuple(round(float(value), 6) for value in row) for row in rows)
        return spread(rows.mean(1)).model_copy(update={"images": several})


def spread(values: NDArray[np.float64]) -> Score:
    """Mean and standard deviation (n - 1) of values ``(N,)``, and the values themselves, to six decimals.

    A single value has no deviation.
    """
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Score(mean=float(values.mean()), std=deviation, values=tuple(round(float(value), 6) for value in values))


def nearest_mean(images: Tensor, means: Tensor) -> Tensor:
    """Index of the nearest of ``means`` ``(K, C, H, W)`` for each image ``(N, C, H, W)``: ``(N,)``, -1 if it is flat.

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
    """Reads the attribute at a path in a record; None if it is missing."""

    def read(reading: Reading) -> float | None:
        value: Any = reading.record
        for name in path:
            value = getattr(value, name, None)
        return None if value is None else scale * float(value)

    return read


def _of_leakage(name: str) -> Callable[[Reading], float | None]:
    return lambda reading: None if reading.leakage is None else getattr(reading.leakage, name)


def _refound(view: str) -> Callable[[Reading], float | None]:
    """Reads the share of victims found again, in percent, by the method that finds most of them."""

    def read(reading: Reading) -> float | None:
        if reading.linkage is None:
            return None
        return 100 * max(found[view].share for found in reading.linkage.refound.values())

    return read


def _refound_by(method: str) -> Callable[[Reading], float | None]:
    """Reads the share of victims found again by one method, in percent, the mean over views."""

    def read(reading: Reading) -> float | None:
        found = None if reading.linkage is None else reading.linkage.refound.get(method)
        return None if found is None else 100 * fmean(each.share for each in found.values())

    return read


def _told_alike(reading: Reading) -> float | None:
    """The share of pairs of one class that are told to be so at a false match rate of 1 %, in percent."""
    verified = None if reading.linkage is None else (reading.linkage.verified or {}).get("0.01")
    return None if verified is None or verified.rate is None else 100 * verified.rate


def _label_read(reading: Reading) -> float | None:
    """How often a linear probe of the features is right about the label, in percent."""
    label = None if reading.linkage is None else reading.linkage.label
    return None if label is None else 100 * label.right


def _of_latency(part: str, quantile: str = "p50") -> Callable[[Reading], float | None]:
    return lambda reading: None if reading.latency is None else reading.latency[part].get(quantile)


def _recognised(judged: JudgedClasses) -> Tensor:
    return judged.evaluator.recognised(judged.rebuilt, judged.labels)


def _nearest_own(judged: JudgedClasses) -> Tensor:
    return (judged.nearest == judged.labels).float()


def _mse_to_mean(judged: JudgedClasses) -> Tensor:
    return mse(judged.rebuilt, judged.means[judged.labels])


def _target_confidence(judged: JudgedClasses) -> Tensor:
    return probabilities(judged.target, judged.rebuilt).gather(1, judged.labels[:, None])[:, 0]


def _closer(reading: Reading) -> float | None:
    """By how much less its MSE is than that of the attacker's own mean picture of the victim's class."""
    means = reading.record.class_means
    return None if means is None else means.own - reading.record.mse


def _gain(reading: Reading) -> float | None:
    """How many points more often it is recognised than the best baseline of the same access; None without one.

    With as many pictures of each class as it gives itself, see `best_baseline`.
    """
    return _over_baseline(reading, recognised_hits)


def _open_gain(reading: Reading) -> float | None:
    """As `_gain`, by the open-set judge."""
    return _over_baseline(reading, open_hits)


def _embedded(rate: str, *path: str) -> Callable[[Reading], float | None]:
    """Reads what a user's embedder takes for the class, at a false match rate, in percent."""

    def read(reading: Reading) -> float | None:
        figures = reading.record.figures if isinstance(reading.record, ClassesRecord) else None
        value: Any = None if figures is None or figures.embedded is None else figures.embedded.at.get(rate)
        for name in path:
            value = getattr(value, name, None)
        return None if value is None else 100 * float(value)

    return read


def _over_baseline(reading: Reading, hits_of: Callable[[ClassesRecord], HitMatrix | None]) -> float | None:
    best, own = best_baseline(reading, hits_of), _hits(reading, hits_of)
    return None if best is None or own is None else 100 * float(own.mean() - best.mean())


def _gain_error(reading: Reading) -> float | None:
    """Standard error of the gain, in points: of paired differences, clustered by class; None for one class."""
    return _gain_error_of(reading, recognised_hits)


def _open_gain_error(reading: Reading) -> float | None:
    """As `_gain_error`, by the open-set judge."""
    return _gain_error_of(reading, open_hits)


def _gain_error_of(reading: Reading, hits_of: Callable[[ClassesRecord], HitMatrix | None]) -> float | None:
    best, own = best_baseline(reading, hits_of), _hits(reading, hits_of)
    return None if best is None or own is None else clustered_error(own.mean(1) - best.mean(1))


def _recognised_error(reading: Reading) -> float | None:
    """Standard error of the attack accuracy over a target's classes, in percent; None for one class.

    Clustered by class: pictures of one class are not independent, as all of them may be drawn from one Gaussian.
    """
    hits = _hits(reading, recognised_hits)
    return None if hits is None else clustered_error(hits.mean(1))


def _open_error(reading: Reading) -> float | None:
    """As `_recognised_error`, by the open-set judge."""
    hits = _hits(reading, open_hits)
    return None if hits is None else clustered_error(hits.mean(1))


def _hits(reading: Reading, hits_of: Callable[[ClassesRecord], HitMatrix | None]) -> HitMatrix | None:
    return hits_of(reading.record) if isinstance(reading.record, ClassesRecord) else None


def clustered_error(of_classes: HitMatrix) -> float | None:
    """Standard error in percent of a mean over classes, of the classes' shares ``(K,)``; None for one class."""
    many = len(of_classes)
    return 100 * float(of_classes.std(ddof=1)) / math.sqrt(many) if many > 1 else None


def recognised_hits(record: ClassesRecord) -> HitMatrix | None:
    """Which pictures the evaluator puts in their class, ``[class][picture]``; None if only their mean is recorded.

    Brief records keep the hits in their figures, and have no values of single images.
    """
    if record.figures is not None and record.figures.top1 is not None:
        return np.array(record.figures.top1.hits, dtype=float)
    score = record.scores["recognised"]
    hits = np.array(score.images or score.values or (), dtype=float)
    return hits.reshape(len(hits), -1) if len(hits) else None


def open_hits(record: ClassesRecord) -> HitMatrix | None:
    """Which pictures the open-set judge takes for their class, ``[class][picture]``; None if it was not asked."""
    answers = None if record.figures is None else record.figures.open_set
    return None if answers is None else np.array(answers.right.hits, dtype=float)


def is_baseline(record: Record) -> bool:
    """Whether nothing was rebuilt, but picked from what an attacker has already."""
    kind = CLASS_ATTACKS.get(record.attack.name)
    return kind is not None and kind.baseline


def best_baseline(reading: Reading, hits_of: Callable[[ClassesRecord], HitMatrix | None]) -> HitMatrix | None:
    """The most hits of a baseline that needs no more access, with as many pictures of a class as the attack gives.

    A baseline's pictures are best first, so that its first few are recognised more often than all of them: an attack
    that gives its best few is compared with these. None for a baseline itself, and where there is none of the access.
    """
    access, own = reading.access or reading.record.threat_model.access, _hits(reading, hits_of)
    if access not in ACCESSES or own is None or is_baseline(reading.record):
        return None
    allowed = ACCESSES[: ACCESSES.index(access) + 1]
    judged = [
        hits[:, : own.shape[1]]
        for record in reading.baselines
        if record.threat_model.access in allowed and (hits := hits_of(record)) is not None
    ]
    return max(judged, key=lambda hits: float(hits.mean()), default=None)


_WIRE, _POLICY, _FREE, _TIME = "on the wire", "behind its policy", "without any attack", "latency p50"
_FOUND = "found again by the feature"
_REBUILT, _RIGHT, _OWN = "rebuilt victims", "right class by the evaluator %", "attacker's own held-out images"
_PICTURES, _FEATURES, _EVALUATOR = "pictures of classes", "evaluator's features", "evaluator %"
_OPEN, _EMBEDDER, _PRIVATE = "open set", "by the embedder", "on its private images"

_percent = partial(_of_record, scale=100)
_victims, _classes = partial(Metric, of=("victims",)), partial(Metric, of=("classes",))
_published = partial(_victims, always=True)
_similarity = partial(_victims, missing=ssim_missing)
_beside_victims, _beside_classes = partial(_victims, level="reference"), partial(_classes, level="reference")
_target, _target_of_victims = partial(Metric, level="target"), partial(_victims, level="target")
_found_by = partial(_target_of_victims, heading="", digits=1, better="lower", shown=False)
_FIRST_WAYS = ("plain", "whitened", "unordered", "learned")  # that records of any age have
_of_embedder = partial(_classes, heading=_EMBEDDER, digits=1, better="lower", optional=True)
_by_embedder = partial(_beside_classes, heading=_EMBEDDER, digits=1, optional=True)
_target_of_classes, _of_fit = partial(_classes, level="target"), partial(_of_record, "figures", "private_fit")

_OPEN_RIGHT, _OPEN_OTHERS = (_percent("figures", "open_set", *path) for path in (("right", "mean"), ("others",)))
_VERIFIED = _percent("figures", "identification", "verification", "true_match_rate")
_GAUSSIAN, _SAMPLES, _DIMENSIONS = map(_of_leakage, ("mse_gaussian_estimate", "samples", "effective_dimensions"))

METRICS: list[Metric] = [
    # The target: its accuracy, alone, through a codec and behind an output policy.
    _target("accuracy", "accuracy %", "classifier", digits=2, read=_percent("target", "accuracy"), always=True),
    _target_of_victims("wire_accuracy", "accuracy %", _WIRE, 2, read=_percent("wire", "accuracy"), when="codec"),
    _target_of_victims("bytes", "bytes/image", _WIRE, 0, read=_of_record("wire", "bytes_per_image"), when="codec"),
    _target("service_accuracy", "accuracy %", _POLICY, 2, read=_percent("service", "accuracy"), when="policy"),
    _target("distortion", "distortion", _POLICY, 3, read=_of_record("service", "distortion"), when="policy"),
    # Victims rebuilt: SSIM and PSNR by the published tables' definitions, then the usual and the perceptual ones;
    # reference columns.
    _similarity(
        *("ssim", "zero-padded SSIM", _REBUILT, 3, "lower"),
        key="ssim_zero_padded",
        compute=ssim_zero_padded,
        always=True,
    ),
    _published("psnr", "batch PSNR dB", _REBUILT, 2, "lower", key="batch_psnr", compute=batch_psnr, cap=_CAP_DB),
    _published("mse", "MSE", _REBUILT, 4, "higher", compute=mse),
    _similarity("ssim_valid", "standard SSIM", "", 3, "lower", key="ssim", compute=ssim, shown=False),
    _victims("psnr_image", "PSNR dB, mean", "", 2, "lower", key="psnr", compute=psnr, cap=_CAP_DB, shown=False),
    _similarity("ms_ssim", "MS-SSIM", _REBUILT, 3, "lower", compute=ms_ssim),
    _victims("lpips", "LPIPS", _REBUILT, 4, "higher", compute=lpips, missing=lpips_missing),
    _beside_victims("constant_mse", "constant", _REBUILT, read=_of_record("constant_mse")),
    _beside_victims("own_mean_mse", "own class mean", _REBUILT, read=_of_record("class_means", "own")),
    _beside_victims("class_mean_mse", "class mean", _REBUILT, read=_of_record("class_means", "true")),
    _beside_victims("mean_gain", "closer than own mean", _REBUILT, read=_closer),
    _victims("reclassified", "rebuilt", _RIGHT, 1, "lower", scale=100),
    _beside_victims("evaluator_on_truth", "victims", _RIGHT, 1, read=_percent("evaluator", "on_truth")),
    _beside_victims("evaluator_accuracy", "test images", _RIGHT, 1, read=_percent("evaluator", "accuracy")),
    Metric("held_out_mse", "MSE", _OWN, level="reference", read=_of_record("attack", "findings", "held_out_mse")),
    Metric(
        "mean_image_mse", "mean image", _OWN, level="reference", read=_of_record("attack", "findings", "mean_image_mse")
    ),
    # Pictures of classes: by the evaluator, by the nearest class mean, and by the target itself.
    _classes("recognised", "recognised %", _PICTURES, 1, "lower", scale=100, compute=_recognised, always=True),
    _beside_classes("recognised_error", "standard error", _PICTURES, 1, read=_recognised_error),
    _classes("gain", "over baseline", _PICTURES, 1, "lower", read=_gain, always=True),
    _beside_classes("gain_error", "its error", _PICTURES, 1, read=_gain_error),
    _classes("open_set", "right %", _OPEN, 1, "lower", read=_OPEN_RIGHT, always=True),
    _beside_classes("open_error", "standard error", _OPEN, 1, read=_open_error),
    _classes("open_gain", "over baseline", _OPEN, 1, "lower", read=_open_gain, always=True),
    _beside_classes("open_gain_error", "its error", _OPEN, 1, read=_open_gain_error),
    _beside_classes("open_others", "prior's own %", _OPEN, 1, read=_OPEN_OTHERS, always=True),
    _classes("verified", "verified %", _OPEN, 1, "lower", read=_VERIFIED),
    *(
        metric
        for rate, name, shown in (("0.01", "embedded", "1 %"), ("0.001", "embedded_strict", "0.1 %"))
        for metric in (
            _of_embedder(name, f"verified % at {shown}", read=_embedded(rate, "rebuilt", "rate")),
            _by_embedder(f"{name}_error", "standard error", read=_embedded(rate, "rebuilt", "error")),
            _by_embedder(f"{name}_true", "true photographs %", read=_embedded(rate, "true", "rate")),
            _by_embedder(f"{name}_others", "others' photographs %", read=_embedded(rate, "others", "rate")),
        )
    ),
    _classes("top5", "top-5 %", _PICTURES, 1, "lower", read=_percent("figures", "top5", "mean")),
    _classes("rank1", "re-identified %", _PICTURES, 1, "lower", read=_percent("figures", "identification", "rank1")),
    _classes("rank5", "rank 5 %", "", 1, "lower", read=_percent("figures", "identification", "rank5"), shown=False),
    _classes("nearest_mean", "nearest mean %", _PICTURES, 1, "lower", scale=100, compute=_nearest_own, always=True),
    _beside_classes("chance", "chance %", _PICTURES, 1, read=_percent("chance"), always=True),
    _classes("mse", "MSE to the mean", _PICTURES, 4, "higher", compute=_mse_to_mean, always=True),
    _beside_classes("constant_mse", "constant", _PICTURES, read=_of_record("constant_mse")),
    _classes("target_confidence", "target's confidence", _PICTURES, 3, compute=_target_confidence, always=True),
    _classes("delta_eval", "δ", _FEATURES, 2, "higher", read=_of_record("figures", "delta_eval", "mean")),
    _classes("frechet_eval", "Fréchet", _FEATURES, 1, "higher", read=_of_record("figures", "frechet_eval", "distance")),
    _classes("coverage", "coverage", _FEATURES, 2, "lower", read=_of_record("figures", "diversity_eval", "coverage")),
    _beside_classes("evaluator_on_truth", "class means", _EVALUATOR, 1, read=_percent("evaluator", "on_truth")),
    _beside_classes("evaluator_accuracy", "test images", _EVALUATOR, 1, read=_percent("evaluator", "accuracy")),
    _beside_classes(
        "open_accuracy", "open set, test images", _EVALUATOR, 1, read=_percent("figures", "open_set", "accuracy")
    ),
    _target_of_classes("private_confidence", "confidence", _PRIVATE, 2, read=_of_fit("confidence")),
    _target_of_classes("private_loss", "loss", _PRIVATE, 3, read=_of_fit("loss")),
    # Attack-free measures of a target.
    _target_of_victims("mse_gaussian_estimate", "MSE, Gaussian estimate", _FREE, None, read=_GAUSSIAN),
    _target_of_victims("mse_gaussian_samples", "images of the estimate", "", 0, read=_SAMPLES, shown=False),
    _target_of_victims("fsinfo", "FSInfo", _FREE, read=_of_leakage("fsinfo_nats_per_pixel")),
    _target_of_victims("effective_dimensions", "effective dimensions", "", 1, read=_DIMENSIONS, shown=False),
    _target_of_victims("refound", "same %", _FOUND, 1, "lower", read=_refound(SAME)),
    _target_of_victims("refound_moved", "moved %", _FOUND, 1, "lower", read=_refound(MOVED)),
    _target_of_victims("refound_brighter", "brighter %", _FOUND, 1, "lower", read=_refound(BRIGHTER)),
    _target_of_victims("refound_mirrored", "mirrored %", "", 1, "lower", read=_refound(MIRRORED), shown=False),
    *(
        _found_by(f"refound_{way}", f"{way} %", read=_refound_by(way), optional=way not in _FIRST_WAYS)
        for way in (*_FIRST_WAYS, "aligned", "plda")
    ),
    _target_of_victims("told_alike", "told alike %", "", 1, "lower", read=_told_alike, shown=False),
    _target_of_victims("label_read", "label by a probe %", "", 1, "lower", read=_label_read, shown=False),
    _target_of_victims("edge_ms", "edge ms", _TIME, 2, read=_of_latency("edge_ms")),
    _target_of_victims("wire_ms", "wire ms", _TIME, 2, read=_of_latency("wire_ms")),
    _target_of_victims("cloud_ms", "cloud ms", _TIME, 2, read=_of_latency("cloud_ms")),
    _target_of_victims("total_ms", "total ms", _TIME, 2, read=_of_latency("total_ms")),
    _target_of_victims("total_ms_p95", "total ms, p95", "", 2, read=_of_latency("total_ms", "p95")),
]


def metrics() -> list[Metric]:
    """All metrics in the order of tables: ours, and then those of the plug-ins that are allowed.

    Raises:
        ValueError: A plug-in's has the name of one of ours, or cannot be imported.
    """
    return [*METRICS, *(metric for _, metric in _plugged())]


def _plugged() -> Iterator[tuple[Plugin, Metric]]:
    for plugin in MEASURES.allowed():
        metric = MEASURES[plugin.name]
        if any(own.name == metric.name and {*own.of} & {*metric.of} for own in METRICS):
            raise ValueError(f"expected a name that no metric of splitleak has, got {metric.name!r} by {plugin}")
        yield plugin, metric


def measure_plugins(kind: Kind) -> list[dict[str, Any]]:
    """The plug-ins whose metrics of a subject are computed, as records name them."""
    return [asdict(packaged(plugin)) for plugin, metric in _plugged() if kind in metric.of]


def lacks_measure(record: Record) -> bool:
    """Whether a record was judged without a metric of a plug-in that is computed now."""
    kind = kind_of(record)
    asked = {metric.stored for _, metric in _plugged() if metric.compute is not None and kind in metric.of}
    return bool(asked - {*record.scores, *(record.not_measured or ())})


def metrics_of(kind: Kind) -> Iterator[Metric]:
    """The metrics of a subject, in the order of tables."""
    return (metric for metric in metrics() if kind in metric.of)


def metric_named(name: str, kind: Kind) -> Metric | None:
    """The metric of a subject by its name, or None."""
    return next((metric for metric in metrics_of(kind) if metric.name == name), None)


def metric_names() -> tuple[str, ...]:
    """The names of all metrics, each once."""
    return tuple(dict.fromkeys(metric.name for metric in metrics()))


def kind_of(record: Record) -> Kind:
    """The subject of a record."""
    return "classes" if isinstance(record, ClassesRecord) else "victims"


def headline(record: Record) -> list[tuple[Metric, float]]:
    """The target's accuracy and the attack's shown metrics, for a line about the record."""
    reading = Reading(record)
    shown = [metric for metric in metrics_of(kind_of(record)) if metric.shown and metric.level != "reference"]
    values = ((metric, metric.value(reading)) for metric in shown if metric.level == "attack" or metric.always)
    return [(metric, value) for metric, value in values if value is not None]


def measured_victims(images: Tensor, truth: Tensor) -> dict[str, Score]:
    """Computes the metrics of victims, of ``images`` against ``truth``, both ``(N, C, H, W)`` in [0, 1]."""
    shape = tuple(truth.shape[1:])
    computed = ((metric, compute) for metric, compute in _computed("victims") if metric.missing(shape) is None)
    return {metric.stored: metric.score(compute(images, truth)) for metric, compute in computed}


def not_measured(truth: Tensor) -> dict[str, str] | None:
    """The metrics of victims that cannot be computed of images ``(N, C, H, W)``, with the reason; None if all can."""
    reasons = ((metric.stored, metric.missing(tuple(truth.shape[1:]))) for metric, _ in _computed("victims"))
    return {name: reason for name, reason in reasons if reason is not None} or None


def measured_classes(judged: JudgedClasses, pictures: int) -> dict[str, Score]:
    """Computes the metrics of classes, with ``pictures`` of each class."""
    return {metric.stored: metric.score(compute(judged), pictures) for metric, compute in _computed("classes")}


def _computed(kind: Kind) -> Iterator[tuple[Metric, Callable[..., Tensor]]]:
    return ((metric, metric.compute) for metric in metrics_of(kind) if metric.compute is not None)
