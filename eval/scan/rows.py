"""One row of a scan: a place with a defense, what is fitted there, and what it rebuilds of the victims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from splitleak.attacker.training.ridge import LinearMap, RidgeGauge
from splitleak.eval.scan.defended import Defended
from splitleak.measures.linkage.plda import Plda, likeliest
from splitleak.measures.linkage.refinding import found_again, nearest

_CONSTANT = 1e-6  # of a feature's largest value: pictures that change it by less do not change it,
_TELLING = 0.9  # unless a map of it has so much less of an error than the mean image
_ERRORS = ("held_out_mse", "mean_image_mse")
OWN = "own "  # before the kind of what is seen again of the first public pictures

NOT_FINITE = "its features are not all finite"
CONSTANT = "its features are the same for all pictures"
"""Why a place was not measured."""


@dataclass
class Form:
    """One way to lay out what is sent: as ``shape``, once it is put in ``order`` (None: as it is), and its gauge."""

    gauge: RidgeGauge
    shape: tuple[int, ...]
    order: Tensor | None = None
    rebuilt: list[Tensor] = field(default_factory=list)
    fitted: LinearMap | None = None

    def laid_out(self, features: Tensor) -> Tensor:
        """Features ``(B, *shape)`` as this form's gauge takes them."""
        flat = features.flatten(1)
        return (flat if self.order is None else flat[:, self.order]).reshape(len(features), *self.shape)


@dataclass
class Row:
    """A place with a defense, its gauges, and sketches of the features of each set of images."""

    place: str
    tensors: tuple[str, ...]
    about: Mapping[str, Any]
    sent: Defended
    forms: Sequence[Form]
    coordinates: Tensor
    sketches: dict[str, list[Tensor]] = field(default_factory=dict)
    finite: bool = True
    varies: bool = False
    first: Tensor | None = None

    @property
    def bytes(self) -> int:
        """About what its gauges take in memory."""
        return sum(form.gauge.bytes for form in self.forms)

    @property
    def unmeasured(self) -> str | None:
        """Why its figures say nothing of what leaks; None: they do."""
        if not self.finite:
            return NOT_FINITE
        return None if self.varies or self._told() else CONSTANT

    def _told(self) -> bool:
        """Whether a map rebuilds held-out pictures: beside one huge value, what the others tell seems not to vary."""
        errors = ([float(str(form.gauge.findings[name])) for name in _ERRORS] for form in self.forms)
        return any(error < _TELLING * of_mean for error, of_mean in errors)

    def take(self, kind: str, values: Mapping[str, Tensor], images: Tensor) -> None:
        """Takes the tensors of a batch of ``kind``: learns from public ones, rebuilds victims."""
        features = self.sent.defend(packed(values, self.tensors))
        self.finite = self.finite and bool(features.isfinite().all())
        if not self.finite:
            return
        if not self.varies and kind in ("public", "victims"):
            self.first = features[:1] if self.first is None else self.first
            largest = float(self.first.abs().max())
            self.varies = bool(((features - self.first).abs() > _CONSTANT * largest).any())
        self.sketches.setdefault(kind, []).append(features.flatten(1)[:, self.coordinates])
        for form in self.forms:
            if kind == "public":
                form.gauge.add(form.laid_out(features), images)
            elif kind == "victims":
                assert form.fitted is not None
                form.rebuilt.append((form.fitted.predict(form.laid_out(features)) * 255).round().byte())

    def solve(self) -> None:
        """Fits the maps, once all public pictures were taken."""
        if self.finite:
            for form in self.forms:
                form.fitted = form.gauge.solve()

    def best(self) -> tuple[Form, Tensor]:
        """The form that rebuilds the held-out public pictures best, and what it makes of victims ``(N, C, H, W)``."""
        chosen = min(self.forms, key=lambda form: float(str(form.gauge.findings["held_out_mse"])))
        return chosen, torch.cat(chosen.rebuilt)

    def nearest(self) -> tuple[Tensor, dict[str, Tensor]]:
        """By features: the nearest public image to each victim; and how likely a victim, encoded anew, is found again.

        It is found as the nearest or as the likeliest, see `Plda`, by whichever finds more.
        """
        found = {kind: torch.cat(parts) for kind, parts in self.sketches.items()}
        public, victims = found.pop("public"), found.pop("victims")
        own = {kind.removeprefix(OWN): found.pop(kind) for kind in list(found) if kind.startswith(OWN)}
        told = {kind: found_again(other, victims) for kind, other in ({"again": victims} | found).items()}
        for kind, again in own.items():
            likely = Plda.fit(public[: len(again)], again).scores(found[kind], victims)
            told[kind] = max(told[kind], likeliest(likely), key=Tensor.mean)
        return nearest(victims, public), told


def packed(values: Mapping[str, Tensor], tensors: Sequence[str]) -> Tensor:
    """What crosses of a batch: the tensor ``(B, *shape)``, or several as ``(B, d)``."""
    if len(tensors) == 1:
        return values[tensors[0]]
    return torch.cat([values[name].flatten(1) for name in tensors], 1)
