"""The measures of each target other than attacks in a campaign against classes; the file's table ``[besides]``."""

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import Field, model_validator

from splitleak.config import Config
from splitleak.eval.campaign.config import Name
from splitleak.eval.targets.backdoor import PoisonConfig
from splitleak.eval.targets.knowledge_extraction import ExtractionConfig
from splitleak.eval.targets.robustness import RobustnessConfig
from splitleak.eval.targets.training_time import TimeConfig

_Settings = TypeVar("_Settings", bound=Config)


class ExtractionEntry(Config):
    """Knowledge extraction: the attacks whose pictures a student is trained on."""

    attacks: tuple[Name, ...] = Field(min_length=1)
    student: dict[str, Any] = Field(default_factory=dict, description="of `ExtractionConfig`")


class TargetMeasuresEntry(Config):
    """Measures of all targets on the first setting; accuracy, confidence and parameters are always measured.

    Settings contain no seed: it is that of the target.
    """

    robustness: dict[str, Any] | None = Field(default=None, description="of `RobustnessConfig`; default: none of it")
    training_time: dict[str, Any] | None = Field(default=None, description="of `TimeConfig`; default: not measured")
    extraction: ExtractionEntry | None = None
    backdoors: tuple[dict[str, Any], ...] = Field(
        default=(), description="of `PoisonConfig`; each is one more training of every target"
    )

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        given = {"robustness": self.robustness or {}, "training_time": self.training_time or {}}
        given |= {} if self.extraction is None else {"extraction": self.extraction.student}
        given |= {f"backdoor {index + 1}": each for index, each in enumerate(self.backdoors)}
        if seeded := [name for name, settings in given.items() if "seed" in settings]:
            raise ValueError(f"expected no seed, which is the target's, got one in {', '.join(seeded)}")
        self.robust(0), self.timed(), self.student(0)
        names = list(map(backdoor_name, self.poisons(0)))
        if len(set(names)) != len(names):
            raise ValueError(f"expected backdoors of different triggers or fractions, got {names}")
        return self

    def robust(self, seed: int) -> RobustnessConfig:
        """The settings of ``splitleak robustness``."""
        return _seeded(RobustnessConfig, self.robustness or {}, seed, "robustness")

    def timed(self) -> TimeConfig:
        """The settings of ``splitleak training-time``."""
        return TimeConfig.parse(self.training_time or {}, source="training_time")

    def student(self, seed: int) -> ExtractionConfig:
        """The settings of ``splitleak extraction``."""
        return _seeded(ExtractionConfig, self.extraction.student if self.extraction else {}, seed, "extraction")

    def poisons(self, seed: int) -> list[PoisonConfig]:
        """The settings of ``splitleak poison``, one for each backdoor."""
        return [_seeded(PoisonConfig, each, seed, "backdoors") for each in self.backdoors]

    def summary(self) -> str:
        """All measures in a line."""
        names = ["confidence"]
        names += [name for name in ("robustness", "training_time") if getattr(self, name) is not None]
        names += [f"extraction from {name}" for name in (self.extraction.attacks if self.extraction else ())]
        return ", ".join([*names, *map(backdoor_name, self.poisons(0))])


def backdoor_name(config: PoisonConfig) -> str:
    """A backdoor's name in a report.

    >>> backdoor_name(PoisonConfig(trigger="blended", fraction=0.05))
    'blended 5 %'
    """
    return f"{config.trigger} {100 * config.fraction:g} %"


def _seeded(kind: type[_Settings], settings: Mapping[str, Any], seed: int, source: str) -> _Settings:
    return kind.parse({**settings, "seed": seed}, source=source)
