"""An audit's settings, and the file of a campaign that audits one target that is there."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from splitleak.config import Config
from splitleak.eval.campaign.audit import THREATS
from splitleak.wire.protocol import Codec

AUDIT = "audit"
"""The name under which a campaign's attack is the whole list."""

VERSION = "audit 2"
"""The list's name and version. Its figures are compared with those of the same version only."""

UNVERSIONED = "audit 1"
"""The list of the campaigns on record whose settings do not name one."""

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


def after(attack: str, crossings: int) -> str:
    """The name of an attack on the mean of several crossings.

    >>> after("decoder", 16)
    'decoder 16 crossings'
    """
    return f"{attack} {crossings} crossings"


def kind_of(attack: str) -> str:
    """The name without the crossings.

    >>> kind_of("decoder mirrored 16 crossings"), kind_of("decoder")
    ('decoder mirrored', 'decoder')
    """
    return re.sub(r" \d+ crossings$", "", attack)


Threat = Annotated[str, AfterValidator(THREATS.known)]
"""What the attacker has beside the wire, of `THREATS`."""


def _the_list_there_is(version: str) -> str:
    if version != VERSION:
        raise ValueError(f"expected {VERSION}, which this splitleak has, got {version}")
    return version


class AuditConfig(Config):
    """The threat model, and a budget of time."""

    version: Annotated[str, AfterValidator(_the_list_there_is)] = Field(
        default=VERSION, description="of the list; only the one that there is"
    )

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
