"""A campaign's tables in the paper's layout as text, with the published figure beside ours."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from splitleak.eval.report.features_results import OF_ATTACK, OF_TARGET, Campaign, Row, Spread, averages, row_label
from splitleak.eval.report.page import NOTHING, Sheet, Text, seeds_note, spread_text
from splitleak.eval.report.published import PublishedTable, load
from splitleak.models.split import ARCHITECTURES

Group = tuple[str, str]

SHOWN = {"ssim": "SSIM", "psnr": "PSNR dB", "mse": "MSE"}
_DIGITS = {"accuracy": 2, "wire_accuracy": 2, "bytes": 0, "ssim": 3, "psnr": 2, "mse": 4, "fsinfo": 4}


class Published:
    """The published table of a campaign, or none; remembers which misprints were shown."""

    def __init__(self, campaign: Campaign) -> None:
        name = campaign.config.get("published")
        self.table: PublishedTable | None = load(name) if name else None
        self.shown: dict[str, str] = {}
        # The paper's attackers see each image once: an entry with views is another experiment.
        entries = [entry for entry in campaign.config["attacks"] if entry.get("views", 1) == 1]
        self._kinds = {entry["attack"]: entry["name"] for entry in reversed(entries)}

    def figure(self, row: Row, metric: str, attack: str | None) -> str:
        """The figure as printed, a dagger on a misprint; empty if the table has none."""
        kind = next((kind for kind, name in self._kinds.items() if name == attack), None)
        if self.table is None or (attack is not None and kind is None):
            return ""
        key = self.table.key(kind, metric)
        figure = self.table.figure(*row, key) if key else None
        if figure is None:
            return ""
        printed = _number(figure.printed, metric)
        if figure.reason is None:
            return printed
        where = f"{row_label(row)}, {f'{attack} ' if attack else ''}{metric}"
        self.shown[where] = f"† {where}: printed {printed}, must be {_number(figure.value, metric)}: {figure.reason}."
        return f"{printed}†"

    def notes(self, campaign: Campaign, group: Group) -> Iterator[str]:
        """What is set beside what, and each misprint that was shown."""
        if self.table is None:
            return
        ours, same = _described(campaign, group, self.table)
        theirs = f"{self.table.source}; {self.table.dataset}, {self.table.model}"
        differs = "" if same else " Not the same images or model: compare the order and the signs, not the figures."
        yield f"In brackets, published: {theirs}. Ours: {ours}.{differs}"
        yield from self.shown.values()


def scores(campaign: Campaign, group: Group) -> Sheet:
    """Method, its twin, ..., averages; accuracy, then each attack's scores, then the attack-free measures."""
    published = Published(campaign)
    columns = [("", "method"), ("", "accuracy %")]
    columns += [(attack, name) for attack in campaign.attacks for name in SHOWN.values()]
    columns += [("without any attack", "MSE bound"), ("without any attack", "FSInfo")]
    figures: list[tuple[str, str | None]] = [("accuracy", None)]
    if any(cell.codec != "fp32" for cell in campaign.cells):
        columns[2:2] = [("on the wire", "accuracy %"), ("on the wire", "bytes/image")]
        figures += [("wire_accuracy", None), ("bytes", None)]
    figures += [(metric, attack) for attack in campaign.attacks for metric in SHOWN]
    free: list[tuple[str, str | None]] = [("bound", None), ("fsinfo", None)]
    rows = []
    for row in campaign.rows:
        texts = [Text(row_label(row))]
        for metric, attack in (*figures, *free):
            spread = campaign.spread(group, row, metric, attack)
            texts.append(Text(_spread(spread, metric, len(campaign.seeds)), published.figure(row, metric, attack)))
        rows.append(tuple(texts))
    means = [averages(campaign, group, metric, attack) for metric, attack in (*figures, *free)]
    tops = list(dict.fromkeys(plus for _, plus in campaign.rows if plus))
    for side, plus in enumerate((None, ", ".join(tops)) if tops else ()):
        texts = [Text(f"Average with {plus}" if plus else f"Average without {', '.join(tops)}")]
        for (metric, attack), mean in zip((*figures, *free), means, strict=True):
            found = mean[side]
            ours = NOTHING if found is None else _number(found, metric)
            texts.append(Text(ours, published.figure(("average", plus), metric, attack)))
        rows.append(tuple(texts))
    notes = (
        f"{seeds_note(campaign.seeds)} Scores by the published tables' definitions: "
        "SSIM zero padded, PSNR of the batch's MSE. A high MSE and a low SSIM and PSNR are good for the victims. "
        "Averages are over the methods measured both ways.",
        "MSE bound: no attack does better on average, if its assumptions hold; 0 without noise. FSInfo: Fisher "
        "information in nats a pixel, more leaks more; none without noise, as nothing bounds it then.",
        *_assumptions(campaign),
    )
    return Sheet(", ".join(group), tuple(columns), tuple(rows), (*notes, *published.notes(campaign, group)))


def differences(campaign: Campaign, group: Group) -> Sheet:
    """With what is on top minus without, by method and seed, then the mean over seeds."""
    columns = [("", "method"), ("", "seed"), ("", "Δ accuracy")]
    columns += [(attack, f"Δ {name}") for attack in campaign.attacks for name in SHOWN.values()]
    figures: list[tuple[str, str | None]] = [("accuracy", None)]
    figures += [(metric, attack) for attack in campaign.attacks for metric in SHOWN]
    rows = []
    for pair in campaign.pairs:
        found = [campaign.differences(group, pair, metric, attack) for metric, attack in figures]
        label = f"{row_label(pair[1])} - {pair[0][0]}"
        seeds = [seed for seed in campaign.seeds if any(seed in each for each in found)]
        for seed in seeds:
            shown = [_signed(each.get(seed), metric) for (metric, _), each in zip(figures, found, strict=True)]
            rows.append((Text(label), Text(str(seed)), *map(Text, shown)))
        if len(seeds) > 1:
            mean = [
                _signed(fmean(each.values()) if each else None, metric)
                for (metric, _), each in zip(figures, found, strict=True)
            ]
            rows.append((Text(label), Text("mean"), *map(Text, mean)))
    return Sheet(", ".join(group), tuple(columns), tuple(rows))


def csv_rows(campaign: Campaign) -> Iterator[dict[str, Any]]:
    """One row a planned cell: its labels and all figures, unrounded; empty where not measured."""
    for cell in campaign.cells:
        labels: dict[str, Any] = {
            "id": cell.id,
            "dataset": cell.dataset,
            "model": cell.model,
            "method": cell.method,
            "plus": cell.plus,
        }
        labels |= {"attack": cell.attack, "seed": cell.seed, "views": cell.views, "target": cell.target}
        labels |= {"codec": cell.codec}
        yield labels | {metric: cell.figure(metric) for metric in (*OF_TARGET, *OF_ATTACK)}


def _assumptions(campaign: Campaign) -> list[str]:
    found = next((cell.leakage["assumptions"] for cell in campaign.cells if cell.leakage), None)
    return [f"The bound assumes: {'; '.join(found)}."] if found else []


def _number(value: float, metric: str) -> str:
    return f"{value:.{_DIGITS[metric]}f}" if metric in _DIGITS else f"{value:.3g}"


def _signed(value: float | None, metric: str) -> str:
    return NOTHING if value is None else f"{value:+.{_DIGITS[metric]}f}"


def _spread(spread: Spread | None, metric: str, seeds: int) -> str:
    return spread_text(spread, lambda value: _number(value, metric), seeds)


def _described(campaign: Campaign, group: Group, table: PublishedTable) -> tuple[str, bool]:
    """Our images and model in words, and whether they are the table's."""
    data = next(str(entry["data"]) for entry in campaign.config["datasets"] if entry["name"] == group[0])
    model: Mapping[str, Any] = next(
        (record["target"]["target"]["model"] for cell, record in campaign.measured if cell.group == group),
        next(entry for entry in campaign.config["models"] if entry["name"] == group[1]),
    )
    cut = model["cut"] or ARCHITECTURES[model["architecture"]].default_cut
    words = f"{model['architecture']}, cut {cut}"
    width = model["width"]
    same = data == table.dataset.lower().replace("-", "") and f"{words}," in f"{table.model}," and width == 1
    return f"{data.rpartition('/')[2]}, {words}, width {width or 'by default'}", same
