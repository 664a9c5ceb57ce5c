"""The target measures of a campaign against classes, other than attacks, and their tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

from splitleak.eval.campaign.classes.plan import Measure
from splitleak.eval.report.page import Sheet, Text, decimals, seeds_note, spread_text
from splitleak.eval.report.results import Results, Spread

Document = Mapping[str, Any]
"""The result of a measure, of one target or of several."""

_TARGETS_NOTE = (
    "Confidence: the mean of the highest probability, right or wrong. Parameters: those trained on private images."
)
_TIME_NOTE = (
    "Training time: processor seconds of short trainings in turn, as a multiple of those without a defense; medians "
    "over rounds. What a defense needs before, such as a network trained on public images, is not in it."
)
_EXTRACTION_NOTE = (
    "Knowledge extraction: the share of the private training images that a student of the rebuilt pictures puts in "
    "their class; chance is one over the classes."
)
_ATTACKS_NOTE = (
    "Shares of test images in percent: untargeted, that are not put in their own class, and targeted, that are put in "
    "the next one. Clean: without an attack, the floor under the others. Where gradients are masked, FGSM, BIM and PGD "
    "flatter a target, and one pixel, which needs none, does not."
)
_BACKDOORS_NOTE = (
    "Targets that were trained anew with poisoned images among the private ones; the percentage is their share. Clean: "
    "accuracy on test images without the trigger. Success: of test images of other classes, the share that the trigger "
    "brings to the poisoner's class; without: the share that is put there in any case."
)
_ATTACKS = {"clean": "clean", "fgsm": "FGSM", "bim": "BIM", "pgd": "PGD", "one-pixel": "one pixel"}
_TRIGGERS = {"badnets": "BadNets", "blended": "Blended"}


@dataclass(frozen=True)
class Column:
    """A figure of a target, by its path in the document of a measure."""

    heading: str
    name: str
    measure: Measure
    path: tuple[str, ...]
    of: str | None = None
    scale: float = 1.0
    digits: int = 1

    def figure(self, document: Document, target: str) -> float:
        """Its value for a target."""
        value: Any = document["targets"][target] if "targets" in document else document
        for name in self.path:
            value = value[name]
        return self.scale * float(value)


@dataclass(frozen=True)
class TargetMeasures:
    """The planned target measures of a campaign, and the documents of those that are done."""

    places: tuple[Mapping[str, Any], ...]
    documents: Mapping[str, Document]  # by output

    @classmethod
    def of(cls, results: Results) -> "TargetMeasures":
        """The target measures of results."""
        return cls(results.measures, results.documents)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(place["seed"] for place in self.places))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place["target"] for place in self.places))

    def by_seed(self, target: str, column: Column) -> dict[int, float]:
        """A figure of a target by measured seed."""
        wanted = (column.measure, target, column.of)
        places = [place for place in self.places if (place["measure"], place["target"], place.get("of")) == wanted]
        documents = ((place["seed"], self.documents.get(place["output"])) for place in places)
        return {seed: column.figure(document, target) for seed, document in documents if document is not None}

    def counted(self) -> str:
        """Number of measures done and planned, as text."""
        done = sum(place["output"] in self.documents for place in self.places)
        return f"{done} of {len(self.places)} measures"

    def lines(self) -> Iterator[dict[str, Any]]:
        """Each document with its measure, seed and targets; one of several targets is there once."""
        places: dict[str, list[Document]] = {}
        for place in self.places:
            places.setdefault(place["output"], []).append(place)
        for output, document in self.documents.items():
            about = {name: value for name, value in places[output][0].items() if name in ("measure", "seed", "of")}
            yield {**about, "of_targets": [place["target"] for place in places[output]], **document}

    def csv_rows(self) -> Iterator[dict[str, Any]]:
        """One row per target and seed: all figures, unrounded; empty if not measured."""
        shown = [column for of_table in columns(self).values() for column in of_table]
        for target in self.targets:
            for seed in self.seeds:
                figures = {
                    f"{column.heading} {column.name}".strip(): self.by_seed(target, column).get(seed)
                    for column in shown
                }
                yield {"target": target, "seed": seed, **figures}


def columns(measures: TargetMeasures) -> dict[str, list[Column]]:
    """The columns of each table, by title, for the planned measures."""
    measured: dict[str, list[str]] = {}
    for place in measures.places:
        named = measured.setdefault(place["measure"], [])
        named += [place["of"]] if place.get("of") not in (None, *named) else []
    shown = list(_of_targets())
    if "training time" in measured:
        shown.append(Column("training time", "ratio", "training time", ("ratio",), digits=2))
    for attack in measured.get("extraction", ()):
        shown.append(Column("knowledge extraction %", attack, "extraction", ("share",), attack, 100))
    tables = {"Targets": shown}
    if "robustness" in measured:
        tables["Adversarial images"] = [
            Column(f"{name} %", mode, "robustness", ("attacks", attack, mode, "share"), None, 100)
            for attack, name in _ATTACKS.items()
            for mode in ("untargeted", "targeted")
        ]
    if "backdoor" in measured:
        tables["Backdoors"] = [column for backdoor in measured["backdoor"] for column in _of_backdoor(backdoor)]
    return tables


def measure_sheets(measures: TargetMeasures) -> list[Sheet]:
    """The tables of target measures; none if there are no such measures."""
    if not measures.places:
        return []
    measured = {place["measure"] for place in measures.places}
    target_notes = [
        _TARGETS_NOTE,
        *[_TIME_NOTE] * ("training time" in measured),
        *[_EXTRACTION_NOTE] * ("extraction" in measured),
    ]
    notes = {"Targets": " ".join(target_notes), "Adversarial images": _ATTACKS_NOTE, "Backdoors": _BACKDOORS_NOTE}
    return [
        Sheet(
            f"Beside the attacks: {title[0].lower()}{title[1:]}",
            (("", "target"), *((column.heading, column.name) for column in shown)),
            tuple(_row(measures, target, shown) for target in measures.targets),
            (f"{seeds_note(measures.seeds)} {notes[title]}",),
        )
        for title, shown in columns(measures).items()
    ]


def _row(measures: TargetMeasures, target: str, shown: Sequence[Column]) -> tuple[Text, ...]:
    spreads = (Spread.of(measures.by_seed(target, column).values()) for column in shown)
    texts = map(spread_text, spreads, (decimals(column.digits) for column in shown), repeat(len(measures.seeds)))
    return (Text(target), *map(Text, texts))


def _of_targets() -> Iterator[Column]:
    for part in ("train", "test"):
        yield Column("accuracy %", part, "target", (part, "accuracy"), scale=100)
    for part in ("train", "test"):
        yield Column("mean confidence", part, "target", (part, "confidence"), digits=3)
    yield Column("parameters", "trained", "target", ("parameters", "trained"), digits=0)


def _of_backdoor(of: str) -> Iterator[Column]:
    trigger, _, share = of.partition(" ")
    heading = f"{_TRIGGERS[trigger]} {share}"
    keys = {"clean %": "clean_accuracy", "success %": "success_others", "without %": "others_without_trigger"}
    yield from (Column(heading, name, "backdoor", (key, "share"), of, 100) for name, key in keys.items())
