"""What can be deployed: a design behind a codec, with what was measured of its accuracy, leak, latency and bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from splitleak.defenses import DEFENSES
from splitleak.eval.latency.table import engine_text
from splitleak.eval.record.schema import Record
from splitleak.eval.report.results import Results
from splitleak.models.split import ARCHITECTURES

Latency = Mapping[str, Any]
"""What `splitleak latency` writes."""

PLAIN = "fp32"


@dataclass(frozen=True)
class Measured:
    """One record of an attack on features, and the deployment that it attacked."""

    design: str
    codec: str
    record: Record

    @property
    def dataset(self) -> str:
        """Name and test images: accuracies on others are not compared."""
        return self.record.target.dataset.dataset

    @property
    def target(self) -> str:
        return self.record.target.name

    @property
    def seed(self) -> int:
        return self.record.target.design.seed

    @property
    def cut(self) -> int:
        model = self.record.target.design.model
        return model.cut or ARCHITECTURES[model.architecture].default_cut


@dataclass(frozen=True)
class Candidate:
    """A design behind a codec; figures are means over seeds, percent, milliseconds and bytes an image.

    ``accuracy`` is that on the test images; for another codec than fp32 it is changed by as much as the codec changed
    what came back for the victims' images. MSE and SSIM are those of the strongest attack on record, by its MSE.
    ``assumed`` candidates have accuracy and leak of their fp32 twin: only their latency and bytes were measured.
    """

    design: str
    cut: int
    defenses: tuple[str, ...]
    codec: str
    targets: tuple[str, ...]
    accuracy: float
    drop: float
    mse: float
    ssim: float
    attack: str
    attacks: tuple[str, ...]
    knowledge: tuple[str, ...]
    seeds: int
    victims: int
    randomised: bool
    adaptive: bool
    bytes_per_image: float
    latency_ms: float | None = None
    engine: str | None = None
    assumed: bool = False

    @property
    def label(self) -> str:
        """The candidate in few words."""
        return f"{self.design}, cut {self.cut}, {self.codec}"


def read_results(folders: Sequence[Path], dataset: str | None = None) -> list[Measured]:
    """The records of attacks on features: of campaigns, of recorded results, or below a folder.

    Raises:
        FileNotFoundError: A folder has no record.
        ValueError: A record of another threat model, or records on several data sets while none is named.
    """
    measured: list[Measured] = []
    for folder in folders:
        results = Results.load(folder)
        for cell, record in results.measured:
            if record.threat_model.sees != "features":
                got = f"one that saw {record.threat_model.sees} ({cell.label})"
                raise ValueError(f"{folder}: expected records of attackers who saw features alone, got {got}")
            name = cell.row.label + (f" ({cell.table})" if len(results.tables) > 1 else "")
            measured.append(Measured(name, cell.codec, record))
    sets = sorted({each.dataset for each in measured})
    if dataset is None and len(sets) > 1:
        raise ValueError(f"expected results on one data set, got {sets}; name one")
    chosen = [each for each in measured if dataset in (None, each.dataset)]
    if not chosen:
        raise ValueError(f"expected results on {dataset or 'a data set'}, got {sets or 'none'}")
    return chosen


def candidates(measured: Sequence[Measured], latency: Latency | None, link: str | None) -> list[Candidate]:
    """The deployments of ``measured``, with their latency over ``link``; beside them those assumed for other codecs.

    The accuracy lost is counted from the most accurate undefended design, or from the most accurate of all. A latency
    is the median of one request of the smallest batch that was measured, one in flight, with the fastest engine.

    Raises:
        ValueError: The latency record has several links and none is named, or not that one, or is of an old form.
    """
    made = _of_targets(measured)
    undefended = [each for each in made if not each.defenses and each.codec == PLAIN]
    best = max(each.accuracy for each in undefended or made)
    made = [replace(each, drop=best - each.accuracy) for each in made]
    if latency is None:
        return made
    timed = _timed(latency, link)
    found = [_with_latency(each, timed) for each in made]
    return found + list(_assumed(found, timed))


def _of_targets(measured: Sequence[Measured]) -> list[Candidate]:
    grouped: dict[tuple[str, str], list[Measured]] = {}
    for each in measured:
        grouped.setdefault((each.design, each.codec), []).append(each)
    return [_candidate(group, grouped.get((_twin(group, grouped), PLAIN), ())) for group in grouped.values()]


def _twin(group: Sequence[Measured], grouped: Mapping[tuple[str, str], Sequence[Measured]]) -> str:
    """The design that is of the same targets and travels as fp32."""
    targets = {each.target for each in group}
    for (design, codec), others in grouped.items():
        if codec == PLAIN and targets & {each.target for each in others}:
            return design
    return ""


def _candidate(group: Sequence[Measured], twin: Sequence[Measured]) -> Candidate:
    first = group[0]
    designs = {each.record.target.design.model_copy(update={"seed": 0}).model_dump_json() for each in group}
    if len(designs) > 1:
        raise ValueError(f"expected records of one target design under the name {first.design!r}, got {len(designs)}")
    by_attack: dict[str, list[Measured]] = {}
    for each in group:
        by_attack.setdefault(_attack_name(each.record), []).append(each)
    strongest = min(by_attack, key=lambda name: fmean(each.record.mse for each in by_attack[name]))
    defenses = first.record.target.design.names
    return Candidate(
        design=first.design,
        cut=first.cut,
        defenses=defenses,
        codec=first.codec,
        targets=tuple(dict.fromkeys(each.target for each in group)),
        accuracy=100 * fmean(each.record.target.accuracy for each in group) + _wire_change(group, twin),
        drop=0.0,
        mse=fmean(each.record.mse for each in by_attack[strongest]),
        ssim=fmean(each.record.scores["ssim"].mean for each in by_attack[strongest]),
        attack=strongest,
        attacks=tuple(by_attack),
        knowledge=tuple(sorted({known for each in group for known in each.record.threat_model.knowledge})),
        seeds=len({each.seed for each in group}),
        victims=min(each.record.n for each in group),
        randomised=any(DEFENSES[name].randomised for name in defenses),
        adaptive=any(max(each.record.threat_model.views, each.record.threat_model.draws) > 1 for each in group),
        bytes_per_image=fmean(each.record.wire.bytes_per_image for each in group if each.record.wire is not None),
    )


def _attack_name(record: Record) -> str:
    return record.attack.name if record.cell is None else record.cell.attack


def _wire_change(group: Sequence[Measured], twin: Sequence[Measured]) -> float:
    """Points of accuracy that the codec added on the victims' images, of the targets that both have."""

    def on_wire(measured: Sequence[Measured]) -> dict[tuple[str, int], float]:
        wires = {(each.target, each.seed): each.record.wire for each in measured}
        return {name: 100 * wire.accuracy for name, wire in wires.items() if wire and wire.accuracy is not None}

    ours, plain = on_wire(group), on_wire(twin)
    both = ours.keys() & plain.keys()
    return fmean(ours[name] - plain[name] for name in both) if both else 0.0


def _timed(latency: Latency, link: str | None) -> list[Latency]:
    """The splits that count: one link, the smallest batch, one request in flight; of equals the fastest first."""
    if "cells" not in latency:
        raise ValueError("expected a latency record with cells, got one of an old form; run `splitleak latency` again")
    splits = [cell for cell in latency["cells"] if cell["way"] == "split" and cell["window"] == 1]
    links = list(dict.fromkeys(cell["link"] for cell in splits))
    if link is None and len(links) > 1:
        raise ValueError(f"expected --link, one of {links}, as the latency record has several")
    if link is not None and link not in links:
        raise ValueError(f"expected a link of the latency record, {links}, got {link!r}")
    smallest = min((cell["batch"] for cell in splits), default=1)
    counted = [cell for cell in splits if cell["batch"] == smallest and link in (None, cell["link"])]
    return sorted(counted, key=lambda cell: cell["parts"]["total_ms"]["p50"])


def _with_latency(candidate: Candidate, timed: Sequence[Latency]) -> Candidate:
    for cell in timed:
        if cell["target"] in candidate.targets and cell["codec"] == candidate.codec:
            return replace(candidate, latency_ms=cell["parts"]["total_ms"]["p50"], engine=engine_text(cell))
    return candidate


def _assumed(found: Sequence[Candidate], timed: Sequence[Latency]) -> Iterable[Candidate]:
    """Other codecs that were timed on a target, with the accuracy and the leak that it has as fp32."""
    known = {(target, each.codec) for each in found for target in each.targets}
    for plain in (each for each in found if each.codec == PLAIN):
        cells: dict[str, Latency] = {}
        for cell in timed:
            if cell["target"] in plain.targets and (cell["target"], cell["codec"]) not in known:
                cells.setdefault(cell["codec"], cell)
        for codec, cell in cells.items():
            assumed = replace(plain, codec=codec, bytes_per_image=cell["bytes_per_image"], assumed=True)
            yield replace(assumed, latency_ms=cell["parts"]["total_ms"]["p50"], engine=engine_text(cell))
