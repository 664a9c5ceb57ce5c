"""A campaign's jobs: their dependencies, their outputs, and ids that are cache keys (a hash of all that matters).

Below the campaign's folder::

    campaign.json                       the resolved config, its jobs and cells, provenance
    images/<dataset>-s<seed>-<key>/     the four sets of `splitleak split`
    imports/<key>/                      a network of the user's own, as `splitleak import` writes it
    targets/<key>/                      artifact of `splitleak train`
    captures/<key>/                     tap.capture, ledger.json, pairs.npz: shared by the attacks on a target
    purifiers/<key>/                    what `splitleak purify` wrote for a target
    priors/<key>/                       what `splitleak prior` wrote for a set of public images
    predictions/<key>/                  shared-<m>.npz, ledger.json, pairs-<auxiliary>.npz: a target behind a policy
    leakage/<target>.json               attack-free measures of a target
    linkage/<target>-<key>.json         what its features tell without a picture, behind a codec
    latency/<key>.json                  latency of all targets of a seed, in turn
    besides/<measure>-<key>.json        measures of a target other than attacks on its classes
    cells/<id>/attack/, cells/<id>/score/{record.json,pictures.npz}
    failures/<job>.json, logs/<job>.log
    times.jsonl                         wall times of jobs, see `forecast`
    leases/                             of shards that share the folder, see `leases`
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from splitleak.attacker.run import AttackConfig
from splitleak.config import digest
from splitleak.eval.campaign.audit.attacks import Sizes, audit_entries
from splitleak.eval.campaign.audit.config import AUDIT, AuditConfig, column_of
from splitleak.eval.campaign.config import (
    AttackEntry,
    CampaignConfig,
    CampaignHead,
    DatasetEntry,
    ImportedEntry,
    ModelEntry,
    attack_of,
    built_target,
    code_of,
    code_of_targets,
    fingerprint,
)
from splitleak.eval.targets.linkage import LinkageConfig

Kind = Literal[
    "split",
    "import",
    "train",
    "purify",
    "prior",
    "capture",
    "predict",
    "cell",
    "leakage",
    "linkage",
    "latency",
    "poison",
    "open",
    "besides",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LIMITS = ("crossings", "answers", "max_queries")


@dataclass(frozen=True)
class Job:
    """One output, complete or absent; jobs of equal ids have equal outputs."""

    id: str
    kind: Kind
    label: str
    seed: int
    output: str  # below the campaign's folder; the job is done when it exists
    needs: tuple[str, ...]  # ids of its dependencies
    cost: float  # expected duration relative to other jobs of its group
    settings: Mapping[str, Any]  # plain JSON; paths in it are below the campaign's folder
    code: Mapping[str, str] = field(default_factory=dict)  # digests of plug-ins, of its dependencies too

    @classmethod
    def of(
        cls,
        kind: Kind,
        key: str,
        label: str,
        seed: int,
        output: str,
        needs: Sequence["Job"],
        settings: Mapping[str, Any],
        cost: float = 1.0,
    ) -> Self:
        """The job with cache key ``key``, which depends on the jobs ``needs``; for the rest see the fields."""
        code: dict[str, str] = {}
        for digests in (*(need.code for need in needs), settings.get("plugins", {})):
            code |= digests
        return cls(f"{kind}-{key}", kind, label, seed, output, tuple(need.id for need in needs), cost, settings, code)

    @property
    def key(self) -> str:
        """The cache key: the hash in the id, which also names a target, a capture or a cell."""
        return self.id.rpartition("-")[2]

    @property
    def group(self) -> str:
        """Jobs of one group have durations proportional to their costs."""
        return f"{self.kind} {self.settings.get('attack') or self.settings.get('measure', '')}".strip()

    def document(self) -> dict[str, Any]:
        """Its entry in ``campaign.json``."""
        return {"id": self.id, "kind": self.kind, "label": self.label, "seed": self.seed, "output": self.output}


@dataclass(frozen=True)
class Plan:
    """All jobs in topological order, by priority: by seed, long trainings first, and each target to its last cell."""

    config: CampaignHead
    jobs: tuple[Job, ...]
    cells_in_order: tuple[dict[str, Any], ...]
    """Id and labels of every planned cell, in the order of the file, as the report shows them."""
    target_measures: tuple[dict[str, Any], ...] = ()
    """Measures of targets other than attacks: measure, target, seed, and output."""

    @property
    def cells(self) -> tuple[Job, ...]:
        """The jobs whose outputs are the records."""
        return tuple(job for job in self.jobs if job.kind == "cell")

    def of_seeds(self, seeds: Sequence[int] | None) -> tuple[Job, ...]:
        """The jobs of some seeds, with all that these need, or of all.

        Raises:
            ValueError: One of them is not the campaign's.
        """
        if strange := set(seeds or ()) - set(self.config.seeds):
            raise ValueError(
                f"expected seeds of {list(self.config.seeds)}, got {sorted(strange)} (--set 'seeds=[...]')"
            )
        wanted = {job.id for job in self.jobs if not seeds or job.seed in seeds}
        for job in reversed(self.jobs):  # a prior of one's own has the first seed, and serves all
            if job.id in wanted:
                wanted.update(job.needs)
        return tuple(job for job in self.jobs if job.id in wanted)

    def document(self) -> dict[str, Any]:
        """The contents of ``campaign.json``, but for the provenance."""
        return {
            "name": self.config.name,
            "title": self.config.title,
            "config": self.config.document(),
            "cells": list(self.cells_in_order),
            **({"besides": list(self.target_measures)} if self.target_measures else {}),
            "jobs": [job.document() for job in self.jobs],
        }


def make_plan(config: CampaignConfig) -> Plan:
    """The jobs of a campaign on features; a job that several cells share is planned once.

    Raises:
        FileNotFoundError: The images are missing.
        ValueError: Two data sets are the same images, split alike.
    """
    hashes = {data: fingerprint(data) for data in {dataset.data for dataset in config.datasets}}
    jobs: dict[str, Job] = {}
    for seed in config.seeds:
        for dataset in config.datasets:
            counts = config.split.seeded(seed).document()
            split = split_job(dataset.name, hashes[dataset.data], dataset.document(), counts, seed)
            other = jobs.get(split.id, split).settings["name"]
            if other != dataset.name:
                raise ValueError(
                    f"expected data sets of different images, got {dataset.name!r} and {other!r} of the same"
                )
            for job in (split, *_of_split(config, dataset, split, seed)):
                jobs.setdefault(job.id, job)
        if config.latency:
            timed = _latency([job for job in jobs.values() if job.seed == seed], seed)
            jobs[timed.id] = timed
    planned = tuple(jobs.values())
    return Plan(config, planned, _in_order(config, planned))


def split_job(name: str, data: str, dataset: Mapping[str, Any], split: Mapping[str, Any], seed: int) -> Job:
    """The job that splits a data set.

    Args:
        name: Of the data set.
        data: Its content hash, see `fingerprint`.
        dataset: Its entry in the campaign's file.
        split: The settings of `SplitConfig`.
        seed: Of the campaign.
    """
    key = digest([data, dataset["size"], dataset["channels"], split])
    folder = f"images/{name}-s{seed}-{key}"
    settings = {**dataset, "folder": folder, "split": split}
    label = f"{name}{classes_label(split.get('classes'))}, seed {seed}"
    return Job.of("split", key, label, seed, f"{folder}/splits.json", (), settings)


def import_job(entry: ImportedEntry, seed: int) -> Job:
    """The job that brings a network of the user's own into the campaign's folder; its key tells the network's digest.

    Raises:
        FileNotFoundError: The network is not there.
        ValueError: It was not imported, or cannot be cut there.
    """
    key = digest([entry.digest, seed])
    settings = {**entry.document(), "digest": entry.digest}
    return Job.of("import", key, f"{entry.name}, seed {seed}", seed, f"imports/{key}", (), settings)


def train_job(
    split: Job,
    target: Mapping[str, Any],
    title: str,
    pretrained: Job | None = None,
    imported: Job | None = None,
) -> Job:
    """The job that trains a target.

    Args:
        split: Gives the images.
        target: See `target_document`.
        title: Of the label.
        pretrained: The job whose weights a `transfer` defense starts from.
        imported: The job of a network of the user's own, which is fine-tuned.
    """
    settings = {"images": split.settings["folder"], "target": target}
    settings |= {} if pretrained is None else {"pretrained": pretrained.output}
    settings |= {} if imported is None else {"imported": imported.output}
    settings |= code_of_targets([target])
    key = digest(settings)
    cost = training_cost(target["training"], [defense["config"] for defense in target["defenses"]])
    needs = [split, *(job for job in (pretrained, imported) if job is not None)]
    label, output = f"{title}, seed {split.seed}", f"targets/{key}"
    return Job.of("train", key, label, split.seed, output, needs, settings, cost)


def training_cost(training: Mapping[str, Any], defenses: Iterable[Mapping[str, Any]]) -> float:
    """The expected duration of a training: epochs, times the steps of inner adversaries in configs of ``defenses``."""
    return float(training["epochs"]) * (1 + sum(float(config.get("inner_steps", 0)) for config in defenses))


def classes_label(classes: int | None) -> str:
    """The part of a label that says that a target has some of the classes only."""
    return f", {classes} classes" if classes else ""


def _in_order(config: CampaignConfig, jobs: Sequence[Job]) -> tuple[dict[str, Any], ...]:
    """The cells in the order of the file, not of the work."""
    rows = [(method.name, plus) for method, plus, _ in config.rows()]
    names = {table: [entry.name for entry in getattr(config, table)] for table in ("datasets", "models")}
    names["attacks"] = list(dict.fromkeys(job.settings["cell"]["attack"] for job in jobs if job.kind == "cell"))

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
        imported = import_job(model, seed) if isinstance(model, ImportedEntry) else None
        if imported is not None:
            yield imported
        for method, plus, stack in config.rows():
            target = config.target(dataset, model, method, stack, seed)
            labels = {"dataset": dataset.name, "model": model.name, "method": method.name, "plus": plus}
            labels |= _named(method.codec)
            train = train_job(split, target, _title(config, labels), imported=imported)
            targets.append((train, labels, list(_columns(config, dataset, model, target))))
    for train, labels, columns in sorted(targets, key=lambda item: -item[0].cost):  # stable: in the file's order
        yield train
        for entry in columns:
            capture = capture_job(train, entry, _title(config, labels), labels.get("codec"))
            yield capture
            yield cell_job(config, train, capture, entry, {**labels, "attack": entry.name}, _title(config, labels))
        yield _leakage(train)
        if config.linkage is not None:
            yield linkage_job(train, config.linked(seed, labels.get("codec")), _title(config, labels))


def _columns(
    config: CampaignConfig, dataset: DatasetEntry, model: ModelEntry | ImportedEntry, target: Mapping[str, Any]
) -> Iterator[AttackEntry]:
    """The attacks on a target, those of an audit one by one."""
    for entry in config.attacks:
        if entry.attack != AUDIT and not entry.randomised_only:
            yield entry
            continue
        network, stack = built_target(target, dataset.data, model)
        randomised = any(defense.randomised for defense in stack)
        if entry.attack != AUDIT:
            yield from [entry] if randomised else []
            continue
        sizes = Sizes(
            pairs=config.split.public,
            victims=config.split.victims,
            feature_shape=network.feature_shape,
            image_shape=network.image_shape,
            randomised=randomised,
            parts=model.halves[0].packed(network.feature_shape) if isinstance(model, ImportedEntry) else None,
        )
        for each in audit_entries(AuditConfig.parse(entry.settings, source=entry.name), sizes):
            yield each.model_copy(update={"name": column_of(entry.name, each.name)})


def _named(codec: str | None) -> dict[str, str]:
    """The codec, unless it is fp32: jobs that were planned before there was a choice keep their ids."""
    return {"codec": codec} if codec not in (None, "fp32") else {}


def capture_job(train: Job, entry: AttackEntry, title: str, codec: str | None) -> Job:
    """The job that captures what a target sends; attacks with equal crossings share it.

    Args:
        train: The target's.
        entry: The attack.
        title: Of the label.
        codec: Of the features; None: fp32.
    """
    settings = {
        "images": train.settings["images"],
        "artifact": train.output,
        "views": entry.views if entry.crossings is None else entry.crossings,
        "draws": entry.draws,
        **({} if entry.crossings is None else {"averaging": 1}),
        **({"mirrored": True} if entry.mirrored else {}),
        **_told_apart(train),
        **_named(codec),
    }
    key = digest([settings, train.seed])
    often = settings["views"]
    label = f"{title}, seed {train.seed}{f', {often} views' if often > 1 else ''}{', mirrored' * entry.mirrored}"
    cost = float(often + entry.draws * (1 + entry.mirrored))
    return Job.of("capture", key, label, train.seed, f"captures/{key}", [train], settings, cost)


def _told_apart(train: Job) -> dict[str, str]:
    """The digest of a target that no job made, whose place does not tell what lies there."""
    return {"digest": train.settings["digest"]} if "digest" in train.settings else {}


def _leakage(train: Job) -> Job:
    settings = {"images": train.settings["images"], "artifact": train.output}
    return Job.of("leakage", train.key, train.label, train.seed, f"leakage/{train.key}.json", [train], settings)


def linkage_job(train: Job, config: LinkageConfig, title: str) -> Job:
    """The job that measures what features of a target tell without a picture.

    Args:
        train: The target's.
        config: The measure's.
        title: Of the label.
    """
    settings = {
        "images": train.settings["images"],
        "artifact": train.output,
        "config": config.document(),
        **_told_apart(train),
    }
    key = digest(settings)
    label, output = f"{title}, seed {train.seed}", f"linkage/{train.key}-{key}.json"
    return Job.of("linkage", key, label, train.seed, output, [train], settings)


def _latency(before: Sequence[Job], seed: int) -> Job:
    """Depends on all other jobs of the seed, so that none of another shard of the folder runs at the same time."""
    settings = {"artifacts": [job.output for job in before if job.kind == "train"]}
    key = digest([settings, seed])
    return Job.of("latency", key, f"seed {seed}", seed, f"latency/{key}.json", before, settings)


def cell_job(
    config: CampaignHead,
    train: Job,
    capture: Job,
    entry: AttackEntry,
    labels: Mapping[str, Any],
    title: str,
) -> Job:
    """The job that attacks what was captured, and scores what was rebuilt.

    Args:
        config: The campaign's.
        train: The target's job.
        capture: The capture's.
        entry: The attack.
        labels: Where the cell stands in the report.
        title: Of the label.

    Raises:
        ValueError: What bounds its queries is given to an attack that makes none.
    """
    attack = attack_of(entry, config.preset)
    limits = {name: value for name in _LIMITS if (value := getattr(entry, name)) is not None}
    if not {"query", "encoder"} & attack.needs and (idle := sorted({"answers", "max_queries"} & limits.keys())):
        expected = f"expected an attack that queries beside {' and '.join(idle)}"
        raise ValueError(f"{entry.name}: {expected}, got {attack.name}")
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
        **({"mirrored": True} if entry.mirrored else {}),
        **limits,
        **code_of([AttackConfig(attack=entry.attack).plugin()]),
    }
    key = digest(settings)
    label = f"{title}, {entry.name}, seed {train.seed}"
    return Job.of("cell", key, label, train.seed, f"cells/{key}/score", [capture, train], settings)


def _title(config: CampaignConfig, labels: Mapping[str, Any]) -> str:
    """A target's short name, with its data set and model where there are several."""
    parts = [labels["method"] + (f" + {labels['plus']}" if labels["plus"] else "")]
    parts += [labels["dataset"]] if len(config.datasets) > 1 else []
    parts += [labels["model"]] if len(config.models) > 1 else []
    return ", ".join(parts)
