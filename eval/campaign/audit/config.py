"""An audit's settings, and the file of a campaign that audits one target that is there."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field

from splitleak.config import Config
from splitleak.eval.campaign.audit import THREATS
from splitleak.wire.protocol import Codec

AUDIT = "audit"
"""The name under which a campaign's attack is the whole list."""

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
