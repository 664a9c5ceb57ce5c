"""A campaign's file: which targets, which attacks, on which images, from which seeds. Typed, closed, checked."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from splitleak.attacker.base import Attack
from splitleak.attacker.run import AttackConfig
from splitleak.config import Config, Preset, digest, merged
from splitleak.datasets import SHIPPED
from splitleak.datasets.splits import SplitConfig
from splitleak.defenses.stack import DefenseConfig
from splitleak.defenses.training import TargetConfig, TrainingConfig, assemble
from splitleak.eval.report import published
from splitleak.models import ArchitectureName
from splitleak.tables import nearest
from splitleak.wire.protocol import Codec

GIVEN = frozenset({"public", "query", "labels", "encoder", "head", "fresh_encoder"})
"""What a campaign can let an attack know, beside the captured features; which of it an attack gets is its ``needs``."""

_SOME_CLASSES = 10  # how many there are is not known before the images are read; no check of a config depends on it

Name = Annotated[str, Field(pattern=r"^\w[\w .+-]*$", max_length=60)]


class SplitCounts(Config):
    """How many images go where; each seed shuffles anew. See `SplitConfig`."""

    public: int = Field(default=2000, ge=1)
    victims: int = Field(default=200, ge=1)
    train: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)

    def seeded(self, seed: int) -> SplitConfig:
        """The split itself."""
        return SplitConfig(seed=seed, **self.document())


class DatasetEntry(Config):
    """Images by what ``splitleak split --data`` takes, at one size."""

    name: Name
    data: str = "builtin"
    data_root: Path | None = Field(default=None, description="where torchvision keeps its sets")
    size: int = Field(default=32, ge=8)
    channels: Literal[1, 3]


class ModelEntry(Config):
    """A network and where it is cut; the rest of `ModelConfig` follows from the images."""

    name: Name
    architecture: ArchitectureName = "vgg11"
    cut: int | None = None
    width: float | None = Field(default=None, gt=0, description="default: the preset's, 0.25 or 1")


class PlusEntry(Config):
    """What is stacked on top of every method, to give its twin."""

    name: Name
    defenses: tuple[DefenseConfig, ...] = Field(min_length=1)


class MethodEntry(Config):
    """A row of the table: a stack of defenses, and what differs from the other rows."""

    name: Name
    defenses: tuple[DefenseConfig, ...] = ()
    plus: tuple[DefenseConfig, ...] | None = Field(
        default=None, description="in place of the campaign's; empty: the method has no twin"
    )
    training: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's")
    codec: Codec = Field(default="fp32", description="how its features travel; the target is the same under each")


class AttackEntry(Config):
    """A column of the table."""

    name: Name
    attack: str
    settings: dict[str, Any] = Field(default_factory=dict)
    views: int = Field(default=1, ge=1, description="how often each victim's image crosses the wire")
    draws: int = Field(default=1, ge=1, description="how often the attacker sends each of its own images")


class ReportEntry(Config):
    """What the report shows beside its tables."""

    pictures: int = Field(default=8, ge=1, description="victims in the gallery")


class CampaignHead(Config):
    """What every campaign's file begins with."""

    name: Name
    title: str = ""
    preset: Preset = "cpu"
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    training: dict[str, Any] = Field(default_factory=dict, description="on top of the preset's `TrainingConfig`")

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"expected each seed once, got {list(self.seeds)}")
        return self


class CampaignConfig(CampaignHead):
    """The grid: every data set × model × method (alone, and with what is stacked on top) × attack × seed."""

    kind: Literal["features"] = "features"
    published: str | None = Field(default=None, description="the published table that the report sets beside ours")
    split: SplitCounts = SplitCounts()
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    plus: PlusEntry | None = None
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    attacks: tuple[AttackEntry, ...] = Field(min_length=1)
    report: ReportEntry = ReportEntry()
    latency: bool = Field(default=False, description="measure the latency of all targets in turn, after all else")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for table in ("datasets", "models", "methods", "attacks"):
            names = [entry.name for entry in getattr(self, table)]
            if len(set(names)) != len(names):
                raise ValueError(f"expected every one of {table} to have a name of its own, got {names}")
        if self.plus is None and any(method.plus for method in self.methods):
            raise ValueError("expected a table [plus] with a name, as a method has a plus of its own")
        if self.published is not None and self.published not in published.names():
            known = ", ".join(published.names())
            raise ValueError(f"expected a published table of {known}, got {self.published!r}")
        return self

    @classmethod
    def load(cls, values: object, *, source: str) -> Self:
        """A campaign that can be run as far as can be told before it is: every target and attack of it is built.

        Raises:
            ValueError: Something does not fit; the message names ``source``, the entry and what was expected.
        """
        config = cls.parse(values, source=source)
        for dataset in config.datasets:
            for model in config.models:
                for method, plus, defenses in config.rows():
                    where = f"{source}: method {method.name!r}{f' + {plus}' if plus else ''}, model {model.name!r}"
                    make = partial(config.target, dataset, model, method, defenses, seed=0)
                    check_target(make, dataset.data, where)
        for entry in config.attacks:
            config._check_attack(entry, f"{source}: attack {entry.name!r}")
        return config

    def rows(self) -> Iterator[tuple[MethodEntry, str | None, tuple[DefenseConfig, ...]]]:
        """Every method alone and then with its twin: entry, name of what is on top or None, the whole stack."""
        for method in self.methods:
            yield method, None, method.defenses
            if self.plus is not None and (added := self.plus.defenses if method.plus is None else method.plus):
                yield method, self.plus.name, (*method.defenses, *added)

    def overview(self) -> list[tuple[str, ...]]:
        """The rows and what each stacks, and the attacks on all of them."""
        attacks = ", ".join(entry.name for entry in self.attacks)
        rows = [
            (
                *(method.name, plus or "", " → ".join(defense.name for defense in stack)),
                *("" if method.codec == "fp32" else method.codec, attacks),
            )
            for method, plus, stack in self.rows()
        ]
        return [("method", "plus", "defenses", "codec", "attacks"), *rows]

    def target(
        self, dataset: DatasetEntry, model: ModelEntry, method: MethodEntry, stack: Sequence[DefenseConfig], seed: int
    ) -> dict[str, Any]:
        """The settings of ``splitleak train``, see `target_document`."""
        training = merged(self.training, method.training)
        return target_document(self.preset, dataset, model, training, stack, seed)

    def attack(self, entry: AttackEntry) -> Attack:
        """The attack of an entry, from the campaign's preset.

        Raises:
            ValueError: There is none of that name on features, or its settings do not fit it.
        """
        attack = AttackConfig(attack=entry.attack, preset=self.preset, settings=entry.settings).build()
        if not isinstance(attack, Attack) or attack.takes != "features":
            raise ValueError(f"expected an attack on features, got {entry.attack!r}")
        return attack

    def _check_attack(self, entry: AttackEntry, where: str) -> None:
        try:
            attack = self.attack(entry)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if missing := attack.needs - GIVEN:
            raise ValueError(f"{where}: expected an attack that needs of {sorted(GIVEN)} alone, got {sorted(missing)}")


def target_document(
    preset: str,
    dataset: DatasetEntry,
    model: ModelEntry,
    training: Mapping[str, Any],
    stack: Sequence[DefenseConfig],
    seed: int,
) -> dict[str, Any]:
    """The settings of ``splitleak train``: all of `TargetConfig` but the number of classes, every default in it.

    ``training`` is put on top of the preset's `TrainingConfig`.
    """
    base = TrainingConfig.paper() if preset == "paper" else TrainingConfig()
    width = (1.0 if preset == "paper" else 0.25) if model.width is None else model.width
    target = TargetConfig.parse(
        {
            "model": {
                **model.model_dump(exclude={"name", "width"}),
                "width": width,
                "channels": dataset.channels,
                "size": dataset.size,
                "classes": _SOME_CLASSES,
            },
            "defenses": [defense.document() for defense in stack],
            "training": merged(base.document(), training),
            "seed": seed,
        },
        source="target",
    ).document()
    del target["model"]["classes"]
    return target


def check_target(make: Callable[[], Mapping[str, Any]], data: str, where: str) -> None:
    """Makes a `target_document`, and builds its target without weights.

    Raises:
        ValueError: It cannot be built; ``where`` says in which entry.
    """
    try:
        document = make()
        model = {**document["model"], "classes": _SOME_CLASSES}
        with torch.device("meta"):
            assemble(TargetConfig.parse({**document, "model": model}, source="target"), data)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: expected a target that can be built, but {error}") from None


def fingerprint(data: str) -> str:
    """Tells data sets apart by what is in them: a file by its contents, a folder by its listing, a set by its name.

    Raises:
        FileNotFoundError: It is no set's name, and there is no such file or folder.
    """
    if data in SHIPPED:
        return data
    from splitleak.datasets.torchvision import NAMES  # takes a second to import

    path = Path(data)
    if data in NAMES:
        return data
    if path.is_dir():
        listing = [(str(file.relative_to(path)), file.stat().st_size) for file in sorted(path.rglob("*"))]
        return digest([path.stem, listing])
    if path.is_file():
        with path.open("rb") as file:
            return digest([path.stem, hashlib.file_digest(file, "sha256").hexdigest()])
    known = (*SHIPPED, *NAMES)
    got = f"got {data!r} (see --data){nearest(data, known)}"
    raise FileNotFoundError(f"expected data of {', '.join(known)}, or a file or folder of images, {got}")
