"""The tables of results as text, built from the table of metrics; and CSV."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from splitleak.eval.record.metrics import Kind, Metric, metrics_of
from splitleak.eval.record.schema import FeaturesPlace, Network
from splitleak.eval.report.page import NOTHING, Sheet, Text, decimals, seeds_note, spread_text
from splitleak.eval.report.published import PublishedTable, load
from splitleak.eval.report.results import Cell, Results, Row, measured
from splitleak.eval.targets.leakage import ASSUMPTIONS
from splitleak.models import ARCHITECTURES

_IGNORES = "†"
_NOTES: Mapping[Kind, str] = {
    "victims": "Scores by the published tables' definitions: SSIM zero padded, PSNR of the batch's MSE. A high MSE and "
    "a low SSIM and PSNR are good for the victims.",
    "classes": "Recognised: the evaluator puts the picture in its class. Re-identified: in a gallery of all private "
    "images, and of others' if there are any, the likest by the evaluator's features is of its class (rank 1, closed "
    "set). Nearest mean: of all standardised mean images of the private classes, that of its class is the closest. "
    "Constant: the MSE of one and the same picture for all, the mean of the class means. Standard error over the "
    "classes of one target, whose pictures are not independent. Over baseline: points over the best baseline of the "
    "same access. Open set: by a judge that knows the prior's classes too, where these are others: right, and taken "
    "for one of the prior's own; verified: at one false match in a hundred. δ: the distance (L2) to the nearest "
    "private image of the class; Fréchet: of all pictures, "
    "recognised or not, to all private images; coverage: the share of private images that have a picture near by.",
}
_NOTE_OF = {
    "ms_ssim": "MS-SSIM: of as many scales as the image has room for (two at 28 and 32 pixels), standard borders.",
    "lpips": "LPIPS: in its shift-tolerant form (ST-LPIPS, AlexNet); higher is less alike.",
    "constant_mse": "Constant: the MSE of the victims' own mean given to all, which no attacker has.",
    "own_mean_mse": "Own class mean: the MSE of an attacker who knows a victim's class alone, and draws the mean of "
    "its own images of it (of all, where it has none of the class). Class mean: of the target's training images.",
    "held_out_mse": "Held-out images: what the attack says of itself, on auxiliary images that it did not train on, "
    "beside the mean of those it did.",
    "embedded": "By the embedder: a picture is verified with a private photograph of its class where their vectors are "
    "more alike than those of all but 1 % (0.1 %) of the pairs of different people's photographs; beside it, private "
    "photographs of the same person, and photographs of others. Means over people.",
    "distortion": "Distortion: mean L1 distance of what the policy lets out from what the model says, from 0 to 2.",
    "mse_gaussian_estimate": "MSE, Gaussian estimate: of the least MSE of an attack that sees an image once, under a "
    "Gaussian model and from a sample; 0 without noise. Attacks may fall below it. It assumes: "
    f"{'; '.join(ASSUMPTIONS)}.",
    "fsinfo": "FSInfo: Fisher information in nats a pixel, more leaks more; none without noise, where it is infinite. "
    "It speaks of attackers who know no more of images than an isotropic Gaussian, and of encoders that are linear: "
    "one who has learned what images look like is biased, and may find more.",
    "refound": "Found again: the share of victims whose picture, sent once more, has its own earlier feature as the "
    "likest of all victims', in the way that finds most of them: the nearest as it is, whitened, with values sorted "
    "over channels, by a network trained on public pictures, or, where the CSV has it, with channels matched by their "
    "means (refound_aligned) or by PLDA of public pictures (refound_plda). The same picture, moved by a pixel, a tenth "
    "brighter.",
    "total_ms": "Latency: p50 of one image in flight, targets in turn; of several links, over none that is emulated, "
    "or else over the first that was timed.",
}
_NOTE_OF_VICTIMS_ALONE = ("constant_mse",)
_WHITE_BOX = f"{_IGNORES} The attack runs the model itself, whatever the output policy: its figures are those without."
_AVERAGES = "Averages are over the methods measured both ways."
_SUMMARY_NOTE = (
    "Share of the pictures that the evaluator puts in the attacked class, in percent. ± over seeds is over targets "
    "that were trained anew; (±) is the standard error over the classes of one target, on average over seeds. "
    "Baselines: pictures that were picked and not rebuilt, which is what an attacker has before any inversion. "
    "Strongest: the attack that did most in a seed, where all on that target are measured, and which that was, with "
    "the number of seeds. A defense is worth what it does against that one."
)
_CSV_LABELS = ("dataset", "model", "classes", "auxiliary", "share", "policy", "purify", "views", "codec", "target")


@dataclass(frozen=True)
class _Column:
    """A metric, and its attack if attacks are columns."""

    metric: Metric
    attack: str | None

    @property
    def heading(self) -> tuple[str, str]:
        return (self.attack or self.metric.heading, self.metric.label)


def score_sheets(results: Results, table: str) -> list[Sheet]:
    """The tables of scores, one for rebuilt victims and one for pictures of classes, if there are such rows."""
    kinds: dict[Kind, list[Row]] = {}
    for row in results.table(table).rows:
        for cell in results.of(table, row)[:1]:
            kinds.setdefault(cell.kind, []).append(row)
    return [_score_sheet(results, table, kind, rows) for kind, rows in kinds.items()]


def _score_sheet(results: Results, table: str, kind: Kind, rows: Sequence[Row]) -> Sheet:
    published, cells = Published(results, table), [cell for row in rows for cell in results.of(table, row)]
    shown = _columns(results, table, kind, rows, cells)
    ignoring = {cell.row for cell in cells if cell.ignores_policy}
    lines = []
    for row in rows:
        texts = [Text(f"{row.label} {_IGNORES}" if row in ignoring else row.label)]
        for column in shown:
            spread = results.spread(table, row, column.metric.name, column.attack)
            text = spread_text(spread, column.metric.text, len(results.seeds))
            texts.append(Text(text, published.figure(row.name, row.plus, column)))
        lines.append(tuple(texts))
    averages = _averages(results, table, shown, published)
    names = {column.metric.name for column in shown}
    notes = [f"{seeds_note(results.seeds)} {_NOTES[kind]}{f' {_AVERAGES}' if averages else ''}"]
    left_out = () if kind == "victims" else _NOTE_OF_VICTIMS_ALONE
    notes += [note for name, note in _NOTE_OF.items() if name in names and name not in left_out]
    notes += [_WHITE_BOX] if ignoring else []
    named = any(column.attack for column in shown)
    title = "Scores" if named else "Victims rebuilt" if kind == "victims" else "Pictures of classes"
    columns = (("", "row"), *(column.heading for column in shown))
    return Sheet(title, columns, (*lines, *averages), (*notes, *published.notes(results, table)))


def _columns(results: Results, table: str, kind: Kind, rows: Sequence[Row], cells: Sequence[Cell]) -> list[_Column]:
    """Each metric once, or once for each attack; the columns of an attack are adjacent."""
    conditions = {"codec": any(cell.codec != "fp32" for cell in cells), "policy": any(cell.policy for cell in cells)}
    attacks = results.attacks(table)
    columns: list[_Column] = []
    waiting: list[Metric] = []
    named = attacks != (None,)
    for metric in metrics_of(kind):
        if not metric.shown or (named and metric.level == "reference") or not conditions.get(metric.when or "", True):
            continue
        if metric.level == "target" or not named:
            columns += [_Column(one, attack) for attack in attacks for one in waiting]
            waiting = []
            columns.append(_Column(metric, None))
        else:
            waiting.append(metric)
    columns += [_Column(one, attack) for attack in attacks for one in waiting]
    return [column for column in columns if column.metric.always or _is_measured(results, table, rows, column)]


def _is_measured(results: Results, table: str, rows: Sequence[Row], column: _Column) -> bool:
    return any(results.by_seed(table, row, column.metric.name, column.attack) for row in rows)


def _averages(results: Results, table: str, shown: Sequence[_Column], published: "Published") -> list[tuple[Text, ...]]:
    """Means over the rows and over their twins, for pairs with both figures.

    The published ones stand beside them where they are of the same methods.
    """
    pairs = results.pairs(table)
    tops = ", ".join(dict.fromkeys(str(row.plus) for _, row in pairs))
    if not pairs:
        return []
    means, alike = [], []
    for column in shown:
        spreads = [[results.spread(table, row, column.metric.name, column.attack) for row in pair] for pair in pairs]
        both = {
            pair[0].name: (without.mean, with_plus.mean)
            for pair, (without, with_plus) in zip(pairs, spreads, strict=True)
            if without and with_plus
        }
        means.append([fmean(side) for side in zip(*both.values(), strict=True)] if both else [None, None])
        alike.append(both.keys() == published.methods)
    lines = []
    for side, plus in enumerate((None, tops)):
        texts = [Text(f"Average {'with' if plus else 'without'} {tops}")]
        for column, mean, same in zip(shown, means, alike, strict=True):
            value = mean[side]
            ours = NOTHING if value is None else column.metric.text(value)
            texts.append(Text(ours, published.figure("average", plus, column) if same else ""))
        lines.append(tuple(texts))
    return lines


def difference_sheet(results: Results, table: str) -> Sheet | None:
    """Paired differences, twin minus row, by seed, then their mean over seeds; None without twins."""
    pairs = results.pairs(table)
    if not pairs:
        return None
    rows = results.table(table).rows
    cells = [cell for row in rows for cell in results.of(table, row)]
    shown = [
        column
        for column in _columns(results, table, "victims", rows, cells)
        if column.attack is not None or column.metric.name == "accuracy"
    ]
    lines = []
    for without, with_plus in pairs:
        pair = (without, with_plus)
        by_column = [results.differences(table, pair, column.metric.name, column.attack) for column in shown]
        label = Text(f"{with_plus.label} - {without.label}")
        seeds = [seed for seed in results.seeds if any(seed in by_seed for by_seed in by_column)]
        for seed in seeds:
            lines.append((label, Text(str(seed)), *_signed(shown, [by_seed.get(seed) for by_seed in by_column])))
        if len(seeds) > 1:
            means = [fmean(by_seed.values()) if by_seed else None for by_seed in by_column]
            lines.append((label, Text("mean"), *_signed(shown, means)))
    headings = [(column.attack or "", f"Δ {column.metric.label.removesuffix(' %')}") for column in shown]
    return Sheet(table, (("", "row"), ("", "seed"), *headings), tuple(lines))


def _signed(shown: Sequence[_Column], values: Sequence[float | None]) -> Iterator[Text]:
    for column, value in zip(shown, values, strict=True):
        yield Text(NOTHING if value is None else column.metric.signed(value))


def summary_sheets(results: Results) -> list[Sheet]:
    """The summary of a campaign against classes: targets × attacks, and the strongest attacks; else none."""
    if not results.together:
        return []
    columns = (
        ("", "target"),
        ("classifier", "accuracy %"),
        *(("baselines: recognised %", name) for name in results.selections),
        *(("recognised %", name) for name in results.together),
        *(column for name in results.groups for column in (("recognised %", name), ("recognised %", "which"))),
    )
    rows = tuple(tuple(map(Text, _summary_row(results, target))) for target in results.targets)
    return [Sheet("Targets and attacks", columns, rows, (f"{seeds_note(results.seeds)} {_SUMMARY_NOTE}",))]


def _summary_row(results: Results, target: Row) -> Iterator[str]:
    yield target.label
    tables = [table.name for table in results.tables if table.name in results.together and target in table.rows]
    accuracy = results.spread(tables[0], target, "accuracy")
    yield spread_text(accuracy, decimals(1), len(results.seeds))
    for name in (*results.selections, *results.together):
        yield _share(results, name, target)
    for name in results.groups:
        yield _share(results, name, target)
        yield results.strongest_names(target, name) or NOTHING


def _share(results: Results, table: str, target: Row) -> str:
    shown = spread_text(results.spread(table, target, "recognised"), decimals(1), len(results.seeds))
    error = results.spread(table, target, "recognised_error")
    return shown if error is None else f"{shown} (±{error.mean:.1f})"


def csv_rows(results: Results) -> Iterator[dict[str, Any]]:
    """One row per planned cell and place: its labels and all metrics, unrounded; empty if not measured."""
    kinds = dict.fromkeys(cell.kind for cell in results.cells)
    found = [metric for kind in kinds for metric in metrics_of(kind)]
    unmeasured = {metric.name for metric in found if metric.optional and not measured(results.cells, metric.name)}
    names = [name for name in dict.fromkeys(metric.name for metric in found) if name not in unmeasured]
    for cell in results.cells:
        labels: dict[str, Any] = {"id": cell.id, "table": cell.table, "row": cell.row.name, "plus": cell.row.plus}
        labels |= {"attack": cell.attack or cell.place.attack, "seed": cell.seed, "kind": cell.kind}
        labels |= {name: _flat(getattr(cell.place, name, None)) for name in _CSV_LABELS}
        yield labels | {name: cell.measure(name) for name in names}


def _flat(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict) else value


class Published:
    """The published table of a campaign, if any; collects the misprints that were shown."""

    def __init__(self, results: Results, table: str) -> None:
        name = results.config.get("published")
        self.table: PublishedTable | None = load(name) if name and table in _tables_of_attacks(results) else None
        self.shown: dict[str, str] = {}
        # The paper's attackers see each image once, as it was encoded, and ask as often as they have images: an entry
        # of several views or a limit of queries is another experiment, and so is a row of another codec.
        attacks = [entry for entry in results.config.get("attacks", ()) if entry.get("max_queries") is None]
        entries = [entry for entry in attacks if entry.get("views", 1) == 1]
        self._coded = {cell.row for cell in results.cells if cell.table == table and cell.codec != "fp32"}
        self._kinds = {entry["attack"]: entry["name"] for entry in reversed(entries)}

    @property
    def methods(self) -> set[str]:
        """The table's, over which its averages are."""
        return set() if self.table is None else {row.method for row in self.table.rows}

    def figure(self, name: str, plus: str | None, column: _Column) -> str:
        """The printed figure, with a dagger if it is a misprint; empty if the table has none."""
        metric, attack = column.metric, column.attack
        kind = next((kind for kind, entry in self._kinds.items() if entry == attack), None)
        another = attack is not None and (kind is None or Row(name, plus) in self._coded)
        if self.table is None or another:
            return ""
        key = self.table.key(kind, metric.name)
        figure = self.table.figure(name, plus, key) if key else None
        if figure is None:
            return ""
        printed = metric.text(figure.printed)
        if figure.reason is None:
            return printed
        where = f"{Row(name, plus).label}, {f'{attack} ' if attack else ''}{metric.name}"
        self.shown[where] = f"† {where}: printed {printed}, must be {metric.text(figure.value)}: {figure.reason}."
        return f"{printed}†"

    def notes(self, results: Results, table: str) -> Iterator[str]:
        """The sources of the comparison, and each misprint that was shown."""
        if self.table is None:
            return
        ours, same = _described(results, table, self.table)
        theirs = f"{self.table.source}; {self.table.dataset}, {self.table.model}"
        differs = "" if same else " Not the same images or model: compare the order and the signs, not the figures."
        yield f"In brackets, published: {theirs}. Ours: {ours}.{differs}"
        yield from self.shown.values()


def _tables_of_attacks(results: Results) -> list[str]:
    return [table.name for table in results.tables if results.attacks(table.name) != (None,)]


def _described(results: Results, table: str, published: PublishedTable) -> tuple[str, bool]:
    """Our images and model as text, and whether they are the table's."""
    cells = [cell for cell in results.cells if cell.table == table]
    place = cells[0].place
    assert isinstance(place, FeaturesPlace)
    data = next(str(entry["data"]) for entry in results.config["datasets"] if entry["name"] == place.dataset)
    record = next((cell.record for cell in cells if cell.record is not None), None)
    planned = next(entry for entry in results.config["models"] if entry["name"] == place.model)
    source = planned.get("artifact") or planned.get("onnx")
    if source is not None:
        return f"{data.rpartition('/')[2]}, {Path(source).name}, a network of one's own", False
    architecture, cut, width = planned["architecture"], planned.get("cut"), planned.get("width")
    if record is not None and isinstance(model := record.target.design.model, Network):
        architecture, cut, width = model.architecture, model.cut, model.width
    words = f"{architecture}, cut {cut or ARCHITECTURES[architecture].default_cut}"
    of_paper = data == published.dataset.lower().replace("-", "") and f"{words}," in f"{published.model},"
    return f"{data.rpartition('/')[2]}, {words}, width {width or 'by default'}", of_paper and width == 1
