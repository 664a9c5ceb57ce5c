"""An audit's result: the strongest attack on each target by each measure, a verdict, and curves.

In a campaign, the columns of an attack ``audit`` are ``<name> - <attack>``; those of an audit of one target have the
attacks' names alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from splitleak.eval.campaign.audit.config import AUDIT, UNVERSIONED, column_of, kind_of, names_in
from splitleak.eval.record.metrics import Metric, metric_named
from splitleak.eval.record.schema import Record
from splitleak.eval.report.figures.curves import Curve
from splitleak.eval.report.page import NOTHING, Sheet, Text, seeds_note, spread_text
from splitleak.eval.report.results import Cell, Results, Row, Spread, TableRows, measured, strongest

MEASURES = ("mse", "ssim", "psnr")
_TRAINED = ("decoder", "prediction-inversion")  # whose leak is drawn against queries and crossings
_NOTE = (
    "The strongest attack of the list in each seed, by each measure, of those that are measured, and which that was. "
    "One crossing: each victim's picture was seen once. Rebuilt: 1 - MSE / the variance of the victims' pictures (of N "
    "of them, N / (N - 1) times the MSE of their own mean picture), the share of what tells pictures apart that the "
    "strongest attack gives back at any number of crossings."
)
_NOT_THE_STRONGEST = (
    " After several crossings an attack was not run that is the strongest at one: what it gives with the mean of "
    "several is not measured."
)


@dataclass(frozen=True)
class Audited:
    """The cells of one audit in a table; ``prefix`` is what their attacks' names begin with."""

    table: str
    prefix: str
    title: str

    def cells(self, results: Results, row: Row) -> list[Cell]:
        """Those of a row."""
        return [cell for cell in results.of(self.table, row) if (cell.attack or "").startswith(self.prefix)]


def audits(results: Results) -> list[Audited]:
    """The audits among the results."""
    if results.kind == AUDIT:
        settings = {"version": results.config.get("version", UNVERSIONED), **results.config["audit"]}
        return [Audited(table.name, "", _list_of(settings)) for table in results.tables]
    entries = [entry for entry in results.config.get("attacks", ()) if entry.get("attack") == AUDIT]
    return [
        Audited(table.name, column_of(entry["name"], ""), f"{table.name}: {_list_of(entry['settings'])}")
        for table in results.tables
        for entry in entries
    ]


def _list_of(settings: Mapping[str, object]) -> str:
    return f"{settings.get('version', UNVERSIONED)}, {settings.get('threat', 'black-box')}"


def audit_sheets(results: Results) -> list[Sheet]:
    """For each audit a table of targets and their strongest attacks, and one of its curves."""
    sheets = []
    for audited in audits(results):
        sheets.append(_strongest_sheet(results, audited))
        sheets += [curve.sheet() for curve in _curves(results, audited)]
    return sheets


def _strongest_sheet(results: Results, audited: Audited) -> Sheet:
    once, ever = "one crossing", "at most crossings"
    columns = [("", "target"), ("classifier", "accuracy %")]
    columns += [(once, text) for name in MEASURES for text in (_metric(name).label, "by")] + [
        (ever, "MSE"),
        (ever, "by"),
    ]
    columns += [("", "rebuilt %")]
    rows, note = [], _NOTE
    for row in results.table(audited.table).rows:
        cells = audited.cells(results, row)
        if _strongest_never_averaged(cells):
            note = _NOTE + _NOT_THE_STRONGEST
        texts = [
            row.label,
            spread_text(results.spread(audited.table, row, "accuracy"), "{:.2f}".format, len(results.seeds)),
        ]
        for name in MEASURES:
            texts += _shown(results, strongest(cells, name, _once), name)
        most = strongest(cells, "mse")
        texts += [*_shown(results, most, "mse"), _shares(results, most)]
        rows.append(tuple(map(Text, texts)))
    return Sheet(f"Audit ({audited.title})", tuple(columns), tuple(rows), (f"{seeds_note(results.seeds)} {note}",))


def _once(cell: Cell) -> bool:
    return cell.views == 1


def _strongest_never_averaged(cells: list[Cell]) -> str:
    """What is the strongest at one crossing and was not run on the mean of several, while others were."""
    averaged = {_kind(cell) for cell in _measured(cells) if not _once(cell)}
    best = {_kind(cell) for cell in strongest(cells, "mse", _once)}
    return ", ".join(sorted(best - averaged)) if averaged else ""


def _kind(cell: Cell) -> str:
    return kind_of(names_in(cell.attack)[1])


def _measured(cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.measure("mse") is not None]


def _metric(name: str) -> Metric:
    metric = metric_named(name, "victims")
    assert metric is not None
    return metric


def _shown(results: Results, best: Sequence[Cell], name: str) -> list[str]:
    counts = Counter(names_in(cell.attack)[1] for cell in best)
    which = ", ".join(name if len(counts) == 1 else f"{name} ({count})" for name, count in counts.most_common())
    return [
        spread_text(Spread.of(measured(best, name)), _metric(name).text, len(results.seeds)),
        which or NOTHING,
    ]


def rebuilt_share(cell: Cell) -> float | None:
    """1 - MSE / variance of the victims' pictures, in percent: 100 is a perfect copy, 0 the mean of all such."""
    if cell.record is None or (variance := _variance(cell.record)) is None:
        return None
    return 100 * (1 - cell.record.mse / variance)


def _variance(record: Record) -> float | None:
    """Of the victims' pictures; the error of the mean of N of them, of which each is an N-th, is 1 - 1 / N of it."""
    return record.constant_mse / (1 - 1 / record.n) if record.constant_mse and record.n > 1 else None


def rebuilt_shares(cells: Iterable[Cell]) -> list[float]:
    """The `rebuilt_share` of cells, of those that have one."""
    return [share for cell in cells if (share := rebuilt_share(cell)) is not None]


def _shares(results: Results, best: Sequence[Cell]) -> str:
    return spread_text(Spread.of(rebuilt_shares(best)), "{:.1f}".format, len(results.seeds))


def curves(results: Results) -> list[Curve]:
    """How the leak grows with queries and with crossings, as far as it is measured.

    Of audits, that of the decoder; of other results, that of the strongest attack after each number of crossings.
    """
    if found := audits(results):
        return [curve for audited in found for curve in _curves(results, audited)]
    by_table = ((table.name, _with_records(table, results.of)) for table in results.tables)
    drawn = [_by_crossings(results, name, cells, "strongest attack") for name, cells in by_table]
    return [curve for curve in drawn if curve is not None]


def _curves(results: Results, audited: Audited) -> Iterator[Curve]:
    by_row = _with_records(results.table(audited.table), lambda _, row: audited.cells(results, row))
    decoders = {row: [cell for cell in cells if _is_decoder(cell)] for row, cells in by_row.items()}
    name = audited.prefix + audited.table
    once = {row: [cell for cell in cells if _once(cell)] for row, cells in decoders.items()}
    of = next((cell.record.attack.name for cells in decoders.values() for cell in cells if cell.record), "decoder")
    title = f"Leak against queries, {of}, one crossing"
    by_queries = _curve(results, f"queries {name}", (title, "queries"), once, _queries)
    most = max((_pairs_asked(cell) for cells in decoders.values() for cell in cells), default=0)
    all_asked = {row: [cell for cell in cells if _pairs_asked(cell) == most] for row, cells in decoders.items()}
    for curve in (by_queries, _by_crossings(results, name, all_asked, of)):
        if curve is not None:
            yield curve


def _with_records(table: TableRows, cells: Callable[[str, Row], list[Cell]]) -> dict[Row, list[Cell]]:
    return {row: [cell for cell in cells(table.name, row) if cell.record is not None] for row in table.rows}


def _by_crossings(results: Results, name: str, cells: Mapping[Row, list[Cell]], of: str) -> Curve | None:
    words = (f"Leak against crossings of the same picture, {of}", "crossings of the same picture")
    return _curve(results, f"crossings {name}", words, cells, lambda cell: cell.views)


def _curve(
    results: Results,
    name: str,
    words: tuple[str, str],
    cells: Mapping[Row, list[Cell]],
    at: Callable[[Cell], int],
) -> Curve | None:
    """The least error of each row at each place, over seeds; None where there are not two places."""
    rows: dict[str, dict[int, Spread]] = {}
    for row, ours in cells.items():
        for place in sorted({at(cell) for cell in ours}):
            best = strongest([cell for cell in ours if at(cell) == place], "mse")
            if (spread := Spread.of(measured(best, "mse"))) is not None:
                rows.setdefault(row.label, {})[place] = spread
    curve = Curve(name, *words, rows, len(results.seeds))
    return curve if len(curve.places) > 1 else None


def _is_decoder(cell: Cell) -> bool:
    named = cell.record is not None and cell.record.attack.name in _TRAINED
    return named and not _kind(cell).endswith(("longer", "mirrored"))


def _queries(cell: Cell) -> int:
    """How many answers an attack had: an image that was asked about 64 times counts 64 times."""
    return 0 if cell.record is None else cell.record.threat_model.queries


def _pairs_asked(cell: Cell) -> int:
    """How many of its own images an attack asked about."""
    return 0 if cell.record is None else cell.record.threat_model.pictures


def verdicts(results: Results) -> list[str]:
    """A sentence on each target of each audit that is measured."""
    return [
        sentence
        for audited in audits(results)
        for row in results.table(audited.table).rows
        if (sentence := _verdict(audited.cells(results, row), row)) is not None
    ]


def _verdict(cells: list[Cell], row: Row) -> str | None:
    once, ever = strongest(cells, "mse", _once), strongest(cells, "mse")
    if not once:
        return None

    def mean(best: Sequence[Cell], name: str) -> float:
        return fmean(measured(best, name))

    variances = [of for cell in once if cell.record and (of := _variance(cell.record))]
    done = _measured(cells)
    one, planned = (len({cell.attack for cell in of}) for of in (filter(_once, done), cells))
    ran = planned - len({cell.attack for cell in cells if cell.measure("mse") is None})  # in every seed
    likest = strongest(cells, "ssim", _once)  # of small pictures there is no SSIM
    alike = f"; zero-padded SSIM {mean(likest, 'ssim'):.3f}" if likest else ""
    error = f"{mean(once, 'mse'):.4f}"
    said = f"{row.label}: the {f'strongest of {one} attacks' if one > 1 else 'one attack'} at one crossing "
    if variances:
        share = fmean(rebuilt_shares(once))
        given = f"{share:.0f} %" if share > 0 else "nothing"  # worse than the mean picture
        said += f"gives back {given} of what tells the victims' pictures apart "
        said += f"(MSE {error}, variance {fmean(variances):.4f}{alike})"
    else:  # one victim's picture has none
        said += f"has an MSE of {error}{alike}"
    most = max(cell.views for cell in done)
    if most > 1:
        never = _strongest_never_averaged(cells)
        without = f", which {never} was not given," if never else ""
        said += f"; after up to {most} crossings{without} MSE {mean(ever, 'mse'):.4f}"
    return said + ("." if ran == planned else f"; {ran} of {planned} attacks measured.")
