"""Scores of reconstructions whose target and stream nobody vouches for: no record, and no report takes them for one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from splitleak.artifacts import provenance, write_json, written_folder
from splitleak.attacker.outputs import Reconstructions
from splitleak.datasets.plain import array_names, float_images, read_array, read_images, unlabelled
from splitleak.edge.ledger import images_digest
from splitleak.eval.record.inputs import Attacked
from splitleak.eval.record.metrics import measured_victims, not_measured
from splitleak.eval.record.scoring import PICTURES, check_disjoint, constant_mse, pixels
from splitleak.outputs import FolderKind

UNPROVEN = FolderKind("score", "scores.json", (PICTURES,))
CAVEAT = "without provenance: nobody checked which target and stream they are of"


def score_unproven(reconstructions: Path, truth: Path, out: Path, *, force: bool = False) -> dict[str, Any]:
    """Scores reconstructions against true images in the same order; writes ``scores.json`` and ``pictures.npz``.

    Args:
        reconstructions: A folder of `splitleak attack --features`, whose ids are row numbers, or an array of images.
        truth: The true images: an array of them, or what `load_file` reads.
        out: The folder.
        force: Whether scores of other images at ``out`` are replaced.

    Returns:
        What ``scores.json`` says.

    Raises:
        FileExistsError: What is at ``out`` may not be replaced.
        FileNotFoundError: One of the inputs is missing.
        ValueError: They do not fit together, or the attacker owned one of the true images.
    """
    UNPROVEN.check(out)
    true = read_images(truth)
    rebuilt, attack = _rebuilt(reconstructions)
    if rebuilt.shape != true.shape:
        got = f"{tuple(rebuilt.shape)} in {reconstructions}"
        raise ValueError(f"expected reconstructions {tuple(true.shape)}, as the images in {truth}, got {got}")
    victims = unlabelled(true)
    if attack is not None:
        check_disjoint(attack.public, victims)
    about = {
        "caveat": CAVEAT,
        "images": {"scored": images_digest(victims), "rebuilt": images_digest(unlabelled(rebuilt))},
    }
    scores = measured_victims(rebuilt, true)
    document = {
        **about,
        "attack": None if attack is None else attack.run.document(),
        "n": len(true),
        "scores": {name: score.document() for name, score in scores.items()},
        **({"not_measured": left_out} if (left_out := not_measured(true)) else {}),
        "constant_mse": constant_mse(victims.pixels.numpy()),
        "provenance": provenance(),
    }
    with written_folder(out, UNPROVEN, about, force=force) as partial:
        with (partial / PICTURES).open("wb") as file:
            np.savez_compressed(file, truth=victims.pixels.numpy(), rebuilt=pixels(rebuilt))
        write_json(partial / UNPROVEN.mark, document)
    return document


def _rebuilt(path: Path) -> tuple[Tensor, Attacked | None]:
    """The images in the order of their rows, and the attack that made them, where that is known."""
    if path.is_dir():
        found = Reconstructions.load(path / "reconstructions.npz")
        attack = Attacked.read(path)
        attack.check_public(found)
        return found.images[_order(found.ids, path)], attack
    if "ids" in array_names(path):
        found = Reconstructions.load(path)
        return found.images[_order(found.ids, path)], None
    return float_images(read_array(path, "images", "reconstructions"), str(path)), None


def _order(ids: Sequence[str], path: Path) -> list[int]:
    places = {name: place for place, name in enumerate(ids)}
    rows = [str(row) for row in range(len(ids))]
    if set(rows) != set(ids):
        raise ValueError(
            f"{path}: expected ids that are row numbers, as of `splitleak attack --features`, got {list(ids[:3])}; "
            f"of a capture, score needs --artifact and --ledger"
        )
    return [places[row] for row in rows]
