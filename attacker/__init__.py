"""The attacker: a tap on the wire, what it may know, and attacks, one a file."""

from typing import Any

from splitleak.tables import Imported, Table

PRIORS: Table[Any] = Table(
    "kind of prior",
    {
        "gan": Imported("splitleak.attacker.prior:GAN"),
        "diffusion": Imported("splitleak.attacker.diffusion:DIFFUSION"),
    },
)
"""Kinds of priors by name, see `PriorKind`."""
