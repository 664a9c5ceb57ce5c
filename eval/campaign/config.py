"""The schema of a campaign's file: data sets, targets, attacks and seeds; an unknown key is an error."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Discriminator, Field, Tag, model_validator

from splitleak.attacker.base import Attack
from splitleak.attacker.run import AttackConfig
from splitleak.config import IMPORTED, OWN, Config, Preset, digest, merged, string_alone
from splitleak.datasets import DATASETS
from splitleak.datasets.splits import PoolConfig, SplitConfig
from splitleak.datasets.torchvision import NAMES
from splitleak.datasets.trees import folder_contents
from splitleak.defenses.artifact import artifact_digest
from splitleak.defenses.importing import cut_in_two, read_networks
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import TargetConfig, TrainingConfig, assemble, plugins_of
from splitleak.eval.campaign.audit.config import AUDIT, VERSION, AuditConfig
from splitleak.eval.record.embedder import load_embedder
from splitleak.eval.report import published
from splitleak.eval.targets.linkage import LinkageConfig
from splitleak.graphs.importing import NetworkConfig, read_network
from splitleak.models import ArchitectureName
from splitleak.models.imported_half import ImportedModel, both_halves
from splitleak.models.split import SplitModel
from splitleak.plugins import Plugin, is_address
from splitleak.tables import nearest
from splitleak.wire.protocol import Codec

GIVEN = frozenset({"public", "query", "labels", "encoder", "head", "fresh_encoder"})
"""The knowledge a campaign can give an attack beside the captured features; an attack gets what it ``needs``."""

_SOME_CLASSES = 10  # the number is unknown before the images are read, and no check of a config depends on it

Name = Annotated[str, Field(pattern=r"^\w[\w .+-]*$", max_length=60)]
Side = Annotated[int, Field(ge=8)]


class SplitCounts(PoolConfig):
    """Sizes of the splits; each seed shuffles anew. See `SplitConfig`."""

    public: int = Field(default=2000, ge=1)
    victims: int = Field(default=200, ge=1)
    train: int | None = Field(default=None, ge=1)
    test: int | None = Field(default=None, ge=1)

    def seeded(self, seed: int) -> SplitConfig:
        """The settings of the split under a seed."""
        return SplitConfig(seed=seed, **self.document())


class DatasetEntry(Config):
    """A data set, named as ``splitleak split --data`` takes it, at one image size."""

    name: Name
    data: str = "builtin"
    data_root: Path | None = Field(default=None, description="where torchvision keeps its sets")
    size: Side | tuple[Side, Side] = Field(default=32, description="side of squares, or height and width")
    channels: Literal[1, 3]

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)


class ModelEntry(Config):
    """An architecture and its cut; the rest of `ModelConfig` follows from the images."""

    name: Name
    architecture: ArchitectureName = "vgg11"
    cut: int | None = None
    width: float | None = Field(default=None, gt=0, description="default: the preset's, 0.25 or 1")


class ImportedEntry(Config):
    """A network of the user's own: what ``splitleak import`` wrote, or an ONNX file and where it is cut."""

    name: Name
    artifact: Path | None = Field(default=None, description="relative to the folder of the campaign's file")
    onnx: Path | None = Field(default=None, description="likewise")
    cut: str | None = Field(default=None, description="of `onnx`: a name that `splitleak cuts` lists")
    network: NetworkConfig = Field(default=NetworkConfig(), description="of `onnx`: what its file does not tell")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.artifact is None) == (self.onnx is None):
            raise ValueError("expected either an artifact or an ONNX file, got both or neither")
        if (self.onnx is None) != (self.cut is None):
            raise ValueError("expected a cut with an ONNX file, and none with an artifact, which is cut already")
        return self

    def found_from(self, folder: Path) -> Self:
        """This entry with absolute paths; they were relative to ``folder``."""
        paths = {key: value for key in ("artifact", "onnx") if (value := getattr(self, key)) is not None}
        return self.model_copy(update={key: (folder / value).resolve() for key, value in paths.items()})

    @cached_property
    def halves(self) -> tuple[ImportedModel, Mapping[str, bytes]]:
        """The network as it is cut, and the ONNX files of its halves, read once.

        Raises:
            FileNotFoundError: There is no such artifact or file.
            ValueError: It was not imported, or cannot be cut there.
        """
        if self.artifact is not None:
            return read_networks(self.artifact)
        assert self.onnx is not None
        assert self.cut is not None
        network = read_network(self.onnx, self.network)
        model, (edge, cloud) = cut_in_two(network, network.cut(self.cut), source=self.onnx.name)
        return model, {"edge": edge.SerializeToString(), "cloud": cloud.SerializeToString()}

    @cached_property
    def digest(self) -> str:
        """Changes with any weight or setting of the network, not with where it lies."""
        model, _ = self.halves
        return digest([model.document(), None if self.artifact is None else artifact_digest(self.artifact)])


def _kind_of_entry(given: object) -> str:
    keys = given if isinstance(given, dict) else vars(given)
    return IMPORTED if {"artifact", "onnx"} & {*keys} else OWN


AnyModelEntry = Annotated[
    Annotated[ModelEntry, Tag(OWN)] | Annotated[ImportedEntry, Tag(IMPORTED)], Discriminator(_kind_of_entry)
]


class PlusEntry(Config):
    """Defenses stacked on top of every method; the result is the method's twin."""

    name: Name
    defenses: tuple[DefenseConfig, ...] = Field(min_length=1)


class MethodEntry(Config):
    """A row of the table: a stack of defenses, with its own training settings and codec."""

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
    crossings: int | None = Field(
        default=None, ge=1, description="how often each victim's image crosses the wire, where not all are averaged"
    )
    answers: int | None = Field(default=None, ge=1, description="of its draws that it uses; default: all")
    max_queries: int | None = Field(default=None, ge=1, description="of the queries on record that it uses")
    mirrored: bool = Field(default=False, description="it also sends the mirror image of each of its own")
    randomised_only: bool = Field(default=False, description="only on targets that draw anew at each crossing")

    @model_validator(mode="after")
    def _names_its_list(self) -> Self:
        if self.attack == AUDIT:  # for whoever reads its records when there is another
            self.settings.setdefault("version", VERSION)
        return self


class EmbedderEntry(Config):
    """A network of the user's own from pictures to vectors, by which rebuilt pictures are judged too."""

    onnx: Path = Field(description="relative to the folder of the campaign's file")
    network: NetworkConfig = Field(default=NetworkConfig(), description="what its file does not tell")

    _file_alone = string_alone("onnx")

    def found_from(self, folder: Path, image_shape: tuple[int, int, int]) -> Self:
        """This entry with an absolute path; it was relative to ``folder``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no network of images ``(C, H, W)``.
        """
        found = self.model_copy(update={"onnx": (folder / self.onnx).resolve()})
        load_embedder(found.onnx, found.network, image_shape)
        return found

    @cached_property
    def digest(self) -> str:
        """Changes with the file's content or a setting, not with where it lies."""
        return digest([hashlib.sha256(self.onnx.read_bytes()).hexdigest(), self.network.document()])


class ReportEntry(Config):
    """Settings of the report."""

    pictures: int = Field(default=8, ge=1, description="victims in the gallery")


class CampaignHead(Config):
    """The fields that the files of all kinds of campaign share."""

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

    def overview(self) -> list[tuple[str, ...]]:
        """The grid as text, without its seeds: the names of the columns, then one tuple a row."""
        raise NotImplementedError


class CampaignConfig(CampaignHead):
    """The grid: every data set × model × method (alone, and with what is stacked on top) × attack × seed."""

    kind: Literal["features"] = "features"
    published: str | None = Field(default=None, description="the published table that the report sets beside ours")
    split: SplitCounts = SplitCounts()
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)
    models: tuple[AnyModelEntry, ...] = Field(min_length=1)
    plus: PlusEntry | None = None
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    attacks: tuple[AttackEntry, ...] = Field(min_length=1)
    report: ReportEntry = ReportEntry()
    latency: bool = Field(default=False, description="measure the latency of all targets in turn, after all else")
    linkage: dict[str, Any] | None = Field(
        default=None, description="of `LinkageConfig`, of every target behind its codec; default: not measured"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for table in ("datasets", "models", "methods", "attacks"):
            check_unique([entry.name for entry in getattr(self, table)], f"one of {table}")
        if self.plus is None and any(method.plus for method in self.methods):
            raise ValueError("expected a table [plus] with a name, as a method has a plus of its own")
        if self.linkage is not None:
            if given := {"seed", "codec"} & set(self.linkage):
                raise ValueError(f"expected no {' and '.join(given)} in linkage, which is the target's")
            self.linked(0, None)
        if self.published is not None and self.published not in published.names():
            known = ", ".join(published.names())
            raise ValueError(f"expected a published table of {known}, got {self.published!r}")
        return self

    @classmethod
    def load(cls, values: object, *, source: str) -> Self:
        """Parses a campaign and validates it as far as possible before a run: it builds every target and attack.

        Args:
            values: Its document.
            source: Its file, which paths of networks are relative to.

        Raises:
            FileNotFoundError: A network is not there.
            ValueError: An entry is invalid; the message names ``source``, the entry and what was expected.
        """
        config = cls.parse(values, source=source)
        folder = Path(source).parent
        found = [each.found_from(folder) if isinstance(each, ImportedEntry) else each for each in config.models]
        config = config.model_copy(update={"models": tuple(found)})
        for dataset in config.datasets:
            for model in config.models:
                for method, plus, defenses in config.rows():
                    where = f"{source}: method {method.name!r}{f' + {plus}' if plus else ''}, model {model.name!r}"
                    make = partial(config.target, dataset, model, method, defenses, seed=0)
                    check_target(make, dataset.data, where, model)
        for entry in config.attacks:
            config._check_attack(entry, f"{source}: attack {entry.name!r}")
        return config

    def linked(self, seed: int, codec: Codec | None) -> LinkageConfig:
        """The settings of ``splitleak linkage``."""
        return LinkageConfig.parse({**(self.linkage or {}), "codec": codec or "fp32", "seed": seed}, source="linkage")

    def rows(self) -> Iterator[tuple[MethodEntry, str | None, tuple[DefenseConfig, ...]]]:
        """Every method and then its twin: entry, name of the defenses on top or None, the whole stack."""
        for method in self.methods:
            yield method, None, method.defenses
            if self.plus is not None and (added := self.plus.defenses if method.plus is None else method.plus):
                yield method, self.plus.name, (*method.defenses, *added)

    def overview(self) -> list[tuple[str, ...]]:
        """The rows with their stacks and codecs, and the attacks on each."""
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
        self,
        dataset: DatasetEntry,
        model: ModelEntry | ImportedEntry,
        method: MethodEntry,
        stack: Sequence[DefenseConfig],
        seed: int,
    ) -> dict[str, Any]:
        """The settings of ``splitleak train``, see `target_document`."""
        training = merged(self.training, method.training)
        return target_document(self.preset, dataset, model, training, stack, seed)

    def attack(self, entry: AttackEntry) -> Attack:
        """The attack of an entry, from the campaign's preset; errors as of `attack_of`."""
        return attack_of(entry, self.preset)

    def _check_attack(self, entry: AttackEntry, where: str) -> None:
        if entry.attack == AUDIT:
            if AuditConfig.parse(entry.settings, source=where).threat == "predictions":
                raise ValueError(
                    f"{where}: expected a threat model of features, got predictions: `splitleak audit` has it"
                )
            return
        try:
            attack = self.attack(entry)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if missing := attack.needs - GIVEN:
            raise ValueError(f"{where}: expected an attack that needs of {sorted(GIVEN)} alone, got {sorted(missing)}")


def attack_of(entry: AttackEntry, preset: Preset) -> Attack:
    """The attack of an entry.

    Raises:
        ValueError: There is none of that name on features, or its settings do not fit it.
    """
    attack = AttackConfig(attack=entry.attack, preset=preset, settings=entry.settings).build()
    if not isinstance(attack, Attack) or attack.takes != "features":
        raise ValueError(f"expected an attack on features, got {entry.attack!r}")
    return attack


def target_document(
    preset: str,
    dataset: DatasetEntry,
    model: ModelEntry | ImportedEntry,
    training: Mapping[str, Any],
    stack: Sequence[DefenseConfig],
    seed: int,
) -> dict[str, Any]:
    """The settings of ``splitleak train``: all of `TargetConfig`, defaults included, but our own models' classes.

    Files that defenses start from are told by their contents, too.

    Args:
        preset: Of the training and the width, ``cpu``, ``fast`` or ``paper``.
        dataset: Gives channels and image size.
        model: The network.
        training: Overrides of the preset's `TrainingConfig`.
        stack: The defenses, in order.
        seed: Of the training.

    Raises:
        FileNotFoundError: What a defense starts from is not there.
        ValueError: The settings do not fit each other, or the images an imported network.
    """
    if isinstance(model, ImportedEntry):
        imported, _ = model.halves
        if (shape := (dataset.channels, *dataset.sides)) != imported.image_shape:
            raise ValueError(f"expected images {imported.image_shape}, as {model.name!r} takes them, got {shape}")
        network, base = imported.document(), TrainingConfig.fine_tuning()
    else:
        base = TrainingConfig.of_preset(preset)
        network = {
            **model.model_dump(exclude={"name", "width"}),
            "width": (1.0 if preset == "paper" else 0.25) if model.width is None else model.width,
            "channels": dataset.channels,
            "size": dataset.size,
            "classes": _SOME_CLASSES,
        }
    target = TargetConfig.parse(
        {
            "model": network,
            "defenses": [defense.pinned().document() for defense in stack],
            "training": merged(base.document(), training),
            "seed": seed,
        },
        source="target",
    ).document()
    if not isinstance(model, ImportedEntry):
        del target["model"]["classes"]
    return target


def code_of(plugins: Iterable[Plugin | None]) -> dict[str, dict[str, str]]:
    """Digests of code that is not ours, for the settings of a job that runs it and so for its id; empty without any."""
    code = {plugin.name: plugin.code_digest() for plugin in plugins if plugin is not None}
    return {"plugins": code} if code else {}


def code_of_targets(targets: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """`code_of` what targets are made with; each is a `target_document`."""
    parts = ((each["model"]["architecture"], [defense["name"] for defense in each["defenses"]]) for each in targets)
    return code_of(plugin for architecture, defenses in parts for plugin in plugins_of(architecture, defenses))


def check_unique(names: Sequence[str], what: str) -> None:
    """Validates that every name is there once.

    Raises:
        ValueError: One is there twice; ``what`` says whose names they are.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"expected every {what} to have a name of its own, got {list(names)}")


def check_known(names: Collection[str] | None, known: Sequence[str], where: str = "") -> None:
    """Validates references by name.

    Raises:
        ValueError: One of ``names`` is not among ``known``; ``where`` ends the list of those in the message.
    """
    if unknown := set(names or ()) - set(known):
        raise ValueError(f"expected names of {', '.join(known)}{where}, got {', '.join(sorted(unknown))}")


def check_target(
    make: Callable[[], Mapping[str, Any]], data: str, where: str, entry: ModelEntry | ImportedEntry | None = None
) -> None:
    """Makes a `target_document`, and builds its target without weights.

    Args:
        make: Makes the document.
        data: The data set, see `assemble`.
        where: The entry, for the message.
        entry: Of the model; it has both halves of an imported one.

    Raises:
        ValueError: The target cannot be built.
    """
    try:
        built_target(make(), data, entry)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: expected a target that can be built, but {error}") from None


def built_target(
    document: Mapping[str, Any], data: str, entry: ModelEntry | ImportedEntry | None = None
) -> tuple[SplitModel, Stack]:
    """A target without weights, on the meta device, of a `target_document`.

    Args:
        document: Its settings.
        data: The data set, see `assemble`.
        entry: The network, where it is the user's own.
    """
    model = {"classes": _SOME_CLASSES, **document["model"]}
    config = TargetConfig.parse({**document, "model": model}, source="target")
    imported = both_halves(entry.halves[1], config.model) if isinstance(entry, ImportedEntry) else None
    with torch.device("meta"):
        return assemble(config, data, imported)


def fingerprint(data: str) -> str:
    """Identifies a data set for cache keys: a hash of the contents of a file or of a folder's images, or a set's name.

    Of a plug-in's set its code is told, too.

    Raises:
        FileNotFoundError: It is neither the name of a set nor an existing file or folder.
        PermissionError: It is a plug-in's that is not allowed.
    """
    if data in DATASETS or is_address(data):
        plugin = DATASETS.plugin(data)
        return data if plugin is None else f"{data} of {plugin.code_digest()}"
    path = Path(data)
    if data in NAMES:
        return data
    if path.is_dir():
        return digest([path.stem, folder_contents(path)])
    if path.is_file():
        with path.open("rb") as file:
            return digest([path.stem, hashlib.file_digest(file, "sha256").hexdigest()])
    known = (*DATASETS, *NAMES)
    got = f"got {data!r} (see --data){nearest(data, known)}"
    raise FileNotFoundError(f"expected data of {', '.join(known)}, or a file or folder of images, {got}")
