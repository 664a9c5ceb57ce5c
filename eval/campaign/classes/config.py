"""A campaign against what a model remembers of its classes: targets × attacks, spelled out as figures of rows."""

from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from splitleak.attacker.auxiliary import Auxiliary
from splitleak.config import Config
from splitleak.defenses.stack import DefenseConfig
from splitleak.eval.campaign.classes.target_measures import BesidesEntry
from splitleak.eval.campaign.config import Name, check_target
from splitleak.eval.campaign.predictions.config import FigureCampaign, RowEntry
from splitleak.eval.report.published import defenses as published_defenses

STRONGEST = "strongest"
"""The table that no file writes: of each target of a campaign against classes, the attack that did most in a seed."""


class ClassTargetEntry(Config):
    """A target: a stack of defenses, and what differs in its training."""

    name: str = Field(min_length=1, max_length=80)
    defenses: tuple[DefenseConfig, ...] = ()
    training: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's")
    published: str | None = Field(default=None, description="the defense of published tables that ours is set beside")

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
    adaptive: bool = Field(default=False, description="on the model without what hides its gradients; white boxes only")
    targets: tuple[str, ...] | None = Field(default=None, description="names; default: all")


class SettingEntry(Config):
    """Whose images are private and whose public; without an entry, the same classes and no image of both."""

    name: Name
    note: str = ""
    classes: int | None = Field(default=None, ge=2, description="classes of the target, drawn by seed; default: all")
    split: dict[str, Any] = Field(default_factory=dict, description="on top of the campaign's")
    auxiliary: Auxiliary = Field(default="same", description="the attacker's images; generic: of all other classes")
    targets: tuple[str, ...] | None = Field(default=None, description="names; default: all")
    attacks: tuple[str, ...] | None = Field(default=None, description="names; default: all")


class _Grid(Config):
    """What figures are made of."""

    targets: tuple[ClassTargetEntry, ...] = Field(min_length=1)
    attacks: tuple[ClassAttackEntry, ...] = Field(default=(), description="may be none where there is [besides]")
    private: tuple[SettingEntry, ...] = Field(default=(SettingEntry(name="same classes"),), min_length=1)

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        targets, attacks = ([entry.name for entry in entries] for entries in (self.targets, self.attacks))
        if len(set(targets)) != len(targets):
            raise ValueError(f"expected every target to have a name of its own, got {targets}")
        named = [(entry.targets, targets) for entry in self.attacks]
        named += [(entry.targets, targets) for entry in self.private]
        named += [(entry.attacks, attacks) for entry in self.private]
        for names, known in named:
            if strange := set(names or ()) - set(known):
                raise ValueError(f"expected names of {', '.join(known)}, got {', '.join(sorted(strange))}")
        return self

    def spelled_out(self) -> list[dict[str, Any]]:
        """One for each setting and attack, in this order."""
        found = []
        for place, setting in enumerate(self.private):
            for attack in self.attacks:
                if setting.attacks is not None and attack.name not in setting.attacks:
                    continue
                name = f"{attack.name} - {setting.name}" if place else attack.name
                rows = [
                    self._row(setting, attack, target)
                    for target in self.targets
                    if (attack.targets is None or target.name in attack.targets)
                    and (setting.targets is None or target.name in setting.targets)
                ]
                if rows:
                    found.append({"name": name, "title": name, "note": setting.note, "rows": rows})
        return found

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


class ClassCampaign(FigureCampaign, _Grid):
    """Settings × attacks × targets × seeds; each setting and attack is a figure, and each target a row of it."""

    kind: Literal["classes"]
    besides: BesidesEntry | None = Field(
        default=None, description="what else is measured; of targets on the first setting"
    )
    strongest: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="by a name of one's own, attacks among which the strongest is looked for too; beside that of all",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_figures(cls, values: object) -> object:
        """Writes the figures, in place of those of a former reading."""
        if not isinstance(values, dict):
            return values
        grid = {name: values[name] for name in _Grid.model_fields if name in values}
        return {**values, "figures": _Grid.parse(grid, source="the campaign").spelled_out()}

    @model_validator(mode="after")
    def _strongest_of_attacks(self) -> Self:
        known = [attack.name for attack in self.attacks]
        for name, attacks in self.strongest.items():
            if strange := set(attacks) - set(known):
                raise ValueError(f"expected names of {', '.join(known)} in {name!r}, got {', '.join(sorted(strange))}")
            if name == STRONGEST or name in super().claimable():
                raise ValueError(f"expected another name than that of a figure, got {name!r}")
        return self

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.besides is None:
            if not self.figures:
                raise ValueError("expected attacks, or a table [besides], got neither")
            return self
        known = [attack.name for attack in self.attacks]
        asked = self.besides.extraction.attacks if self.besides.extraction else ()
        if strange := set(asked) - set(known):
            raise ValueError(f"expected names of {', '.join(known)} in extraction, got {', '.join(sorted(strange))}")
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
        """The targets on the first setting, without an attack: rows of no figure."""
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
        """The first target without a defense, which others are measured by.

        Raises:
            ValueError: There is none.
        """
        names = [row.name for row in self.bare_rows() if not row.defenses]
        if not names:
            raise ValueError("expected a target without defenses, by which training times are measured, got none")
        return names[0]

    def overview(self) -> list[tuple[str, ...]]:
        told = [] if self.besides is None else [("besides", "every target", "", "", "", "", self.besides.told())]
        return [*super().overview(), *told]

    def claimable(self) -> dict[str, list[str]]:
        found = super().claimable()
        targets = [target.name for target in self.targets]
        return {**found, **{name: targets for name in (STRONGEST, *self.strongest)}}
