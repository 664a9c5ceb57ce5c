"""An attack's output folder, which the judge scores: reconstructions, record and weights."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitleak.artifacts import provenance, save_weights, write_json, written_file, written_folder
from splitleak.attacker.base import Knowledge, Method, Shapes
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge
from splitleak.config import digest
from splitleak.datasets.images import Images
from splitleak.npz import open_npz
from splitleak.outputs import FolderKind

SERVED, APART = "served", "apart"  # of what a network from features to images was trained on, beside its weights
WEIGHTS = "weights.safetensors"
ATTACK = FolderKind(("attack", "invert"), "attack.json", ("reconstructions.npz", WEIGHTS))
_NOT_NAMED = frozenset({"captured", "image_shape", "kind", "parts", "simulate"})  # known to all, or by a half


@dataclass(frozen=True)
class Reconstructions:
    """Reconstructed images ``(N, C, H, W)`` in [0, 1], each under the request id of its victim.

    An image of a class has the class's number as id, ``3``; if there are several of each, ``3/0`` and so on.
    ``public`` binds them to the whole list of the attacker's own images in ``attack.json``; older ones tell none.
    """

    ids: tuple[str, ...]
    images: Tensor
    public: str | None = None  # digest of the sorted hashes of these

    @classmethod
    def of_classes(cls, images: Tensor) -> "Reconstructions":
        """Those of images ``(K, R, C, H, W)``, R of each class."""
        classes, each = images.shape[:2]
        ids = (str(label) if each == 1 else f"{label}/{turn}" for label in range(classes) for turn in range(each))
        return cls(tuple(ids), images.flatten(0, 1))

    def by_class(self, classes: int) -> Tensor:
        """The images as ``(K, R, C, H, W)``, whatever their order.

        Raises:
            ValueError: There is not the same number of them for each class, under the ids of `of_classes`.
        """
        each = max(1, len(self.ids) // classes)
        expected = self.of_classes(torch.empty(classes, each, 0)).ids
        if sorted(self.ids) != sorted(expected):
            what = f"one picture, or as many, for each of {classes} classes"
            raise ValueError(f"expected {what}, got {len(self.ids)}: {self.ids[:3]}...")
        places = {name: place for place, name in enumerate(self.ids)}
        ordered: Tensor = self.images[[places[name] for name in expected]].unflatten(0, (classes, each))
        return ordered

    def check(self, source: str) -> None:
        """Refuses what no picture is.

        Raises:
            ValueError: Images that are not floats in [0, 1], with counts, or not one of each id; names ``source``.
        """
        images, expected = self.images, f"{source}: expected float images (N, C, H, W) in [0, 1], each under its own id"
        if images.ndim != 4 or not images.dtype.is_floating_point:
            raise ValueError(f"{expected}, got {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}")
        if not len(images) == len(self.ids) == len(set(self.ids)):
            raise ValueError(f"{expected}, got {len(images)} images and {len(set(self.ids))} different ids")
        wrong = ~((images >= 0) & (images <= 1))  # which NaN is not
        if wrong.any():
            nan, infinite, whole = int(images.isnan().sum()), int(images.isinf().sum()), images[images.isfinite()]
            outside = int(wrong.sum()) - nan - infinite
            span = f", from {whole.min():g} to {whole.max():g}" if outside else ""
            counts = f"{nan} NaN, {infinite} infinite and {outside} outside{span}"
            of = f"{images.numel()} values, in {int(wrong.flatten(1).any(1).sum())} of {len(images)} images"
            raise ValueError(f"{expected}, got {counts} of {of}")

    def save(self, path: Path) -> None:
        """Writes an ``.npz`` of ``ids``, ``images`` and, if it is told, ``public``, whole or not at all.

        Raises:
            ValueError: An image is none, see `check`.
        """
        self.check(str(path))
        with written_file(path) as partial, partial.open("wb") as file:
            arrays = {"ids": np.array(self.ids), "images": self.images.numpy()}
            arrays |= {} if self.public is None else {"public": np.array(self.public)}
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Reconstructions":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else, or images that are none, see `check`.
        """
        with open_npz(path, "what `splitleak attack` writes") as file:
            public = str(file["public"]) if "public" in file.names else None
            found = cls(tuple(map(str, file["ids"])), torch.from_numpy(file["images"]), public)
        found.check(str(path))
        return found


def described(
    attack: Method,
    known: Knowledge | ClassKnowledge,
    public: Images | None,
    *,
    seed: int,
    views: int,
    adaptive: bool = False,
    models: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What ``attack.json`` says of an attack before it runs: what it is, and what it knows.

    Of an attack on classes it says also whether it ``ignores_output_policy`` (no policy of the service can change what
    it finds), and the least ``access`` to the model that it needs.

    Args:
        attack: The attack.
        known: What it is let to know.
        public: Its own images, which are recorded by hash, as are those of its prior.
        seed: Of the run.
        views: Requests of which each captured feature, and each answer to a query, is the mean.
        adaptive: Whether it has the weights without what hides gradients.
        models: Digests of the models that it was handed, ``edge`` and ``cloud`` halves or a whole ``artifact``.
    """
    given = {each.name for each in fields(known) if getattr(known, each.name) is not None}
    hashes = [] if public is None else public.hashes()
    prior = known.prior
    if prior is not None:
        hashes += sorted(set(prior.document.public_hashes) - set(hashes))
    record = {
        "attack": attack.name,
        "config": attack.config.document(),
        "draws": 1 if known.query is None else known.query.draws,
        "knowledge": sorted(given - _NOT_NAMED),
        "public_hashes": hashes,
        "seed": seed,
        "views": views,
        "models": dict(models or {}),
    }
    if isinstance(known, Knowledge):
        record["captured"] = hashlib.sha256(known.captured.contiguous().numpy().tobytes()).hexdigest()[:12]
    if isinstance(attack, ClassInversion):
        record |= {"ignores_output_policy": attack.ignores_output_policy(), "access": attack.access}
    if adaptive:
        record["adaptive"] = True
    if prior is not None:
        record["prior"] = prior.digest
    return record


def write_result(
    out: Path,
    attack: Method,
    made: Reconstructions,
    known: Knowledge | ClassKnowledge,
    about: Mapping[str, Any],
    *,
    trained_on: Callable[[], Mapping[str, str]] = dict,
) -> dict[str, Any]:
    """Writes the folder ``out``, whole or not at all: ``reconstructions.npz``, ``attack.json``, weights if it has any.

    Args:
        out: The folder.
        attack: After its run.
        made: What it rebuilt.
        known: What it was let to know.
        about: What `described` gave.
        trained_on: Gives `SERVED` and `APART`, where they are known: kept beside the weights, if there are any.

    Returns:
        The gist of it: ``folder``, ``rebuilt`` (images), ``queries`` (images sent), and ``findings`` but for lists.
    """
    queries = 0 if known.query is None else known.query.made
    draws = 1 if known.query is None else known.query.draws
    found = {
        "queries": queries,
        "asked": draws,  # for each of its own images; a live target that draws anew, as often as the attack chose
        "rebuilt": len(made.images),
        "findings": attack.findings,
        "provenance": provenance(),
    }
    with written_folder(out, ATTACK) as partial:
        bound = replace(made, public=digest(sorted(about["public_hashes"])))
        bound.save(partial / "reconstructions.npz")
        if weights := attack.weights():
            save_weights(partial / WEIGHTS, weights, {**_fitted_to(known), **trained_on()})
        write_json(partial / ATTACK.mark, {**about, **found})
    findings = {name: value for name, value in attack.findings.items() if not isinstance(value, list)}
    return {"folder": str(out), "rebuilt": len(made.images), "queries": queries, "findings": findings}


def _fitted_to(known: Knowledge | ClassKnowledge) -> dict[str, str]:
    """What a network from features to images was trained for, as `Attack.untrained` takes it."""
    if isinstance(known, ClassKnowledge):
        return {}
    return {name: json.dumps(value) for name, value in asdict(Shapes.of(known)).items()}
