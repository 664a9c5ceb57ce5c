"""What a report says first: a verdict, who attacked with what, and what was attacked."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from splitleak.eval.campaign.audit.config import AUDIT
from splitleak.eval.record.schema import Network, Record
from splitleak.eval.report.audits import rebuilt_shares, verdicts
from splitleak.eval.report.results import Cell, Doubt, Results, Row, TableRows, measured, strongest

_SEES = {
    "features": "reads the features on the wire",
    "scores": "reads the confidence scores that victims share",
    "nothing": "sees no victim, and goes for what the model remembers of its classes",
}
_KNOWS = {
    "query": "may ask with images of its own",
    "encoder": "has the edge's weights",
    "head": "has the cloud's half",
    "fresh_encoder": "knows the edge's architecture",
    "model": "has the model's weights",
    "prior": "has a generative model of public images",
    "labels": "has labels of its own images",
}
_Place = tuple[TableRows, Row]


def verdict(results: Results, doubts: Sequence[Doubt]) -> list[str]:
    """A few sentences: who is protected worst and best against the strongest attack, and whether that can be relied on.

    Empty if nothing is measured.
    """
    if not results.measured:
        return []
    if results.kind == AUDIT:
        said = verdicts(results)
    else:
        said = [*_of_victims(results), *_of_classes(results)]
        said += _unfinished(results) if said else []
    flags = f"{len(doubts)} flags were" if len(doubts) > 1 else "One flag was"
    return [*said, f"{flags} raised, see below: they tell how far these figures can be relied on."] if doubts else said


def threat_model(results: Results) -> str:
    """Who sees what, knows what, and asks how often, over all attacks; empty if nothing is measured."""
    models = [record.threat_model for _, record in results.measured]
    if not models:
        return ""
    said = [text for name, text in _SEES.items() if any(model.sees == name for model in models)]
    known = {name for model in models for name in model.knowledge}
    always = set.intersection(*(set(model.knowledge) for model in models))
    said += [text if name in always else f"in some attacks {text}" for name, text in _KNOWS.items() if name in known]
    asked = sorted({model.queries for model in models if model.queries})
    if asked:
        said.append(f"asked {_range(asked)} times")
    auxiliary = sorted({model.auxiliary.images for model in models if model.auxiliary is not None})
    if auxiliary:
        said.append(f"has {_range(auxiliary)} public images")
    views = sorted({model.views for model in models if model.sees != "nothing"})
    if views and views != [1]:
        said.append(f"saw each victim cross {_range(views)} times")
    return f"The attacker {'; '.join(said)}."


def attacked(results: Results) -> str:
    """Networks, cuts and images of the targets; empty if nothing is measured."""
    records = [record for _, record in results.measured]
    networks = dict.fromkeys(_network(record) for record in records)
    images = dict.fromkeys(_images(record) for record in records)
    victims = sorted({record.n for record in records if record.kind == "victims"})
    return "; ".join([*networks, *images, *([f"{_range(victims)} victims"] if victims else [])])


def _network(record: Record) -> str:
    model = record.target.design.model
    if not isinstance(model, Network):
        return f"{model.source}, a network of one's own"
    cut = "whole" if record.threat_model.sees != "features" else f"cut {model.position}"
    return f"{model.architecture}, {cut}, width {model.width:g}"


def _images(record: Record) -> str:
    channels, height, width = record.target.design.model.image_shape
    return f"{record.target.dataset.dataset}, {record.target.design.model.classes} classes, {channels}×{height}×{width}"


def _of_victims(results: Results) -> Iterator[str]:
    """The target that gives most away and the one that gives least, each by the strongest attack on it."""
    views = min((cell.views for cell, _ in results.measured), default=1)
    places = [(table, row) for table in results.tables for row in table.rows]
    known = _strongest_of_each(results, places, views)
    if not known:
        return
    rated = {place: leak.error if leak.share is None else -leak.share for place, leak in known.items()}
    if len({leak.share is None for leak in known.values()}) > 1:  # errors of different pictures do not compare
        rated = {place: leak.error for place, leak in known.items()}
    worst, best = min(rated, key=lambda place: rated[place]), max(rated, key=lambda place: rated[place])
    if worst == best:
        yield f"{_named(results, worst)}: the strongest attack {known[worst].text}."
    else:
        yield f"Most is given away by {_named(results, worst)}: the strongest attack {known[worst].text}."
        yield f"Least by {_named(results, best)}: {known[best].brief}."
    yield from _after_more(results, views, best, "it" if worst == best else "the latter")
    yield from _found_again(results, places)


def _unfinished(results: Results) -> Iterator[str]:
    """Says of a run that is not at its end that its verdict may change."""
    measured, planned = len(results.records), len({cell.id for cell in results.cells})
    if measured < planned:
        yield f"Only {measured} of {planned} cells are measured: the others may change who gives most and least away."


def _strongest_of_each(results: Results, places: Sequence[_Place], views: int) -> "dict[_Place, _Told]":
    """What the strongest attack has of all that victims let out in one way, under the row in which it does best.

    Rows that differ in their attacker alone are one: a weak attacker protects nobody.
    """
    alike: dict[Hashable, list[_Place]] = {}
    for table, row in places:
        alike.setdefault(tuple(cell.let_out for cell in results.of(table.name, row)), []).append((table, row))
    known = {}
    for of_one in alike.values():
        cells = {
            (table, row): [cell for cell in results.of(table.name, row) if cell.views == views] for table, row in of_one
        }
        alone = {place: told for place, own in cells.items() if (told := _Told.of(own)) is not None}
        together = _Told.of([cell for own in cells.values() for cell in own])
        if together is not None:
            known[min(alone, key=lambda place: alone[place].error)] = together
    return known


@dataclass(frozen=True)
class _Told:
    """The error of the strongest attack, and the share of the victims that it gives back in percent, over seeds."""

    error: float
    share: float | None

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "_Told | None":
        best = strongest([cell for cell in cells if cell.kind == "victims"], "mse")
        errors, shares = measured(best, "mse"), rebuilt_shares(best)
        return cls(fmean(errors), fmean(shares) if shares else None) if errors else None

    @property
    def text(self) -> str:
        if self.share is None:
            return f"has an MSE of {self.error:.4f}"
        return f"gives back {self.brief} of what tells the victims' pictures apart"

    @property
    def brief(self) -> str:
        if self.share is None:
            return f"{self.error:.4f}"
        return f"{self.share:.0f} %" if self.share > 0 else "nothing"


def _named(results: Results, place: _Place) -> str:
    table, row = place
    accuracy = results.spread(table.name, row, "accuracy")
    about = [f"accuracy {accuracy.mean:.1f} %"] if accuracy else []
    about += [table.title] if len(results.tables) > 1 else []
    return f"{row.label} ({', '.join(about)})"


def _after_more(results: Results, views: int, place: _Place, what: str) -> Iterator[str]:
    """What the strongest attack has that saw a picture so often, or less: who sees more can do what it did before."""
    table, row = place
    cells = [cell for cell in results.of(table.name, row) if cell.record is not None]
    most = max((cell.views for cell in cells), default=views)
    if most > views and (told := _Told.of(cells)) is not None:
        yield f"After up to {most} crossings of the same picture {what} is {told.brief}."


def _found_again(results: Results, places: Sequence[_Place]) -> Iterator[str]:
    """How surely a picture is found again, moved by a pixel, without any attack on its pixels."""
    spreads = (results.spread(table.name, row, "refound_moved") for table, row in places)
    found = [spread.mean for spread in spreads if spread is not None]
    if found:
        least, most = f"{min(found):.0f}", f"{max(found):.0f}"
        share = f"{least} %" if least == most else f"{least} to {most} %"
        yield f"Moved by a pixel and sent again, a picture is found among all victims' by its feature alone in {share}."


def _of_classes(results: Results) -> Iterator[str]:
    """The target on which the strongest attack gains most over what the attacker had before, and the one of the least.

    Where no baseline was measured, by the share of its pictures that are recognised, and that is said.
    """
    shares, gains = _of_strongest(results, "recognised"), _of_strongest(results, "gain")
    rated = gains or shares
    if not rated:
        return
    worst, best = max(rated, key=lambda row: rated[row]), min(rated, key=lambda row: rated[row])
    said = f"Most is given away by {worst.label}: {shares[worst]:.0f}\u00a0% of the strongest attack's pictures are "
    said += "recognised"
    if not gains:
        yield f"{said}. Least by {best.label}: {shares[best]:.0f}\u00a0%."
        yield "How much of that the attacker had without any attack was not measured: no figure here is a leak yet."
        return
    yield f"{said}, {gains[worst]:+.0f} points over the best pictures that the attacker had without inverting anything."
    if worst != best:
        yield f"Least by {best.label}: {shares[best]:.0f}\u00a0%, {gains[best]:+.0f} points."


def _of_strongest(results: Results, metric: str) -> dict[Row, float]:
    """A figure of the strongest attack on each target, over seeds."""
    found: dict[Row, float] = {}
    for row in results.targets:
        if values := measured(results.strongest(row).values(), metric):
            found[row] = fmean(values)
    return found


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
