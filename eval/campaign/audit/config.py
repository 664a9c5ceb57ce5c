"""An audit's settings, and the file of a campaign that audits one target that is there."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from splitleak.config import Config
from splitleak.eval.campaign.audit import THREATS
from splitleak.wire.protocol import Codec

AUDIT = "audit"
"""The name under which a campaign's attack is the whole list."""

_APART = " - "


def column_of(audit: str, attack: str) -> str:
    """The column of a campaign's report for one attack of an audit, each by its name."""
    return f"{audit}{_APART}{attack}"


def names_in(column: str | None) -> tuple[str, str]:
    """The names of audit and attack in a column; no audit, of another column.

    >>> names_in("audit - decoder"), names_in("decoder")
    (('audit', 'decoder'), ('', 'decoder'))
    """
    audit, _, attack = (column or "").rpartition(_APART)
    return audit, attack


Threat = Annotated[str, AfterValidator(THREATS.known)]
"""What the attacker has beside the wire, of `THREATS`."""


class AuditConfig(Config):
    """The threat model, and a budget of time."""

    threat: Threat = Field(default="black-box", description="what the attacker has beside the wire")
    minutes: float = Field(default=15, gt=0, description="nominal, of one core, for all attacks on a target")


class AuditedTarget(Config):
    """A target that ``splitleak train`` or ``splitleak import`` wrote, and its images."""

    artifact: Path
    images: Path = Field(description="folder of `splitleak split`")
    codec: Codec = "fp32"

    @classmethod
    def found(cls, artifact: Path, images: Path, codec: str) -> Self:
        """With absolute paths.

        Raises:
            FileNotFoundError: One of them is not there.
        """
        for path in (artifact, images):
            if not path.is_dir():
                raise FileNotFoundError(f"expected a folder at {path}, found none")
        about = {"artifact": artifact.resolve(), "images": images.resolve(), "codec": codec}
        return cls.parse(about, source="target")
