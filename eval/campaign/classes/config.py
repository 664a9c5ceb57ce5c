"""A campaign of model inversion against classes: targets × attacks, expanded into figures of rows."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from splitleak.attacker.auxiliary import Auxiliary
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.search import SearchConfig
from splitleak.config import Config
from splitleak.defenses.base import AdaptiveAttack
from splitleak.defenses.stack import DefenseConfig
from splitleak.eval.campaign.classes.target_measures import TargetMeasuresEntry
from splitleak.eval.campaign.config import Name, check_known, check_target, check_unique
from splitleak.eval.campaign.predictions.config import OWN_CLASSES, FigureCampaign, RowEntry
from splitleak.eval.report.published import defenses as published_defenses

BASELINES = {
    "public by scores": "public-by-scores",
    "public by label": "public-by-label",
    "public by own labels": "public-own-labels",
    "samples by scores": "prior-samples",
    "samples by label": "prior-samples-by-label",
}
"""By the name of their tables, the baselines that every campaign measures beside its attacks; they are in no file."""

STRONGEST = "strongest"
"""Name of a table that is in no file: for each target and seed, the attack with the highest attack accuracy."""


class ClassTargetEntry(Config):
    """A target: a stack of defenses, with its own training settings."""

    name: str = Field(min_length=1, max_length=80)
    defenses: tuple[DefenseConfig, ...] = ()
    training: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's")
    published: str | None = Field(default=None, description="the defense in published tables that it is compared with")

    @field_validator("published")
    @classmethod
    def _is_published(cls, published: str | None) -> str | None:
        if published is not None and published not in published_defenses():
            raise ValueError(f"expected a published defense of {', '.join(published_defenses())}, got {published!r}")
        return published


class ClassAttackEntry(Config):
    """An attack on every target, or on some."""

    name: Name
    attack: str
    settings: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's for this attack")
    adaptive: bool = Field(default=False, description="bypass layers that mask gradients; white box only")
    targets: tuple[str, ...] | None = Field(default=None, description="names; default: all")

    def of_who_knows(self) -> Iterator[tuple[AdaptiveAttack, Self]]:
        """The attack by who knows that a target has a defense, which it would be run on."""
        kind = CLASS_ATTACKS.get(self.attack)
        if kind is None or kind.access != "white" or self.adaptive or isinstance(self.settings.get("identity"), dict):
            return
        yield "gradients", self.model_copy(update={"name": f"{self.name} adaptive", "adaptive": True})
        if issubclass(kind.config_type, SearchConfig):
            settings = {**self.settings, "identity": {"loss": "features"}}
            yield "features", self.model_copy(update={"name": f"{self.name} features", "settings": settings})

    def is_like(self, other: Self) -> bool:
        """Whether it has the name of another, or attacks as that does."""
        return self.name == other.name or self._way == other._way

    @property
    def _way(self) -> tuple[object, ...]:
        return self.attack, self.settings, self.adaptive


class SettingEntry(Config):
    """Private and auxiliary data; without an entry, both are of the same classes and share no image."""

    name: Name
    note: str = ""
    classes: int | None = Field(default=None, ge=2, description="classes of the target, drawn by seed; default: all")
    split: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's")
    auxiliary: Auxiliary = Field(default="same", description="auxiliary data; generic: of all other classes")
    targets: tuple[str, ...] | None = Field(default=None, description="names; default: all")
    attacks: tuple[str, ...] | None = Field(default=None, description="names; default: all")


class _Grid(Config):
    """The entries that the figures are expanded from."""

    targets: tuple[ClassTargetEntry, ...] = Field(min_length=1)
    attacks: tuple[ClassAttackEntry, ...] = Field(default=(), description="may be none where there is [besides]")
    private: tuple[SettingEntry, ...] = Field(default=(SettingEntry(name="same classes"),), min_length=1)
    adaptive: bool = Field(
        default=True, description="run attacks that know the defense too, on every target that has one to get past"
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        targets, attacks = ([entry.name for entry in entries] for entries in (self.targets, self.attacks))
        check_unique(targets, "target")
        check_unique([*attacks, *BASELINES], "attack")
        for attack in self.attacks:
            check_known(attack.targets, targets)
        for setting in self.private:
            check_known(setting.targets, targets)
            check_known(setting.attacks, attacks)
        return self

    def with_adaptive(self) -> Self:
        """The grid with the adaptive attacks that its targets' defenses have (`Defense.adaptive_attacks`).

        Each white-box attack on such targets is followed by one with gradients past what masks them, and one on the
        features before the head. Where the file has that attack, those of these targets that it lacks are added to it.
        """
        if not self.adaptive:
            return self
        known = {each.name: {way for step in each.defenses for way in step.adaptive_attacks} for each in self.targets}
        entries, followed = {attack.name: attack for attack in self.attacks}, dict[str, list[str]]()
        for attack in self.attacks:
            allowed = attack.targets or tuple(known)
            for way, variant in attack.of_who_knows():
                targets = [name for name in allowed if way in known[name]]
                entry = next((each for each in entries.values() if each.is_like(variant)), None)
                if entry is None:
                    entry = variant.model_copy(update={"targets": ()})
                if not targets:
                    continue
                if entry.targets is not None:
                    chosen = tuple(name for name in known if name in {*entry.targets, *targets})
                    entry = entry.model_copy(update={"targets": chosen})
                entries[entry.name] = entry
                followed.setdefault(attack.name, []).append(entry.name)
        private = [
            setting.model_copy(
                update={"attacks": None if setting.attacks is None else _followed(setting.attacks, followed)}
            )
            for setting in self.private
        ]
        return self.model_copy(update={"attacks": tuple(entries.values()), "private": tuple(private)})

    def expanded(self) -> list[dict[str, Any]]:
        """The figures, one for each setting and attack, in this order; a setting's baselines before its attacks."""
        figures = []
        for place, setting in enumerate(self.private):
            attacks = [each for each in self.attacks if setting.attacks is None or each.name in setting.attacks]
            for attack in (*_baselines(setting, attacks), *attacks):
                name = f"{attack.name} - {setting.name}" if place else attack.name
                rows = [
                    self._row(setting, attack, target)
                    for target in self.targets
                    if (attack.targets is None or target.name in attack.targets)
                    and (setting.targets is None or target.name in setting.targets)
                ]
                if rows:
                    figures.append({"name": name, "title": name, "note": setting.note, "rows": rows})
        return figures

    @staticmethod
    def _row(setting: SettingEntry, attack: ClassAttackEntry, target: ClassTargetEntry) -> dict[str, Any]:
        return {
            "name": target.name,
            "classes": setting.classes,
            "split": setting.split,
            "defenses": [defense.document() for defense in target.defenses],
            "training": target.training,
            "auxiliary": setting.auxiliary,
            "attack": attack.attack,
            "settings": attack.settings,
            "adaptive": attack.adaptive,
        }


def _followed(attacks: Sequence[str], followed: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names of attacks, each with those that follow it."""
    return tuple(dict.fromkeys(name for attack in attacks for name in (attack, *followed.get(attack, ()))))


def _baselines(setting: SettingEntry, attacks: Sequence[ClassAttackEntry]) -> Iterator[ClassAttackEntry]:
    """What the attacker has before any of ``attacks``: all baselines that need no more than one of these is given."""
    kinds = [kind for attack in attacks if (kind := CLASS_ATTACKS.get(attack.attack)) is not None]
    searching = [kind for kind in kinds if "prior" in kind.needs]
    for name, baseline in BASELINES.items() if kinds else ():
        needs, access = CLASS_ATTACKS[baseline].needs, CLASS_ATTACKS[baseline].access
        if "prior" in needs and not any(access == "score" or kind.access == access for kind in searching):
            continue
        if "labels" not in needs or setting.auxiliary in OWN_CLASSES:
            yield ClassAttackEntry(name=name, attack=baseline)


class ClassCampaign(FigureCampaign, _Grid):
    """Settings × attacks × targets × seeds; each setting and attack is a figure, and each target a row of it."""

    kind: Literal["classes"]
    besides: TargetMeasuresEntry | None = Field(
        default=None, description="other measures of the targets, on the first setting"
    )
    strongest: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="by name, further groups of attacks to find the strongest in, beside that of all",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_figures(cls, values: object) -> object:
        """Adds the adaptive attacks and expands the figures, and replaces those of an earlier expansion."""
        if not isinstance(values, dict):
            return values
        given = {name: values[name] for name in _Grid.model_fields if name in values}
        grid = _Grid.parse(given, source="the campaign").with_adaptive()
        entries = {name: grid.document()[name] for name in ("attacks", "private") if name in values}
        return {**values, **entries, "figures": grid.expanded()}

    @model_validator(mode="after")
    def _strongest_of_attacks(self) -> Self:
        known = [attack.name for attack in self.attacks]
        for name, attacks in self.strongest.items():
            check_known(attacks, known, f" in {name!r}")
            if name == STRONGEST or name in super().claimable():
                raise ValueError(f"expected another name than that of a figure, got {name!r}")
        return self

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.besides is None:
            if not self.figures:
                raise ValueError("expected attacks, or a table [besides], got neither")
            return self
        if self.besides.extraction is not None:
            known = [attack.name for attack in self.attacks]
            check_known(self.besides.extraction.attacks, known, " in extraction")
        if self.besides.training_time is not None:
            self.undefended()
        return self

    @classmethod
    def load(cls, values: object, *, source: str) -> Self:
        config = super().load(values, source=source)
        for row in config.bare_rows():
            check_target(partial(config.target, row, 0), config.dataset.data, f"{source}: target {row.name!r}")
        return config

    def bare_rows(self) -> list[RowEntry]:
        """A row for each target on the first setting, without an attack; in no figure."""
        setting = self.private[0]
        return [
            RowEntry(
                name=target.name,
                classes=setting.classes,
                split=setting.split,
                defenses=target.defenses,
                training=target.training,
            )
            for target in self.targets
            if setting.targets is None or target.name in setting.targets
        ]

    def undefended(self) -> str:
        """The first target without a defense, the baseline for the others.

        Raises:
            ValueError: All targets have defenses.
        """
        names = [row.name for row in self.bare_rows() if not row.defenses]
        if not names:
            raise ValueError("expected a target without defenses, by which training times are measured, got none")
        return names[0]

    def overview(self) -> list[tuple[str, ...]]:
        if self.besides is None:
            return super().overview()
        return [*super().overview(), ("besides", "every target", "", "", "", "", self.besides.summary())]

    def claimable(self) -> dict[str, list[str]]:
        targets = [target.name for target in self.targets]
        return {**super().claimable(), **dict.fromkeys((STRONGEST, *self.strongest), targets)}
