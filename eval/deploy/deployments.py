"""What can be deployed: a design behind a codec, with what was measured of its accuracy, leak, latency and bytes."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitleak.defenses import DEFENSES
from splitleak.eval.latency.table import engine_text
from splitleak.eval.report.features_results import Campaign, row_label
from splitleak.eval.report.run_report import load_run
from splitleak.models.split import ARCHITECTURES

Record = Mapping[str, Any]
PLAIN = "fp32"


@dataclass(frozen=True)
class Measured:
    """One record of an attack, and the deployment that it attacked."""

    design: str
    codec: str
    seed: int
    record: Record

    @property
    def dataset(self) -> str:
        """Name and test images: accuracies on others are not compared."""
        return str(self.record["target"]["dataset"]["dataset"])

    @property
    def cut(self) -> int:
        model = self.record["target"]["target"]["model"]
        return int(model["cut"] or ARCHITECTURES[model["architecture"]].default_cut)


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
    """The records of campaigns of the kind ``features``, and of runs like the demo's, whose codec is fp32.

    Raises:
        FileNotFoundError: A folder has no record.
        ValueError: A campaign of another kind, or records on several data sets while none is named.
    """
    found: list[Measured] = []
    for folder in folders:
        found += _of_campaign(folder) if (folder / "campaign.json").is_file() else _of_run(folder)
    sets = sorted({each.dataset for each in found})
    if dataset is None and len(sets) > 1:
        raise ValueError(f"expected results on one data set, got {sets}; name one")
    chosen = [each for each in found if dataset in (None, each.dataset)]
    if not chosen:
        raise ValueError(f"expected results on {dataset or 'a data set'}, got {sets or 'none'}")
    return chosen


def _of_campaign(folder: Path) -> Iterable[Measured]:
    campaign = Campaign.load(folder)
    if campaign.config.get("kind", "features") != "features":
        raise ValueError(f"{folder}: expected a campaign of the kind 'features', got {campaign.config['kind']!r}")
    several = len(campaign.groups) > 1
    for cell, record in campaign.measured:
        name = row_label(cell.row) + (f" ({cell.model})" if several else "")
        yield Measured(name, cell.codec, cell.seed, record)


def _of_run(folder: Path) -> Iterable[Measured]:
    records, _ = load_run(folder)
    for record in records:
        yield Measured(record["target"]["name"], PLAIN, record["target"]["target"]["seed"], record)


def candidates(measured: Sequence[Measured], latency: Record | None, link: str | None) -> list[Candidate]:
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
    targets = {each.record["target"]["name"] for each in group}
    for (design, codec), others in grouped.items():
        if codec == PLAIN and targets & {each.record["target"]["name"] for each in others}:
            return design
    return ""


def _candidate(group: Sequence[Measured], twin: Sequence[Measured]) -> Candidate:
    first = group[0]
    defenses = tuple(each["name"] for each in first.record["target"]["target"]["defenses"])
    by_attack: dict[str, list[Measured]] = {}
    for each in group:
        by_attack.setdefault(_attack_name(each.record), []).append(each)
    strongest = min(by_attack, key=lambda name: _mean(by_attack[name], _mse))
    return Candidate(
        design=first.design,
        cut=first.cut,
        defenses=defenses,
        codec=first.codec,
        targets=tuple(dict.fromkeys(str(each.record["target"]["name"]) for each in group)),
        accuracy=_mean(group, _accuracy) + _wire_change(group, twin),
        drop=0.0,
        mse=_mean(by_attack[strongest], _mse),
        ssim=_mean(by_attack[strongest], lambda record: record["score"]["ssim"]["mean"]),
        attack=strongest,
        attacks=tuple(by_attack),
        knowledge=tuple(sorted({each for one in group for each in one.record["attack"].get("knowledge", ())})),
        seeds=len({each.seed for each in group}),
        victims=min(int(each.record["score"]["n"]) for each in group),
        randomised=any(DEFENSES[name].randomised for name in defenses),
        adaptive=any(_adaptive(each.record["attack"]) for each in group),
        bytes_per_image=_mean(group, lambda record: record["wire"]["bytes_per_image"]),
    )


def _attack_name(record: Record) -> str:
    cell = record.get("cell", {})
    return str(cell.get("attack", record["attack"]["attack"]))


def _adaptive(attack: Record) -> bool:
    return int(attack.get("views", 1)) > 1 or int(attack.get("draws", 1)) > 1


def _mse(record: Record) -> float:
    return float(record["score"]["mse"]["mean"])


def _accuracy(record: Record) -> float:
    return 100 * float(record["target"]["accuracy"])


def _wire_change(group: Sequence[Measured], twin: Sequence[Measured]) -> float:
    """Points of accuracy that the codec added on the victims' images, of the targets that both have."""

    def on_wire(measured: Sequence[Measured]) -> dict[tuple[str, int], float]:
        found = {(each.record["target"]["name"], each.seed): each.record["wire"]["accuracy"] for each in measured}
        return {name: 100 * share for name, share in found.items() if share is not None}

    ours, plain = on_wire(group), on_wire(twin)
    both = ours.keys() & plain.keys()
    return statistics.fmean(ours[name] - plain[name] for name in both) if both else 0.0


def _mean(measured: Sequence[Measured], figure: Callable[[Record], float]) -> float:
    return statistics.fmean(figure(each.record) for each in measured)


def _timed(latency: Record, link: str | None) -> list[Record]:
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


def _with_latency(candidate: Candidate, timed: Sequence[Record]) -> Candidate:
    for cell in timed:
        if cell["target"] in candidate.targets and cell["codec"] == candidate.codec:
            return replace(candidate, latency_ms=cell["parts"]["total_ms"]["p50"], engine=engine_text(cell))
    return candidate


def _assumed(found: Sequence[Candidate], timed: Sequence[Record]) -> Iterable[Candidate]:
    """Other codecs that were timed on a target, with the accuracy and the leak that it has as fp32."""
    known = {(target, each.codec) for each in found for target in each.targets}
    for plain in (each for each in found if each.codec == PLAIN):
        cells: dict[str, Record] = {}
        for cell in timed:
            if cell["target"] in plain.targets and (cell["target"], cell["codec"]) not in known:
                cells.setdefault(cell["codec"], cell)
        for codec, cell in cells.items():
            assumed = replace(plain, codec=codec, bytes_per_image=cell["bytes_per_image"], assumed=True)
            yield replace(assumed, latency_ms=cell["parts"]["total_ms"]["p50"], engine=engine_text(cell))
