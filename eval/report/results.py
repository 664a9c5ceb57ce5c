"""Results measured so far: tables of rows, their cells, and figures with their spread over seeds.

The same for every kind of campaign, for loose records in a folder, and for recorded results.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ACCESSES
from splitleak.config import digest, read_lines, read_table
from splitleak.eval.campaign.classes.config import BASELINES, STRONGEST
from splitleak.eval.campaign.store import PLAN, Store, is_whole, read_failure
from splitleak.eval.latency.plan import NO_LINK
from splitleak.eval.record.metrics import CHOSEN_BY, Kind, Reading, is_baseline, kind_of, metric_named
from splitleak.eval.record.schema import (
    FILE,
    ClassesRecord,
    FeaturesPlace,
    FigurePlace,
    Leakage,
    Linkage,
    Provenance,
    Record,
    load_lines,
    load_record,
    parse_place,
)
from splitleak.eval.record.scoring import PICTURES, constant_mse, load_pictures

_LET_OUT = {"kind", "dataset", "classes", "share", "policy", "purify", "seed", "target"}  # of a `FigurePlace`
_UNITS = {"views": "crossing", "draws": "draw", "queries": "answer"}  # of a threat model's numbers
LINES, MEASURES, LATENCY = "records.jsonl", "besides.jsonl", "latency.json"

Doubt = tuple[str, str]
"""A flag, and the cells it is about."""


@dataclass(frozen=True)
class Spread:
    """Mean over ``n`` seeds, and standard deviation (n - 1), None for one seed."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Collection[float]) -> "Spread | None":
        """The spread of ``values``; None if there are none."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def error(self) -> float | None:
        """Standard error of the mean over seeds; None for one seed."""
        return None if self.std is None else self.std / math.sqrt(self.n)


@dataclass(frozen=True)
class Row:
    """A row of a table: a name, and the defenses on top if it is a method's twin.

    >>> Row("ResSFL", "CEM").label
    'ResSFL + CEM'
    """

    name: str
    plus: str | None = None

    @property
    def label(self) -> str:
        return f"{self.name} + {self.plus}" if self.plus else self.name


@dataclass(frozen=True)
class Cell:
    """A planned cell of a table, with its record once it is measured.

    ``attack`` is its column, None if a row has one attack; ``place`` is its entry in the plan.
    """

    id: str
    table: str
    row: Row
    attack: str | None
    seed: int
    place: FeaturesPlace | FigurePlace
    folder: Path | None = None
    record: Record | None = None
    leakage: Leakage | None = None
    latency: Mapping[str, Mapping[str, float | None]] | None = None
    linkage: Linkage | None = None
    baselines: tuple[ClassesRecord, ...] = ()
    access: str | None = None  # that its baselines may need, if not its attack's

    @property
    def kind(self) -> Kind:
        """The subject: rebuilt victims, or pictures of classes."""
        if self.record is not None:
            return kind_of(self.record)
        return self.place.kind if isinstance(self.place, FigurePlace) else "victims"

    @property
    def label(self) -> str:
        """The cell as text."""
        return f"{', '.join(filter(None, (self.row.label, self.attack)))}, seed {self.seed}"

    @property
    def codec(self) -> str:
        """The codec of the features."""
        return self.place.codec if isinstance(self.place, FeaturesPlace) else "fp32"

    @property
    def views(self) -> int:
        """Number of times each victim's image crossed the wire."""
        return self.place.views if isinstance(self.place, FeaturesPlace) else 1

    @property
    def let_out(self) -> Hashable:
        """What its attacker is let see; equal for attacks that compare.

        Of features, the row, which has one target a seed and one codec; of a service, target, policy and shared scores,
        which several rows may have.
        """
        if isinstance(self.place, FeaturesPlace):
            return self.table, self.row, self.place.target
        return digest(self.place.model_dump(include=_LET_OUT))

    @property
    def policy(self) -> list[str]:
        """The steps of the service's output policy, as text."""
        if isinstance(self.place, FeaturesPlace):
            return []
        return [*self.place.policy, *([] if self.place.purify is None else ["purification"])]

    @property
    def ignores_policy(self) -> bool:
        """Whether there is an output policy without effect, because the attack runs the model itself."""
        attack = CLASS_ATTACKS.get(self.place.attack)
        return bool(self.policy) and attack is not None and attack.ignores_output_policy()

    def measure(self, name: str) -> float | None:
        """A metric in the unit it is shown in; None if it is not measured."""
        metric = metric_named(name, self.kind)
        if metric is None:
            return None
        return None if self.reading is None else metric.value(self.reading)

    @property
    def reading(self) -> Reading | None:
        """The record with all that metrics are read of; None if it is not measured."""
        if self.record is None:
            return None
        return Reading(self.record, self.leakage, self.latency, self.linkage, self.baselines, self.access)


def measured(cells: Iterable[Cell], metric: str) -> list[float]:
    """A metric of cells, of those where it is measured."""
    return [value for cell in cells if (value := cell.measure(metric)) is not None]


def strongest(cells: Iterable[Cell], measure: str, of: Callable[[Cell], bool] = lambda cell: True) -> list[Cell]:
    """The measured cells of the attack with the best reconstructions of each target, by a measure, of those asked for.

    A campaign has one target a seed. Of loose records, one target may have several runs of an attack, by the attack's
    seed: the mean of these counts.
    """
    metric = metric_named(measure, "victims")
    sign = 1 if metric is not None and metric.better == "higher" else -1
    targets: dict[Hashable, dict[Hashable, list[Cell]]] = {}
    for cell in cells:
        if of(cell) and cell.record is not None and cell.measure(measure) is not None:
            target = cell.place.target, cell.record.target.digest, cell.record.target.design.seed
            attack = cell.table, cell.row, cell.attack, means_of(cell.record)
            targets.setdefault(target, {}).setdefault(attack, []).append(cell)
    of_targets = (
        min(attacks.values(), key=lambda runs: sign * statistics.fmean(measured(runs, measure)))
        for attacks in targets.values()
    )
    return [cell for runs in of_targets for cell in runs]


@dataclass(frozen=True)
class TableRows:
    """Rows that are compared with each other, in the order of the campaign's file."""

    name: str
    title: str
    note: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Results:
    """The results in a folder.

    ``config`` is the campaign's, empty for loose records. ``doubts`` are the flags of recorded results, whose values of
    single images are gone; for a run it is None, and they follow from the records.
    """

    name: str
    title: str
    kind: str
    config: Mapping[str, Any]
    tables: tuple[TableRows, ...]
    cells: tuple[Cell, ...]
    provenance: Provenance
    folder: Path
    failures: tuple[Mapping[str, Any], ...] = ()
    measures: tuple[Mapping[str, Any], ...] = ()
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] | None = None

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """Reads a campaign's folder, a folder of recorded results, or the records below a folder.

        Cells of earlier plans are ignored.

        Raises:
            FileNotFoundError: There is neither a campaign nor a record.
            ValueError: A file is invalid.
        """
        if not (folder / PLAN).is_file():
            return _of_loose_records(folder)
        plan = Store(folder).read_plan()
        config = plan["config"]
        cells = _beside_baselines(_cells(folder, plan))
        return cls(
            name=plan["name"],
            title=plan.get("title") or plan["name"],
            kind=config.get("kind", "features"),
            config=config,
            tables=_tables(config, cells),
            cells=cells,
            provenance=Provenance.parse(plan["provenance"], source=str(folder / PLAN)),
            folder=folder,
            failures=tuple(plan.get("failures", ())) or _failures(folder, plan),
            measures=tuple(plan.get("besides", ())),
            documents=_documents(folder, plan.get("besides", ())),
            doubts=tuple((flag, where) for flag, where in plan["doubts"]) if "doubts" in plan else None,
        )

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        seeds = (*(cell.seed for cell in self.cells), *(place["seed"] for place in self.measures))
        return tuple(dict.fromkeys(seeds))

    @cached_property
    def measured(self) -> tuple[tuple[Cell, Record], ...]:
        """The measured cells with their records; a cell in several tables is there once for each."""
        return tuple((cell, cell.record) for cell in self.cells if cell.record is not None)

    @cached_property
    def records(self) -> tuple[tuple[Cell, Record], ...]:
        """Each record once, with its first cell."""
        records: dict[str, tuple[Cell, Record]] = {}
        for cell, record in self.measured:
            records.setdefault(cell.id, (cell, record))
        return tuple(records.values())

    def table(self, name: str) -> TableRows:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)

    def attacks(self, table: str) -> tuple[str | None, ...]:
        """The attacks that are columns of a table; None alone if each row has its own."""
        return tuple(dict.fromkeys(cell.attack for cell in self.cells if cell.table == table))

    def of(self, table: str, row: Row, attack: str | None = None) -> list[Cell]:
        """The cells of a row (of one attack, if given), by seed in the order of the file."""
        return [cell for cell in self._by_row.get((table, row), ()) if attack in (None, cell.attack)]

    @cached_property
    def _by_row(self) -> dict[tuple[str, Row], list[Cell]]:
        by_row: dict[tuple[str, Row], list[Cell]] = {}
        for cell in self.cells:
            by_row.setdefault((cell.table, cell.row), []).append(cell)
        return by_row

    def by_seed(self, table: str, row: Row, metric: str, attack: str | None = None) -> dict[int, float]:
        """A metric of a row by measured seed; ``table`` may be one of `groups`: see `strongest`."""
        if table in self.groups:
            cells: Collection[Cell] = self.strongest(row, table, metric).values()
        else:
            cells = self.of(table, row, attack)
        values = ((cell.seed, cell.measure(metric)) for cell in cells)
        return {seed: value for seed, value in values if value is not None}

    def spread(self, table: str, row: Row, metric: str, attack: str | None = None) -> Spread | None:
        """A metric of a row over seeds."""
        return Spread.of(self.by_seed(table, row, metric, attack).values())

    def pairs(self, table: str) -> list[tuple[Row, Row]]:
        """Each row with its twin, which has defenses on top."""
        return [(Row(row.name), row) for row in self.table(table).rows if row.plus is not None]

    def differences(
        self, table: str, pair: tuple[Row, Row], metric: str, attack: str | None = None
    ) -> dict[int, float]:
        """By seed, the metric of the twin minus that of the row."""
        without, with_plus = (self.by_seed(table, row, metric, attack) for row in pair)
        return {seed: with_plus[seed] - value for seed, value in without.items() if seed in with_plus}

    def closest(self, table: str, row: Row, metric: str) -> Spread | None:
        """The metric of the attack with the best reconstructions in each seed, over seeds."""
        return Spread.of(measured(strongest(self.of(table, row), metric), metric))

    @cached_property
    def together(self) -> tuple[str, ...]:
        """The tables of a class campaign's attacks on its first setting, the candidates for the strongest."""
        if self.kind != "classes":
            return ()
        attacks = [entry["name"] for entry in self.config.get("attacks", ())]
        return tuple(table.name for table in self.tables if table.name in attacks)

    @cached_property
    def selections(self) -> tuple[str, ...]:
        """The tables of a class campaign's baselines on its first setting."""
        return tuple(table.name for table in self.tables if self.together and table.name in BASELINES)

    @cached_property
    def judged_beside_baselines(self) -> tuple[tuple[Cell, bool], ...]:
        """The measured cells whose attacks are judged beside baselines, and whether they were."""
        judged = []
        for cell, record in self.measured:
            if isinstance(record, ClassesRecord):
                judged.append((cell, record.figures is not None and record.figures.private_fit is not None))
            elif record.threat_model.sees == "scores":
                judged.append((cell, record.class_means is not None))
        return tuple(judged)

    @cached_property
    def targets(self) -> tuple[Row, ...]:
        """The rows of these tables."""
        return tuple(dict.fromkeys(row for table in self.tables if table.name in self.together for row in table.rows))

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """By name, the groups of tables that a strongest attack is chosen from."""
        given = {name: tuple(attacks) for name, attacks in self.config.get("strongest", {}).items()}
        return {STRONGEST: self.together, **given} if self.together else {}

    def strongest(self, row: Row, group: str = STRONGEST, metric: str = "recognised") -> dict[int, Cell]:
        """By seed, the cell with the highest attack accuracy, if all attacks of the group on it are measured.

        By the judge whose ``metric`` is asked for. Its gain is over the best baseline of the highest access in the
        group: who may run all of these attacks has that baseline, whichever of them is the strongest.
        """
        cells = [cell for table in self.groups[group] for cell in self.of(table, row)]
        chosen, strongest = CHOSEN_BY.get(metric, "recognised"), dict[int, Cell]()
        for seed in self.seeds:
            ours = [cell for cell in cells if cell.seed == seed]
            rated = [(share, cell) for cell in ours if (share := cell.measure(chosen)) is not None]
            if ours and len(rated) == len(ours):
                best = max(rated, key=lambda item: item[0])[1]
                strongest[seed] = replace(best, access=_highest_access(ours))
        return strongest

    def strongest_names(self, row: Row, group: str = STRONGEST, metric: str = "recognised") -> str:
        """The strongest attacks with their numbers of seeds, as text; empty if not measured."""
        counts = Counter(cell.table for cell in self.strongest(row, group, metric).values())
        return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _highest_access(cells: Iterable[Cell]) -> str | None:
    accesses = [cell.record.threat_model.access for cell in cells if cell.record is not None]
    return max((each for each in accesses if each in ACCESSES), key=ACCESSES.index, default=None)


def _tables(config: Mapping[str, Any], cells: Sequence[Cell]) -> tuple[TableRows, ...]:
    """The figures of a campaign's file, or one table for each data set and model."""
    if "figures" in config:
        return tuple(
            TableRows(
                figure["name"],
                figure.get("title") or figure["name"],
                figure.get("note", ""),
                tuple(Row(row["name"]) for row in figure["rows"]),
            )
            for figure in config["figures"]
        )
    names = dict.fromkeys(cell.table for cell in cells)
    return tuple(
        TableRows(name, name, "", tuple(dict.fromkeys(cell.row for cell in cells if cell.table == name)))
        for name in names
    )


def _cells(folder: Path, plan: Mapping[str, Any]) -> Iterator[Cell]:
    """The planned cells. A record may have several places; each cell's copy has that of the plan."""
    recorded = {_planned_id(record): record for record in load_lines(folder / LINES)} if _is_recorded(folder) else None
    latencies, linkages = _latencies(folder), _linkages(folder, plan)
    known: dict[str, tuple[Record | None, Leakage | None]] = {}
    for planned in plan["cells"]:
        key, score = planned["id"], folder / "cells" / planned["id"] / "score"
        place = parse_place(planned, source=str(folder / PLAN))
        if key not in known:
            record = _record(score) if recorded is None else recorded.get(key)
            known[key] = record, _leakage(folder, place.target, record)
        record, leakage = known[key]
        if record is not None:
            record = record.model_copy(update={"cell": place})
        features = isinstance(place, FeaturesPlace)
        yield Cell(
            id=key,
            table=f"{place.dataset}, {place.model}" if isinstance(place, FeaturesPlace) else place.figure,
            row=Row(place.method, place.plus) if isinstance(place, FeaturesPlace) else Row(place.row),
            attack=place.attack if features else None,
            seed=place.seed,
            place=place,
            folder=None if record is None or recorded is not None else score,
            record=record,
            leakage=leakage,
            latency=latencies.get(place.target) if getattr(place, "codec", "fp32") == "fp32" else None,  # as timed
            linkage=linkages.get(
                (place.target, getattr(place, "codec", "")), None if record is None else record.linkage
            ),
        )


def _beside_baselines(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The cells, each with the baselines on its target by an attacker with the same auxiliary data.

    Of loose records, several targets may have one name.
    """
    cells, known = tuple(cells), dict[tuple[Any, ...], dict[str, ClassesRecord]]()

    def about(cell: Cell) -> tuple[Any, ...]:
        digest = None if cell.record is None else cell.record.target.digest
        return cell.seed, cell.place.target, getattr(cell.place, "auxiliary", None), digest

    for cell in cells:
        if isinstance(cell.record, ClassesRecord) and is_baseline(cell.record):
            known.setdefault(about(cell), {})[cell.id] = cell.record
    return tuple(replace(cell, baselines=tuple(known.get(about(cell), {}).values())) for cell in cells)


def _is_recorded(folder: Path) -> bool:
    """Whether a folder has the lines of a report only, without the cells of the run."""
    return (folder / LINES).is_file() and not (folder / "cells").is_dir()


def _planned_id(record: Record) -> str:
    return record.id if record.cell is None else record.cell.id


def _record(score: Path) -> Record | None:
    """The record in a folder; one of version 1 gets the error of the best constant picture from its pictures."""
    if not (score / FILE).is_file():
        return None
    record = load_record(score)
    if record.constant_mse is None and (score / PICTURES).is_file():
        record = record.model_copy(update={"constant_mse": constant_mse(load_pictures(score)["truth"])})
    return record


def _leakage(folder: Path, target: str, record: Record | None) -> Leakage | None:
    path = folder / "leakage" / f"{target}.json"
    if path.is_file():
        return Leakage.read(path)
    return None if record is None else record.leakage


def _linkages(folder: Path, plan: Mapping[str, Any]) -> dict[tuple[str, str], Linkage]:
    """What features tell without a picture, by target and codec, of the jobs of ``plan`` that are done."""
    linkages = {}
    for job in plan.get("jobs", ()):
        if job["kind"] == "linkage" and (folder / job["output"]).is_file():
            linkage = Linkage.read(folder / job["output"])
            target = Path(job["output"]).stem.partition("-")[0]
            linkages[target, str((linkage.config or {})["codec"])] = linkage
    return linkages


def _latencies(folder: Path) -> dict[str, Mapping[str, Mapping[str, float | None]]]:
    """Quantiles of the parts of a request's latency, by target; of one image in flight, its features sent plain.

    Of a sweep of several links, over none that is emulated, or else over the first.
    """
    latencies: dict[str, Mapping[str, Mapping[str, float | None]]] = {}
    for path in (folder / LATENCY, *sorted((folder / "latency").glob("*.json"))):
        if path.is_file():
            document = read_table(path)
            swept = [cell for cell in document.get("cells", ()) if cell["way"] == "split" and not cell["fresh_weights"]]
            alone = [cell for cell in swept if (cell["batch"], cell["window"], cell["codec"]) == (1, 1, "fp32")]
            alone.sort(key=lambda cell: cell["link"] != NO_LINK)
            latencies |= {cell["target"]: cell["parts"] for cell in reversed(alone)} if swept else document["targets"]
    return latencies


def _documents(folder: Path, places: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The target measures by output; for recorded results, from the lines about the same measure, seed and target."""
    lines = folder / MEASURES
    if not lines.is_file() or not _is_recorded(folder):
        there = sorted({place["output"] for place in places if (folder / place["output"]).is_file()})
        return {output: read_table(folder / output) for output in there}
    documents: dict[str, Mapping[str, Any]] = {}
    for _, document in read_lines(lines):
        about = (document["measure"], document["seed"], document.get("of"))
        for place in places:
            same = (place["measure"], place["seed"], place.get("of")) == about
            if same and place["target"] in document["of_targets"]:
                documents[place["output"]] = document
    return documents


def _failures(folder: Path, plan: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The failures of the last attempts at jobs of ``plan``, but for those that another machine has done."""
    jobs = {job["id"]: job for job in plan.get("jobs", ())}
    failures = [read_failure(path) for path in sorted((folder / "failures").glob("*.json"))]
    open_jobs = [(failure, job) for failure in failures if (job := jobs.get(failure["job"])) is not None]
    return tuple(failure for failure, job in open_jobs if not is_whole(job["kind"], folder / job["output"]))


def _of_loose_records(folder: Path) -> Results:
    """The records below a folder in their order, and ``latency.json`` if it exists."""
    paths = sorted(path.parent for path in folder.rglob(FILE))
    records = sorted(((path, load_record(path)) for path in paths), key=lambda each: each[1].order)
    if not records and (folder / LINES).is_file():  # of a report of loose records
        records = [(folder, record) for record in load_lines(folder / LINES)]
    if not records:
        expected = "a campaign's folder, recorded results, or records (record.json, from `splitleak score`)"
        raise FileNotFoundError(f"expected {expected} at {folder}, found none")
    latencies = _latencies(folder)
    rows = _rows_told_apart([record for _, record in records])
    columns = _columns_told_apart([record for _, record in records], rows)
    cells = _beside_baselines(
        _loose(path, record, row, column, latencies.get(record.target.name) if _codec(record) == "fp32" else None)
        for (path, record), row, column in zip(records, rows, columns, strict=True)
    )
    return Results(
        name=folder.name,
        title=folder.name,
        kind="loose",
        config={},
        tables=_tables({}, cells),
        cells=cells,
        provenance=records[0][1].provenance,
        folder=folder,
    )


def variant(record: Record) -> str:
    """What is alike in all runs of one attack, a digest: what it saw, asked and was set to, but for its seed."""
    model, settings = record.threat_model, {**record.attack.config, "seed": None}
    return digest([model.views, model.queries, model.draws, settings])


def means_of(record: Record) -> Hashable:
    """The pictures and the generator that an attack had: with others, it is no other run of the same on a target."""
    return record.images.get("public"), record.attack.prior


def design_of(record: Record) -> str:
    """What is alike in all records of one design, a digest: its target and the sizes of its split, but for seeds."""
    target = record.target
    split = {name: value for name, value in target.dataset.config.items() if name != "seed"}
    return digest([target.design.model_copy(update={"seed": 0}).document(), split])


def _codec(record: Record) -> str:
    """The codec of the features that a loose record is of; fp32, where its ledger did not tell."""
    return "fp32" if record.wire is None else record.wire.codec or "fp32"


def _rows_told_apart(records: Sequence[Record]) -> list[str]:
    """The row of each loose record: its target's name, with its codec if that is not fp32.

    Numbered where several targets of one name had the same run, or are of several designs.
    """
    names = [", ".join([each.target.name, *([] if _codec(each) == "fp32" else [_codec(each)])]) for each in records]
    about = [(each.target.digest, each.target.design.seed, design_of(each)) for each in records]
    targets = [(name, *told) for name, told in zip(names, about, strict=True)]
    runs: dict[tuple[str, ...], set[tuple[object, ...]]] = {}
    designs: dict[str, set[object]] = {}
    for record, target in zip(records, targets, strict=True):
        designs.setdefault(target[0], set()).add(target[-1])
        run = (target[0], record.attack.name, variant(record), str(record.attack.seed))
        runs.setdefault(run, set()).add(target)
    colliding = {name for (name, *_), of_run in runs.items() if len(of_run) > 1}
    colliding |= {name for name, of_name in designs.items() if len(of_name) > 1}
    known = {name: list(dict.fromkeys(each for each in targets if each[0] == name)) for name in colliding}
    return [f"{name} ({known[name].index(target) + 1})" if (name := target[0]) in known else name for target in targets]


def _columns_told_apart(records: Sequence[Record], rows: Sequence[str]) -> list[str]:
    """The column of each loose record: its attack, and what that saw, asked or was set to where a row has several."""
    of_rows: dict[tuple[str, str], set[str]] = {}
    for record, row in zip(records, rows, strict=True):
        of_rows.setdefault((row, record.attack.name), set()).add(variant(record))
    several = {attack for (_, attack), variants in of_rows.items() if len(variants) > 1}
    varying = {
        (attack, name)
        for attack in several
        for name in _UNITS
        if len({getattr(each.threat_model, name) for each in records if each.attack.name == attack}) > 1
    }
    told: dict[str, list[str]] = {}
    columns, places = [], Counter[tuple[object, ...]]()
    for record, row in zip(records, rows, strict=True):
        column = attack = record.attack.name
        for name, unit in _UNITS.items():
            if (attack, name) in varying:
                number = getattr(record.threat_model, name)
                column += f", {number:,} {unit}{'s' * (number != 1)}"
        if attack in several:
            known = told.setdefault(column, [])
            known += [variant(record)] if variant(record) not in known else []
            place = known.index(variant(record))
            column += f", settings {place + 1}" if place else ""
        places[row, column, record.attack.seed] += 1
        again = places[row, column, record.attack.seed]
        columns.append(f"{column} ({again})" if again > 1 else column)
    return columns


def _loose(
    folder: Path, record: Record, row: str, column: str, latency: Mapping[str, Mapping[str, float | None]] | None
) -> Cell:
    """The cell of a record without a campaign: its target is the row, its attack the column."""
    target, attack = record.target, record.attack.name
    about: dict[str, object] = {
        "dataset": target.dataset.dataset,
        "attack": attack,
        "seed": record.attack.seed,
        "target": target.name,
    }
    place: FeaturesPlace | FigurePlace
    model = target.design.model.architecture
    if kind_of(record) == "classes":
        place = FigurePlace.parse({**about, "kind": "classes", "row": target.name}, source=str(folder))
    else:
        about |= {"method": target.name, "model": model, "views": record.threat_model.views, "codec": _codec(record)}
        place = FeaturesPlace.parse(about, source=str(folder))
    return Cell(
        id=f"{folder}/{record.id}",
        table=f"{place.dataset}, {model}",
        row=Row(row),
        attack=column,
        seed=record.attack.seed,
        place=place,
        folder=folder,
        record=record.model_copy(update={"cell": place}),
        latency=latency,
    )
