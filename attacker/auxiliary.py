"""Kinds of auxiliary images: what the attacker's own images are to those the target was trained on.

The first three are the settings of Yang, Zhang, Chang and Liang, "Neural network inversion in adversarial setting via
background knowledge alignment", CCS 2019, section 5.1; the last is that of the older works they compare with, and of a
malicious developer.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from splitleak.tables import Table


@dataclass(frozen=True)
class AuxiliaryKind:
    """What images of the kind must be; None: either will do. No kind holds an image of a victim."""

    about: str
    data_set: Literal["same", "other"] | None = None  # beside the target's
    classes: Literal["own", "other"] | None = None  # the target's, or none of them in the same data set
    trained_on: bool = False  # whether the target was trained on some of them, or on none


AUXILIARY: Table[AuxiliaryKind] = Table(
    "kind of auxiliary images",
    {
        "same": AuxiliaryKind("other images of the target's own classes", data_set="same", classes="own"),
        "generic": AuxiliaryKind(
            "images of other classes; they may come from another data set of the same kind, as Yang et al.'s faces do",
            classes="other",
        ),
        "distinct": AuxiliaryKind("images of another data set", data_set="other"),
        "training": AuxiliaryKind(
            "images that the target was trained on, as a malicious developer has them",
            data_set="same",
            classes="own",
            trained_on=True,
        ),
    },
)

Auxiliary = Annotated[str, AfterValidator(AUXILIARY.known)]
"""The name of a kind of auxiliary images."""
