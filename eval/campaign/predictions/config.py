"""A campaign against predictions: figures of rows, each a target, an output policy, and an attack."""

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from splitleak.attacker.auxiliary import Auxiliary
from splitleak.attacker.base import Attack
from splitleak.attacker.class_inversion.base import ClassInversion
from splitleak.attacker.prior import Prior, PriorConfig
from splitleak.attacker.run import AttackConfig
from splitleak.cloud.policy import PolicyConfig
from splitleak.config import Config, merged, string_alone
from splitleak.defenses.predictions.purifier import PurifierConfig
from splitleak.defenses.stack import DefenseConfig
from splitleak.eval.campaign.config import (
    CampaignHead,
    DatasetEntry,
    EmbedderEntry,
    ModelEntry,
    Name,
    SplitCounts,
    check_target,
    check_unique,
    target_document,
)
from splitleak.eval.campaign.predictions.claims import ClaimEntry

OWN_CLASSES = ("same", "training")
"""Kinds of auxiliary images whose labels are the target's classes."""

_OTHER_SEED = 1000
"""Added to a seed for the evaluator's, which shares nothing with the target but the training images."""


class PredictionSplit(SplitCounts):
    """Sizes of the splits; ``public`` is also the size of the other auxiliary sets, unless ``generic`` is given."""

    stratified: bool = False
    generic: int | None = Field(
        default=None, ge=1, description="images of the other classes; default: as many as public"
    )


class DistinctEntry(Config):
    """The data set of ``distinct`` auxiliary data, in the size and channels of the campaign's own data set."""

    data: str = "photographs"


class RowEntry(Config):
    """A row of a figure: target, output policy, auxiliary data, and attack."""

    name: str = Field(min_length=1, max_length=80)
    classes: int | None = Field(default=None, ge=2, description="classes of the target, drawn by seed; default: all")
    split: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's")
    defenses: tuple[DefenseConfig, ...] = Field(default=(), description="of the target")
    training: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's")
    auxiliary: Auxiliary = "same"
    share: int = Field(default=0, ge=0, description="highest scores that a victim publishes; 0: all")
    policy: dict[str, Any] = Field(default_factory=dict, description="the service's output policy, see `PolicyConfig`")
    purify: dict[str, Any] | None = Field(default=None, description="settings of a purifier of the service's answers")
    attack: str = "prediction-inversion"
    settings: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's for this attack")
    draws: int = Field(default=1, ge=1, description="how often the attacker sends each of its own images")
    adaptive: bool = Field(default=False, description="bypass layers that mask gradients")


class PretrainingEntry(Config):
    """Pre-training on public images, for targets with a `transfer` defense that names no artifact."""

    data: str = "photographs"
    split: dict[str, Any] = Field(default_factory=dict, description="sizes of the splits")
    training: dict[str, Any] = Field(default_factory=dict, description="on top of the preset's `TrainingConfig`")


class OwnPriorEntry(Config):
    """A generator that is searched in place of one that the campaign trains."""

    folder: Path = Field(
        description="what `splitleak prior` or `import-prior` wrote; from the folder of the campaign's file"
    )

    _folder_alone = string_alone("folder")

    def found_from(self, folder: Path, image_shape: tuple[int, int, int]) -> Self:
        """This entry with an absolute path; it was relative to ``folder``.

        Raises:
            FileNotFoundError: There is no such prior.
            ValueError: It draws other images than ``(C, H, W)``.
        """
        found = self.model_copy(update={"folder": (folder / self.folder).resolve()})
        if (shape := found.prior.image_shape) != image_shape:
            raise ValueError(f"{found.folder}: expected a prior of images {image_shape}, got {shape}")
        return found

    @cached_property
    def prior(self) -> Prior:
        """The prior, read once."""
        return Prior.load(self.folder, torch.device("cpu"))


class FigureEntry(Config):
    """Rows that are compared with each other, a table of the report."""

    name: Name
    title: str
    note: str = ""
    rows: tuple[RowEntry, ...] = Field(min_length=1)


class FigureCampaign(CampaignHead):
    """Figures × seeds on one data set, with one evaluator for each set of classes."""

    later: ClassVar[Mapping[str, object]] = {"embedder": None, "own_prior": None}

    split: PredictionSplit = PredictionSplit()
    datasets: tuple[DatasetEntry] = Field(description="exactly one; --data puts another in its place")
    distinct: DistinctEntry = DistinctEntry()
    model: ModelEntry
    evaluator: ModelEntry | None = Field(
        default=None, description="the judge's own classifier, trained on the target's images; for all that has figures"
    )
    evaluator_training: dict[str, Any] = Field(default_factory=dict, description="on top of the preset's")
    embedder: EmbedderEntry | None = Field(
        default=None, description="the judge's, of pictures of classes: an ONNX file from pictures to vectors"
    )
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict, description="of attacks, by their names")
    prior: dict[str, Any] = Field(default_factory=dict, description="on top of the preset's `PriorConfig`")
    own_prior: OwnPriorEntry | None = Field(default=None, description="in place of one that is trained by `prior`")
    pretraining: PretrainingEntry | None = None
    figures: tuple[FigureEntry, ...]
    claims: tuple[ClaimEntry, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_unique([figure.name for figure in self.figures], "figure")
        for figure in self.figures:
            check_unique([row.name for row in figure.rows], f"row of {figure.name!r}")
        for claim in self.claims:
            claim.check_names(self.claimable())
        if self.own_prior is not None and self.prior:
            raise ValueError("expected the settings of a prior, or one of one's own, got both")
        if self.figures and self.evaluator is None:
            raise ValueError("expected an evaluator, which judges what attacks rebuild, got none")
        if self.evaluator is not None and self.evaluator.architecture == self.model.architecture:
            raise ValueError(
                f"expected an evaluator of another architecture, got {self.evaluator.architecture!r} twice"
            )
        return self

    @classmethod
    def load(cls, values: object, *, source: str) -> Self:
        """Parses a campaign and validates it as far as possible before a run: it builds every target and attack.

        Raises:
            FileNotFoundError: There is no such embedder or prior.
            ValueError: A row is invalid; the message names ``source``, the row and what was expected.
        """
        config = cls.parse(values, source=source)
        folder, shape = Path(source).parent, (config.dataset.channels, *config.dataset.sides)
        own = {"embedder": config.embedder, "own_prior": config.own_prior}
        found = {name: each.found_from(folder, shape) for name, each in own.items() if each is not None}
        config = config.model_copy(update=found)
        config.prior_settings()
        for attack in config.settings:  # those that no row has, too: the name may be misspelt
            try:
                config.attack_named(attack)
            except ValueError as error:
                raise ValueError(f"{source}: settings of {attack!r}: {error}") from None
        if config.evaluator is not None:
            check_target(partial(config.evaluator_target, 0), config.dataset.data, f"{source}: evaluator")
        for figure, row in config.rows():
            where = f"{source}: figure {figure.name!r}, row {row.name!r}"
            check_target(partial(config.target, row, 0), config.dataset.data, where)
            try:
                config.check_answers(row)
                config.split_of(row)
                PurifierConfig.parse(row.purify or {}, source="purify")
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if (
                "prior" in config.attack(row).needs
                and config.prior.get("conditional")
                and row.auxiliary not in OWN_CLASSES
            ):
                expected = "a prior that is not conditional where the attacker's images are not of the target's classes"
                raise ValueError(f"{where}: expected {expected}, got {row.auxiliary!r}")
            if row.auxiliary == "generic" and row.classes is None:
                raise ValueError(f"{where}: expected `classes` for a generic auxiliary set, whose classes are others")
        return config

    def claimable(self) -> dict[str, list[str]]:
        """The figures that a claim can refer to, each with its rows."""
        return {figure.name: [row.name for row in figure.rows] for figure in self.figures}

    @property
    def dataset(self) -> DatasetEntry:
        """The campaign's one data set."""
        return self.datasets[0]

    def rows(self) -> Iterator[tuple[FigureEntry, RowEntry]]:
        """Every row with its figure, in the order of the file."""
        return ((figure, row) for figure in self.figures for row in figure.rows)

    def split_of(self, row: RowEntry) -> dict[str, Any]:
        """The settings of a row's split, defaults included.

        Raises:
            ValueError: A count does not fit.
        """
        split = PredictionSplit.parse(merged(self.split.document(), row.split), source="split")
        given = {**split.document(), "classes": row.classes}
        if split.generic is None:  # the field is newer than the first recorded results: ids stay
            del given["generic"]
        return given

    def overview(self) -> list[tuple[str, ...]]:
        """The figures' rows: target, output policy, shared scores, auxiliary data and attack."""
        lines: list[tuple[str, ...]] = [("figure", "row", "target", "service", "shared", "auxiliary", "attack")]
        for figure, row in self.rows():
            trained = " → ".join(defense.name for defense in row.defenses)
            target = ", ".join(filter(None, (trained, f"{row.classes} classes" if row.classes else "")))
            service = ", ".join(
                [*(f"{name} {value}" for name, value in row.policy.items()), *["purified"] * bool(row.purify)]
            )
            shared = f"{row.share} highest" if row.share else "all"
            lines.append((figure.name, row.name, target, service, shared, row.auxiliary, row.attack))
        return lines

    def target(self, row: RowEntry, seed: int) -> dict[str, Any]:
        """The settings of ``splitleak train`` for a row's target."""
        training = merged(self.training, row.training)
        return target_document(self.preset, self.dataset, self.model, training, row.defenses, seed)

    def evaluator_target(self, seed: int) -> dict[str, Any]:
        """The settings of ``splitleak train`` for the evaluator."""
        assert self.evaluator is not None
        training = self.evaluator_training
        return target_document(self.preset, self.dataset, self.evaluator, training, (), seed + _OTHER_SEED)

    def attack(self, row: RowEntry) -> Attack | ClassInversion:
        """The attack of a row, see `attack_named`."""
        return self.attack_named(row.attack, row.settings)

    def attack_named(self, name: str, settings: Mapping[str, Any] | None = None) -> Attack | ClassInversion:
        """An attack from the campaign's preset, with the campaign's settings of it, and ``settings`` on top.

        Raises:
            ValueError: There is none of that name, or its settings do not fit it.
        """
        preset = AttackConfig(attack=name, preset=self.preset)
        own = merged(preset.build().config.document(), self.settings.get(name, {}))
        return preset.model_copy(update={"settings": merged(own, settings or {})}).build()

    def prior_settings(self) -> dict[str, Any]:
        """The settings of ``splitleak prior``, defaults included; of a prior of one's own where it is, and its digest.

        Raises:
            ValueError: One does not fit.
        """
        if self.own_prior is not None:
            return {**self.own_prior.document(), "digest": self.own_prior.prior.digest}
        base = PriorConfig.paper() if self.preset == "paper" else PriorConfig()
        return PriorConfig.parse(merged(base.document(), self.prior), source="prior").document()

    def pretrained_target(self, seed: int) -> dict[str, Any]:
        """The settings of ``splitleak train`` for the network that `transfer` starts from."""
        assert self.pretraining is not None
        return target_document(self.preset, self.dataset, self.model, self.pretraining.training, (), seed)

    def transfers(self, row: RowEntry) -> bool:
        """Whether a row's target starts from the campaign's own pre-trained network."""
        started = (each.config["pretrained"] for each in row.defenses if each.name == "transfer")
        return self.pretraining is not None and any(source is None for source in started)

    def asks(self, row: RowEntry) -> Literal["recorded", "live", "nothing"]:
        """How a row's attack queries the service: ahead with public images (recorded), adaptively (live), or not."""
        attack = self.attack(row)
        live = "prior" in attack.needs or (isinstance(attack, ClassInversion) and attack.baseline)
        return "nothing" if "query" not in attack.needs else "live" if live else "recorded"

    def check_answers(self, row: RowEntry) -> None:
        """Validates the attack of a row and its service's policy, and that the one tells what the other needs.

        Raises:
            ValueError: One of them is none, or an attack of scores would ask a service that tells labels alone.
        """
        attack, policy = self.attack(row), self.policy(row)
        of_scores = isinstance(attack, ClassInversion) and attack.access == "score"
        if of_scores and policy["label_only"]:
            raise ValueError(f"expected a service that tells scores, which {row.attack} needs, got one of labels alone")

    def policy(self, row: RowEntry) -> dict[str, Any]:
        """The output policy of a row's service, defaults included, without the path of a purifier.

        Raises:
            ValueError: There is no such policy, or it names a purifier of its own.
        """
        policy = PolicyConfig.parse(row.policy, source="policy")
        if policy.purifier is not None:
            raise ValueError("expected `purify` with a purifier's settings, got a policy with a purifier of its own")
        return policy.document()


class PredictionCampaign(FigureCampaign):
    """A campaign whose figures are written out in its file."""

    kind: Literal["predictions"]
    figures: tuple[FigureEntry, ...] = Field(min_length=1)
