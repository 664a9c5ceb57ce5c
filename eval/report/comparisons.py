"""Flags that follow from several attacks on one target: one that is weaker than another which knows no more."""

from collections.abc import Iterator, Sequence

from splitleak.attacker.reconstruction import ATTACKS
from splitleak.eval.campaign.audit.config import names_in
from splitleak.eval.record.schema import Record
from splitleak.eval.report.results import Cell

_WORSE = 1.02  # times the MSE of another attack: less is chance
_FLOORS = {"linear": "linear regression", "nearest": "the nearest of the attacker's own images"}
_LENGTH = "epochs"

Ours = Sequence[tuple[Cell, Record]]
"""The measured cells of attacks that are let see the same, see `Cell.let_out`, in their order."""


def weaker_attacks(ours: Ours, *, audited: bool = False) -> Iterator[tuple[Cell, str]]:
    """The cells whose attack is not at its best, each with the flag that says so.

    Args:
        ours: The cells.
        audited: Whether they are those of an audit; else those are that have its name before their attack's.
    """
    yield from _worse_than_start(ours)
    yield from _worse_than_a_floor(ours)
    yield from _worse_than_cheaper(ours, audited=audited)
    yield from _not_converged(ours)


def _worse_than_a_floor(ours: Ours) -> Iterator[tuple[Cell, str]]:
    for cell, record in ours:
        for name, what in _FLOORS.items():
            floors = [other.mse for _, other in ours if other.attack.name == name and _knows_as_much(record, other)]
            if record.attack.name not in _FLOORS and floors and record.mse > _WORSE * min(floors):
                figures = f"MSE {record.mse:.4f} beside {min(floors):.4f}"
                yield cell, f"{name}: weaker than {what} ({figures}), which no attack should be; train it longer"


def _worse_than_cheaper(ours: Ours, *, audited: bool) -> Iterator[tuple[Cell, str]]:
    for place, (cell, record) in enumerate(ours):
        audit, _ = names_in(cell.attack)
        if record.attack.name in _FLOORS or not (audit or audited):
            continue
        before = [
            (other.mse, names_in(at.attack)[1])
            for at, other in ours[:place]
            if names_in(at.attack)[0] == audit and other.attack.name not in _FLOORS and _knows_as_much(record, other)
        ]
        if before and record.mse > _WORSE * min(before)[0]:
            error, name = min(before)
            figures = f"MSE {record.mse:.4f} beside {error:.4f}"
            yield cell, f"cheaper: weaker than {name}, which stands before it ({figures})"


def _not_converged(ours: Ours) -> Iterator[tuple[Cell, str]]:
    for cell, record in ours:
        length = record.attack.config.get(_LENGTH)
        for _, other in ours:
            longer = other.attack.config.get(_LENGTH)
            if not isinstance(length, int) or not isinstance(longer, int) or longer <= length:
                continue
            if _but_for_its_length(record) == _but_for_its_length(other) and record.mse > _WORSE * other.mse:
                figures = f"MSE {other.mse:.4f} beside {record.mse:.4f}"
                yield cell, f"not converged: trained {longer / length:.1f} times as long it finds more ({figures})"


def _but_for_its_length(record: Record) -> tuple[object, ...]:
    model = record.threat_model
    settings = {key: value for key, value in record.attack.config.items() if key != _LENGTH}
    return record.attack.name, settings, model.views, model.draws, model.queries, record.attack.seed


def _worse_than_start(ours: Ours) -> Iterator[tuple[Cell, str]]:
    for cell, record in ours:
        start, views = record.attack.config.get("start"), record.threat_model.views
        others = [other.mse for _, other in ours if (other.attack.name, other.threat_model.views) == (start, views)]
        if start in ATTACKS and others and record.mse > _WORSE * min(others):
            figures = f"MSE {record.mse:.4f} beside {min(others):.4f}"
            yield cell, f"start: weaker than the {start} that it starts from ({figures}); train it longer"


def _knows_as_much(record: Record, other: Record) -> bool:
    """Whether an attack saw the same features as another, and had the weights or as many answers."""
    mine, theirs = record.threat_model, other.threat_model
    if (mine.sees, mine.views, mine.auxiliary) != (theirs.sees, theirs.views, theirs.auxiliary):
        return False
    return "encoder" in mine.knowledge or mine.queries >= theirs.queries
