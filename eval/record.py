"""A cell's record: what was attacked, how, and how well; one JSON file whose id is the hash of what produced it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attacker.results import Reconstructions
from defenses.artifact import read_record
from edge.ledger import Ledger
from eval.scoring import check_disjoint, score, truth_of
from splitleak.artifacts import provenance, write_json, written_folder
from splitleak.config import digest, read_document
from splitleak.datasets.files import load_file

_IDENTIFYING = ("attack", "config", "seed", "queries", "draws", "views", "knowledge")


def make_record(
    artifact: Path,
    attack: Path,
    truth: Path,
    ledger: Path,
    out: Path,
    order: int,
    cell: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores what ``attack`` rebuilt and writes ``out``: ``record.json`` and ``pictures.npz``; returns the record.

    ``cell`` says where in a campaign the record stands; it is kept under that name, and changes no id.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: They do not belong together: an id the edge never sent, or an attacker who owned a victim's image.
    """
    made, streamed = read_record(artifact), Ledger.read(ledger)
    attacked = read_document(attack / "attack.json")
    rebuilt = Reconstructions.load(attack / "reconstructions.npz")
    victims = load_file(truth).train
    public = attacked.pop("public_hashes")
    check_disjoint(public, victims)
    true = truth_of(rebuilt.ids, streamed.places, victims)
    produced = {
        "target": {key: made[key] for key in ("name", "target", "dataset", "accuracy", "provenance")},
        "attack": attacked,
        "wire": streamed.summary(),
    }
    record = {
        "id": digest([made["target"], made["dataset"], public, *(attacked[key] for key in _IDENTIFYING)]),
        "order": order,
        **({} if cell is None else {"cell": dict(cell)}),
        **produced,
        "score": score(rebuilt.images, true.floats()),
        "provenance": provenance(),
    }
    with written_folder(out) as partial:
        with (partial / "pictures.npz").open("wb") as file:
            np.savez_compressed(
                file,
                places=np.array([streamed.places[name] for name in rebuilt.ids]),
                truth=true.pixels.numpy(),
                rebuilt=(rebuilt.images * 255).round().byte().numpy(),
            )
        write_json(partial / "record.json", record)
    return record
