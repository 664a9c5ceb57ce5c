"""Measures what split inference leaks, and what each defense costs.

As a library: `scan` a network, or `capture` what crosses a cut, `attack` it and `score` what was rebuilt; `linkage` is
what it tells without a picture, `defend` adds a defense, `Knowledge` and `Query` are the threat model as types,
`ATTACKS` and `DEFENSES` the tables of both by name. To import the package loads neither torch nor ONNX Runtime; that
happens when one of these is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitleak.attacker.base import Knowledge, Query
    from splitleak.attacker.reconstruction import ATTACKS
    from splitleak.defenses import DEFENSES
    from splitleak.library import Rebuilt, attack, capture, defend, linkage, scan, score

_PLACES = {
    "ATTACKS": "splitleak.attacker.reconstruction",
    "DEFENSES": "splitleak.defenses",
    "Knowledge": "splitleak.attacker.base",
    "Query": "splitleak.attacker.base",
    "Rebuilt": "splitleak.library",
    "attack": "splitleak.library",
    "capture": "splitleak.library",
    "defend": "splitleak.library",
    "linkage": "splitleak.library",
    "scan": "splitleak.library",
    "score": "splitleak.library",
}

__all__ = [  # as the names above, which a test holds
    "ATTACKS",
    "DEFENSES",
    "Knowledge",
    "Query",
    "Rebuilt",
    "attack",
    "capture",
    "defend",
    "linkage",
    "scan",
    "score",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'splitleak' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
