"""Deployments: a design with a codec, and its measured accuracy, leakage, latency and bytes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from splitleak.attacker.reconstruction import ATTACKS
from splitleak.config import Document, digest, read_table
from splitleak.defenses import DEFENSES
from splitleak.defenses.importing import LABELS
from splitleak.eval.latency.table import engine_text
from splitleak.eval.record.schema import Record
from splitleak.eval.report.results import Results, design_of, means_of, variant
from splitleak.inputs import check_different

Latency = Mapping[str, Any]
"""The result of `splitleak latency`."""

PLAIN = "fp32"


@dataclass(frozen=True)
class Measured:
    """One record of an attack on features, and the deployment that it attacked."""

    design: str
    codec: str
    record: Record

    @property
    def dataset(self) -> str:
        """Name of the data set; accuracies on different ones are not compared."""
        return self.record.target.dataset.dataset

    @property
    def target(self) -> str:
        return self.record.target.name

    @property
    def seed(self) -> int:
        return self.record.target.design.seed

    @property
    def cut(self) -> int | str:
        return self.record.target.design.model.position


@dataclass(frozen=True)
class Deployment:
    """A design with a codec; values are means over seeds, in percent, milliseconds and bytes per image.

    ``accuracy`` is that on the test images, for codecs other than fp32 corrected by the codec's change of the accuracy
    on the victims' images. MSE and SSIM (None of pictures that are too small for it) are those of the strongest
    recorded attack on each target, by its MSE, the mean of its runs of several seeds; ``partly`` are the attacks that
    were not run on all of the targets. ``efforts``: each attack with a digest of how many pictures it asked about and
    what it was set to; ``scored``: digests of the victims' images. ``white_box``: an attack used the edge's weights,
    and was not merely given them.
    ``uncorrected``: of such a codec, the change is not known, as no fp32 was measured on its targets.
    ``assumed`` ones have accuracy and leakage of the same design with fp32: only latency and bytes were measured.
    """

    design: str
    cut: int | str
    defenses: tuple[str, ...]
    codec: str
    targets: tuple[str, ...]
    accuracy: float
    drop: float
    mse: float
    ssim: float | None
    attack: str
    attacks: tuple[str, ...]
    partly: tuple[str, ...]
    efforts: tuple[tuple[str, str], ...]
    scored: tuple[str, ...]
    knowledge: tuple[str, ...]
    white_box: bool
    seeds: int
    victims: int
    randomised: bool
    adaptive: bool
    bytes_per_image: float
    latency_ms: float | None = None
    engine: str | None = None
    assumed: bool = False
    uncorrected: bool = False

    @property
    def label(self) -> str:
        """Short description."""
        return f"{self.design}, cut {self.cut}, {self.codec}"


def read_results(folders: Sequence[Path], dataset: str | None = None) -> list[Measured]:
    """The records of attacks on features: of campaigns, of recorded results, or below a folder.

    Args:
        folders: Of the results.
        dataset: Select records on this data set only.

    Raises:
        FileNotFoundError: A folder has no record.
        ValueError: A record of another threat model, one that is in two folders, records on several data sets while
            none is named, or accuracies of which some are by labels and others by a network's own answers.
    """
    measured: list[Measured] = []
    places: dict[str, Path] = {}
    check_different(folders, "folders of results")
    for folder in folders:
        results = Results.load(folder)
        for record in {record.id: record for _, record in results.measured}.values():
            if (other := places.setdefault(record.id, folder)) is not folder:
                raise ValueError(f"expected each record once, got {record.id} in {other} and in {folder}")
        for cell, record in results.measured:
            if record.threat_model.sees != "features":
                got = f"one that saw {record.threat_model.sees} ({cell.label})"
                raise ValueError(f"{folder}: expected records of attackers who saw features alone, got {got}")
            name = cell.row.label + (f" ({cell.table})" if len(results.tables) > 1 else "")
            if results.kind == "loose":  # its place is made up, and tells runs of one attack apart by no setting
                name, record = record.target.name, record.model_copy(update={"cell": None})
            measured.append(Measured(name, cell.codec, record))
    sets = sorted({run.dataset for run in measured})
    if dataset is None and len(sets) > 1:
        raise ValueError(f"expected results on one data set, got {sets}; name one")
    selected = [run for run in measured if dataset in (None, run.dataset)]
    if not selected:
        raise ValueError(f"expected results on {dataset or 'a data set'}, got {sets or 'none'}")
    answers = {run.record.target.right_answer or LABELS: run.design for run in selected}
    if len(answers) > 1:
        got = " and ".join(f"{answer} ({design})" for answer, design in answers.items())
        raise ValueError(f"expected accuracies by one kind of right answer, which alone compare, got {got}")
    return selected


class _Median(BaseModel):
    p50: float


class _Parts(BaseModel):
    total_ms: _Median


class _TimedCell(BaseModel):
    """What is asked of a cell of a latency sweep; it tells more."""

    way: str
    window: int | None  # of all that crosses a wire
    link: str | None
    batch: int
    target: str
    codec: str | None
    bytes_per_image: float
    edge_engine: str = "-"
    cloud_engine: str = "-"
    parts: _Parts

    @model_validator(mode="after")
    def _crosses(self) -> Self:
        if self.way == "split" and None in (self.window, self.link, self.codec):
            raise ValueError("expected the window, the link and the codec of what is split, got null")
        return self


class _Device(BaseModel):
    name: str


class _Timed(Document):
    model_config = ConfigDict(extra="ignore")

    cells: tuple[_TimedCell, ...]
    emulated_device: _Device | None


def read_latency(path: Path) -> Latency:
    """What `splitleak latency --out` wrote.

    Raises:
        ValueError: It is something else, or of an old form.
    """
    document = read_table(path)
    if "cells" not in document:
        expected = f"{path}: expected a latency record with cells"
        raise ValueError(f"{expected}, got one of an old form; run `splitleak latency` again")
    _Timed.parse(document, source=str(path))
    return document


def deployments(measured: Sequence[Measured], latency: Latency | None, link: str | None) -> list[Deployment]:
    """The deployments of ``measured`` with their latency, then the assumed ones for codecs with latency only.

    The accuracy drop is relative to the most accurate undefended design, or else to the most accurate of all. The
    latency is the median of a request of the smallest measured batch, one in flight, with the fastest engine of each
    target, on average over targets.

    Args:
        measured: Attack records.
        latency: Result of a latency sweep.
        link: Name of the link, needed if the sweep has several.

    Raises:
        ValueError: The latency record has several links and none is named, or not that one; several designs have one
            name, or no record of one tells what was sent.
    """
    options = _of_targets(measured)
    undefended = [option for option in options if not option.defenses and option.codec == PLAIN]
    best = max(option.accuracy for option in undefended or options)
    options = [replace(option, drop=best - option.accuracy) for option in options]
    if latency is None:
        return options
    timed = _timed(latency, link)
    with_latency = [_with_latency(option, timed) for option in options]
    return with_latency + list(_assumed(with_latency, timed))


def _of_targets(measured: Sequence[Measured]) -> list[Deployment]:
    grouped: dict[tuple[str, str], list[Measured]] = {}
    for run in measured:
        grouped.setdefault((run.design, run.codec), []).append(run)
    return [_deployment(group, grouped.get((_twin(group, grouped), PLAIN), ())) for group in grouped.values()]


def _twin(group: Sequence[Measured], grouped: Mapping[tuple[str, str], Sequence[Measured]]) -> str:
    """The design of the same targets with codec fp32."""
    targets = {run.target for run in group}
    for (design, codec), others in grouped.items():
        if codec == PLAIN and targets & {run.target for run in others}:
            return design
    return ""


def _deployment(group: Sequence[Measured], twin: Sequence[Measured]) -> Deployment:
    first = group[0]
    if len(designs := {design_of(run.record) for run in group}) > 1:
        expected = f"expected records of one target design, and of one split, under the name {first.design!r}"
        raise ValueError(f"{expected}, got {len(designs)}")
    by_attack: dict[tuple[str, str], set[tuple[str, int]]] = {}
    by_target: dict[tuple[str, int], dict[object, list[Record]]] = {}
    for run in group:
        attack, target = _attack(run.record), (run.target, run.seed)
        by_attack.setdefault(attack, set()).add(target)
        by_target.setdefault(target, {}).setdefault((attack, means_of(run.record)), []).append(run.record)
    strongest = [min(attacks.values(), key=_mse) for attacks in by_target.values()]
    of_targets = {(run.target, run.seed): run.record for run in group}  # each once, however often it was attacked
    similarities = [fmean(known) for records in strongest if (known := _similarities(records))]
    sent = [record.wire.bytes_per_image for record in of_targets.values() if record.wire is not None]
    if not sent:
        raise ValueError(f"expected records of {first.design!r} that tell what was sent, got none; score one anew")
    names = Counter(_attack(records[0])[0] for records in strongest)
    defenses, change = first.record.target.design.names, _wire_change(group, twin)
    targets = tuple(dict.fromkeys(run.target for run in group))
    partly = (name for (name, _), attacked in by_attack.items() if len(attacked) < len(by_target))
    return Deployment(
        design=first.design,
        cut=first.cut,
        defenses=defenses,
        codec=first.codec,
        targets=targets,
        accuracy=100 * fmean(record.target.accuracy for record in of_targets.values()) + (change or 0.0),
        drop=0.0,
        mse=fmean(map(_mse, strongest)),
        ssim=fmean(similarities) if similarities else None,
        attack=" or ".join(name for name, _ in names.most_common()),
        attacks=tuple(dict.fromkeys(name for name, _ in by_attack)),
        partly=tuple(dict.fromkeys(partly)),
        efforts=tuple(sorted({(_attack(run.record)[0], _effort(run.record)) for run in group})),
        scored=tuple(sorted({run.record.images["scored"] for run in group if "scored" in run.record.images})),
        knowledge=tuple(sorted({known for run in group for known in run.record.threat_model.knowledge})),
        white_box=any(_uses_weights(run.record) for run in group),
        seeds=len({run.seed for run in group}),
        victims=min(run.record.n for run in group),
        randomised=any(DEFENSES[name].randomised for name in defenses),
        adaptive=any(max(run.record.threat_model.views, run.record.threat_model.draws) > 1 for run in group),
        bytes_per_image=fmean(sent),
        uncorrected=first.codec != PLAIN and change is None,
    )


def _attack(record: Record) -> tuple[str, str]:
    """What is alike in all runs of one attack, its name first: in a campaign, that of its column.

    The name alone does not tell: two campaigns may call different attacks the same, and loose records have no columns.
    So it is what the attack saw, asked and was set to, but for its seed, too.
    """
    return record.attack.name if record.cell is None else record.cell.attack, variant(record)


def _mse(records: Sequence[Record]) -> float:
    return fmean(record.mse for record in records)


def _similarities(records: Sequence[Record]) -> list[float]:
    return [score.mean for record in records if (score := record.scores.get("ssim")) is not None]


def _uses_weights(record: Record) -> bool:
    attack = ATTACKS.get(record.attack.name)
    return "encoder" in (record.threat_model.knowledge if attack is None else attack.needs)


def _effort(record: Record) -> str:
    return digest([record.threat_model.pictures, {**record.attack.config, "seed": None}])


def _wire_change(group: Sequence[Measured], twin: Sequence[Measured]) -> float | None:
    """Accuracy difference in points between codec and fp32 on the victims' images, over their common targets.

    None: they have none.
    """

    def on_wire(measured: Sequence[Measured]) -> dict[tuple[str, int], float]:
        wires = {(run.target, run.seed): run.record.wire for run in measured}
        return {name: 100 * wire.accuracy for name, wire in wires.items() if wire and wire.accuracy is not None}

    ours, plain = on_wire(group), on_wire(twin)
    both = ours.keys() & plain.keys()
    return fmean(ours[name] - plain[name] for name in both) if both else None


def _timed(latency: Latency, link: str | None) -> list[Latency]:
    """The split cells of one link, the smallest batch and one request in flight, fastest first."""
    splits = [cell for cell in latency["cells"] if cell["way"] == "split" and cell["window"] == 1]
    links = list(dict.fromkeys(cell["link"] for cell in splits))
    if link is None and len(links) > 1:
        raise ValueError(f"expected --link, one of {links}, as the latency record has several")
    if link is not None and link not in links:
        raise ValueError(f"expected a link of the latency record, {links}, got {link!r}")
    smallest = min((cell["batch"] for cell in splits), default=1)
    counted = [cell for cell in splits if cell["batch"] == smallest and link in (None, cell["link"])]
    return sorted(counted, key=lambda cell: cell["parts"]["total_ms"]["p50"])


def _with_latency(deployment: Deployment, timed: Sequence[Latency]) -> Deployment:
    cells = [cell for cell in timed if cell["target"] in deployment.targets and cell["codec"] == deployment.codec]
    return _fastest(deployment, cells)


def _fastest(deployment: Deployment, cells: Sequence[Latency]) -> Deployment:
    """With the mean over targets of the latency of each one's fastest engine; ``cells`` are its own, fastest first."""
    fastest: dict[str, Latency] = {}
    for cell in cells:
        fastest.setdefault(cell["target"], cell)
    if not fastest:
        return deployment
    latency = fmean(cell["parts"]["total_ms"]["p50"] for cell in fastest.values())
    engines = dict.fromkeys(engine_text(cell) for cell in fastest.values())
    return replace(deployment, latency_ms=latency, engine=" or ".join(engines))


def _assumed(options: Sequence[Deployment], timed: Sequence[Latency]) -> Iterable[Deployment]:
    """Deployments with codecs of which only the latency was measured, with accuracy and leakage of fp32."""
    known = {(target, option.codec) for option in options for target in option.targets}
    for plain in (option for option in options if option.codec == PLAIN):
        by_codec: dict[str, list[Latency]] = {}
        for cell in timed:
            if cell["target"] in plain.targets and (cell["target"], cell["codec"]) not in known:
                by_codec.setdefault(cell["codec"], []).append(cell)
        for codec, cells in by_codec.items():
            sent = fmean({cell["target"]: cell["bytes_per_image"] for cell in cells}.values())
            yield _fastest(replace(plain, codec=codec, bytes_per_image=sent, assumed=True), cells)
