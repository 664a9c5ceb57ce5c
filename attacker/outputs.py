"""An attack's output folder, which the judge scores: reconstructions, record and weights."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitleak.artifacts import provenance, save_tensors, write_json, written_file, written_folder
from splitleak.attacker.base import Knowledge, Method
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge
from splitleak.datasets.images import Images

_ALWAYS_KNOWN = frozenset({"captured", "image_shape"})


@dataclass(frozen=True)
class Reconstructions:
    """Reconstructed images ``(N, C, H, W)`` in [0, 1], each under the request id of its victim.

    An image of a class has the class's number as id, ``3``; if there are several of each, ``3/0`` and so on.
    """

    ids: tuple[str, ...]
    images: Tensor

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

    def save(self, path: Path) -> None:
        """Writes an ``.npz`` of ``ids`` and ``images``, whole or not at all."""
        with written_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, ids=np.array(self.ids), images=self.images.numpy())

    @classmethod
    def load(cls, path: Path) -> "Reconstructions":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(tuple(map(str, file["ids"])), torch.from_numpy(file["images"]))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: expected what `splitleak attack` writes, but {error}") from None


def write_result(
    out: Path,
    attack: Method,
    made: Reconstructions,
    known: Knowledge | ClassKnowledge,
    public: Images | None,
    *,
    seed: int,
    views: int,
    adaptive: bool = False,
) -> dict[str, Any]:
    """Writes the folder ``out``, whole or not at all: ``reconstructions.npz``, ``attack.json``, weights if it has any.

    ``attack.json`` says what the attack is, what it knew and what it found. Of an attack on classes it says also
    whether it ``ignores_output_policy`` (no policy of the service can change what it finds), and the least ``access``
    to the model that it needs.

    Args:
        out: The folder.
        attack: After its run.
        made: What it rebuilt.
        known: What it was let to know.
        public: Its own images, which are recorded by hash, as are those of its prior.
        seed: Of the run.
        views: Requests of which each captured feature, and each answer to a query, is the mean.
        adaptive: Whether it had the weights without what hides gradients.

    Returns:
        The gist of it: ``folder``, ``rebuilt`` (images), ``queries`` (images sent), and ``findings`` but for lists.
    """
    given = {each.name for each in fields(known) if getattr(known, each.name) is not None}
    queries = 0 if known.query is None else known.query.made
    hashes = [] if public is None else public.hashes()
    prior = known.prior if isinstance(known, ClassKnowledge) else None
    if prior is not None:
        hashes += sorted(set(prior.document.public_hashes) - set(hashes))
    record = {
        "attack": attack.name,
        "config": attack.config.document(),
        "queries": queries,
        "draws": 1 if known.query is None else known.query.draws,
        "knowledge": sorted(given - _ALWAYS_KNOWN),
        "rebuilt": len(made.images),
        "findings": attack.findings,
        "public_hashes": hashes,
        "provenance": provenance(),
        "seed": seed,
        "views": views,
    }
    if isinstance(attack, ClassInversion):
        record |= {"ignores_output_policy": attack.ignores_output_policy(), "access": attack.access}
    if adaptive:
        record["adaptive"] = True
    if prior is not None:
        record["prior"] = prior.digest
    with written_folder(out) as partial:
        made.save(partial / "reconstructions.npz")
        if weights := attack.weights():
            save_tensors(partial / "weights.safetensors", weights)
        write_json(partial / "attack.json", record)
    findings = {name: value for name, value in attack.findings.items() if not isinstance(value, list)}
    return {"folder": str(out), "rebuilt": len(made.images), "queries": queries, "findings": findings}
