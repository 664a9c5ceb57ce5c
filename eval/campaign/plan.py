"""A campaign's jobs: what each needs, where its output goes, and a name that is the hash of what determines it.

Below the campaign's folder::

    campaign.json                       the resolved config, its jobs and cells, provenance
    images/<dataset>-s<seed>-<key>/     the four sets of `splitleak split`
    targets/<key>/                      artifact of `splitleak train`
    captures/<key>/                     tap.capture, ledger.json, pairs.npz: shared by the attacks on a target
    purifiers/<key>/                    what `splitleak purify` wrote for a target
    priors/<key>/                       what `splitleak prior` wrote for a set of public images
    predictions/<key>/                  shared-<m>.npz, ledger.json, pairs-<auxiliary>.npz: a target behind a policy
    leakage/<target>.json               attack-free measures of a target
    latency/<key>.json                  latency of all targets of a seed, in turn
    besides/<measure>-<key>.json        what else is measured of a target, beside the attacks on its classes
    cells/<id>/attack/, cells/<id>/score/{record.json,pictures.npz}
    failures/<job>.json, logs/<job>.log
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from splitleak.config import digest
from splitleak.defenses.stack import DefenseConfig
from splitleak.eval.campaign.config import AttackEntry, CampaignConfig, DatasetEntry, fingerprint

Kind = Literal[
    "split",
    "train",
    "purify",
    "prior",
    "capture",
    "predict",
    "cell",
    "leakage",
    "latency",
    "poison",
    "besides",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Planned(Protocol):
    """What every kind of campaign's file has."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def seeds(self) -> tuple[int, ...]: ...

    def document(self) -> dict[str, Any]: ...

    def overview(self) -> list[tuple[str, ...]]:
        """The grid in words, but for its seeds: the names of the columns, then a line a row."""
        ...


@dataclass(frozen=True)
class Job:
    """One output, whole or not there at all; equal ids, equal outputs."""

    id: str
    kind: Kind
    label: str
    seed: int
    output: str  # below the campaign's folder; the job is done when it exists
    needs: tuple[str, ...]  # ids
    cost: float  # how long it takes beside others of its group
    settings: Mapping[str, Any]  # plain JSON; paths in it are below the campaign's folder

    @property
    def key(self) -> str:
        """The hash alone: the name of a target, a capture or a cell."""
        return self.id.rpartition("-")[2]

    @property
    def group(self) -> str:
        """Jobs of one group take times in proportion to their costs."""
        return f"{self.kind} {self.settings.get('attack') or self.settings.get('measure', '')}".strip()

    def document(self) -> dict[str, Any]:
        """What ``campaign.json`` says of it."""
        return {"id": self.id, "kind": self.kind, "label": self.label, "seed": self.seed, "output": self.output}


@dataclass(frozen=True)
class Plan:
    """All jobs in the order of their priority: by seed, long trainings first, and each target to its last cell."""

    config: Planned
    jobs: tuple[Job, ...]
    cells_in_order: tuple[dict[str, Any], ...]
    """Every planned cell as the report sees it, its id and its labels, in the order of the file."""
    besides_in_order: tuple[dict[str, Any], ...] = ()
    """What is measured beside the cells, where there is anything: of which target and seed, and where it goes."""

    @property
    def cells(self) -> tuple[Job, ...]:
        """The jobs whose outputs are the records."""
        return tuple(job for job in self.jobs if job.kind == "cell")

    def of_seeds(self, seeds: Sequence[int] | None) -> tuple[Job, ...]:
        """The jobs of some seeds, or of all.

        Raises:
            ValueError: One of them is not the campaign's.
        """
        if strange := set(seeds or ()) - set(self.config.seeds):
            raise ValueError(
                f"expected seeds of {list(self.config.seeds)}, got {sorted(strange)} (--set 'seeds=[...]')"
            )
        return tuple(job for job in self.jobs if not seeds or job.seed in seeds)

    def document(self) -> dict[str, Any]:
        """What ``campaign.json`` holds beside its provenance."""
        return {
            "name": self.config.name,
            "title": self.config.title,
            "config": self.config.document(),
            "cells": list(self.cells_in_order),
            **({"besides": list(self.besides_in_order)} if self.besides_in_order else {}),
            "jobs": [job.document() for job in self.jobs],
        }


def make_plan(config: CampaignConfig) -> Plan:
    """The jobs of ``config``, each once however many cells share it.

    Raises:
        FileNotFoundError: The images are not there.
    """
    prints = {dataset.name: fingerprint(dataset.data) for dataset in config.datasets}
    jobs: dict[str, Job] = {}
    for seed in config.seeds:
        for dataset in config.datasets:
            made = _split(config, dataset, prints[dataset.name], seed)
            jobs[made.id] = made
            for job in _of_split(config, dataset, made, seed):
                jobs.setdefault(job.id, job)
        if config.latency:
            timed = _latency([job for job in jobs.values() if job.seed == seed], seed)
            jobs[timed.id] = timed
    planned = tuple(jobs.values())
    return Plan(config, planned, _in_order(config, planned))


def _in_order(config: CampaignConfig, jobs: Sequence[Job]) -> tuple[dict[str, Any], ...]:
    """The cells in the order of the file, not of the work."""
    rows = [(method.name, plus) for method, plus, _ in config.rows()]
    names = {table: [entry.name for entry in getattr(config, table)] for table in ("datasets", "models", "attacks")}

    def place(cell: Mapping[str, Any]) -> tuple[int, ...]:
        return (
            names["datasets"].index(cell["dataset"]),
            names["models"].index(cell["model"]),
            rows.index((cell["method"], cell["plus"])),
            names["attacks"].index(cell["attack"]),
            config.seeds.index(cell["seed"]),
        )

    cells = ({"id": job.key, **job.settings["cell"]} for job in jobs if job.kind == "cell")
    return tuple(sorted(cells, key=place))


def _of_split(config: CampaignConfig, dataset: DatasetEntry, split: Job, seed: int) -> Iterator[Job]:
    targets = []
    for model in config.models:
        for method, plus, stack in config.rows():
            target = config.target(dataset, model, method, stack, seed)
            labels = {"dataset": dataset.name, "model": model.name, "method": method.name, "plus": plus}
            labels |= _named(method.codec)
            targets.append((_train(split, target, stack, _title(config, labels), seed), labels))
    for train, labels in sorted(targets, key=lambda each: -each[0].cost):  # stable: equals stay in the file's order
        yield train
        for entry in config.attacks:
            capture = _capture(train, entry, _title(config, labels), labels.get("codec"))
            yield capture
            yield _cell(config, train, capture, entry, {**labels, "attack": entry.name})
        yield _leakage(train, _title(config, labels))


def _split(config: CampaignConfig, dataset: DatasetEntry, found: str, seed: int) -> Job:
    split = config.split.seeded(seed).document()
    key = digest([found, dataset.size, dataset.channels, split])
    folder = f"images/{dataset.name}-s{seed}-{key}"
    settings = {**dataset.document(), "folder": folder, "split": split}
    return Job(
        f"split-{key}", "split", f"{dataset.name}, seed {seed}", seed, f"{folder}/splits.json", (), 1.0, settings
    )


def _train(split: Job, target: dict[str, Any], stack: Sequence[DefenseConfig], title: str, seed: int) -> Job:
    settings = {"images": split.settings["folder"], "target": target}
    key = digest(settings)
    inner = sum(float(defense.config.get("inner_steps", 0)) for defense in stack)  # each trains a network of its own
    cost = target["training"]["epochs"] * (1 + inner)
    return Job(f"train-{key}", "train", f"{title}, seed {seed}", seed, f"targets/{key}", (split.id,), cost, settings)


def _named(codec: str | None) -> dict[str, str]:
    """The codec where it is not the plain one: what was planned before there was a choice keeps its ids."""
    return {"codec": codec} if codec not in (None, "fp32") else {}


def _capture(train: Job, entry: AttackEntry, title: str, codec: str | None) -> Job:
    settings = {
        "images": train.settings["images"],
        "artifact": train.output,
        "views": entry.views,
        "draws": entry.draws,
        **_named(codec),
    }
    key = digest([settings, train.seed])
    label = f"{title}, seed {train.seed}{f', {entry.views} views' if entry.views > 1 else ''}"
    cost = float(entry.views + entry.draws)
    return Job(f"capture-{key}", "capture", label, train.seed, f"captures/{key}", (train.id,), cost, settings)


def _leakage(train: Job, title: str) -> Job:
    settings = {"images": train.settings["images"], "artifact": train.output}
    output = f"leakage/{train.key}.json"
    return Job(
        f"leakage-{train.key}", "leakage", f"{title}, seed {train.seed}", train.seed, output, (train.id,), 1.0, settings
    )


def _latency(before: Sequence[Job], seed: int) -> Job:
    """After all other jobs of the seed: nothing of it runs beside."""
    settings = {"artifacts": [job.output for job in before if job.kind == "train"]}
    key = digest([settings, seed])
    needs = tuple(job.id for job in before)
    return Job(f"latency-{key}", "latency", f"seed {seed}", seed, f"latency/{key}.json", needs, 1.0, settings)


def _cell(config: CampaignConfig, train: Job, capture: Job, entry: AttackEntry, labels: dict[str, Any]) -> Job:
    attack = config.attack(entry)
    settings = {
        "cell": {"campaign": config.name, **labels, "seed": train.seed, "views": entry.views, "target": train.key},
        "images": train.settings["images"],
        "artifact": train.output,
        "capture": capture.output,
        "attack": entry.attack,
        "settings": attack.config.document(),
        "needs": sorted(attack.needs),
        "preset": config.preset,
        "views": entry.views,
    }
    key = digest(settings)
    label = f"{_title(config, labels)}, {entry.name}, seed {train.seed}"
    needs = (capture.id, train.id)
    return Job(f"cell-{key}", "cell", label, train.seed, f"cells/{key}/score", needs, 1.0, settings)


def _title(config: CampaignConfig, labels: Mapping[str, Any]) -> str:
    """A target in few words: its data set and model are named where there are several."""
    parts = [labels["method"] + (f" + {labels['plus']}" if labels["plus"] else "")]
    parts += [labels["dataset"]] if len(config.datasets) > 1 else []
    parts += [labels["model"]] if len(config.models) > 1 else []
    return ", ".join(parts)
