"""A cell's record: what was attacked, how, and how well; one JSON file whose id is the hash of what produced it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from splitleak.artifacts import provenance, write_json, written_folder
from splitleak.attacker.outputs import Reconstructions
from splitleak.config import digest, read_document
from splitleak.datasets.files import load_file
from splitleak.defenses.artifact import read_record
from splitleak.edge.ledger import Ledger
from splitleak.eval.record.auxiliary import Auxiliary, read_auxiliary
from splitleak.eval.record.evaluator import Evaluator
from splitleak.eval.record.scoring import check_disjoint, score, spread, truth_of

_IDENTIFYING = ("attack", "config", "seed", "queries", "draws", "views", "knowledge")


def make_record(
    artifact: Path,
    attack: Path,
    truth: Path,
    ledger: Path,
    out: Path,
    order: int,
    cell: Mapping[str, Any] | None = None,
    *,
    evaluator: Path | None = None,
    auxiliary: Auxiliary | None = None,
    auxiliary_images: Path | None = None,
    auxiliary_dataset: str | None = None,
) -> dict[str, Any]:
    """Scores what ``attack`` rebuilt and writes ``out``: ``record.json`` and ``pictures.npz``; returns the record.

    ``cell`` says where in a campaign the record stands; it is kept under that name, and changes no id.

    ``evaluator`` is an artifact that classifies the same classes and is not the target: ``score.reclassified`` then
    says of every rebuilt image whether it is taken for its victim's true class (1 or 0), beside it the evaluator's
    accuracy on its test images and on the victims' true ones (``evaluator.on_truth``).

    ``auxiliary`` declares what the attacker's images are, which ``auxiliary_images`` holds; it is checked
    (`read_auxiliary`) against them and against the target's training images, ``train.npz`` beside ``truth``.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: They do not belong together: an id the edge never sent, an attacker who owned a victim's image, an
            evaluator that is the target or knows other classes, or images that are not what was declared of them.
    """
    if (auxiliary is None) != (auxiliary_images is None):
        raise ValueError(f"expected auxiliary images and what they are, got {auxiliary_images} and {auxiliary}")
    made, streamed = read_record(artifact), Ledger.read(ledger)
    attacked = read_document(attack / "attack.json")
    rebuilt = _in_order(Reconstructions.load(attack / "reconstructions.npz"), streamed.places)
    victims = load_file(truth).train
    public = attacked.pop("public_hashes")
    check_disjoint(public, victims)
    true = truth_of(rebuilt.ids, streamed.places, victims)
    scores = score(rebuilt.images, true.floats())
    judged: dict[str, Any] = {}
    identity = [made["target"], made["dataset"], public, *(attacked[key] for key in _IDENTIFYING)]
    if auxiliary is not None and auxiliary_images is not None:
        train, of = truth.parent / "train.npz", made["dataset"]
        judged["auxiliary"] = read_auxiliary(auxiliary, auxiliary_images, public, victims, train, of, auxiliary_dataset)
    if evaluator is not None:
        judge = Evaluator.load(evaluator, artifact)
        if victims.classes != judge.model.cloud.config.classes:
            raise ValueError(f"{evaluator}: expected an evaluator of the victims' classes {victims.classes}")
        scores["reclassified"] = spread(judge.recognised(rebuilt.images, true.labels).double().numpy())
        on_truth = float(judge.recognised(true.floats(), true.labels).mean())
        judged["evaluator"] = {**judge.document(), "on_truth": on_truth}
        identity.append({"target": judge.made["target"], "dataset": judge.made["dataset"]})
    produced = {
        "target": {key: made[key] for key in ("name", "target", "dataset", "accuracy", "provenance")},
        "attack": attacked,
        "wire": streamed.summary(),
    }
    record = {
        "id": digest(identity),
        "order": order,
        **({} if cell is None else {"cell": dict(cell)}),
        **produced,
        "score": scores,
        **judged,
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


def _in_order(rebuilt: Reconstructions, places: Mapping[str, int]) -> Reconstructions:
    """As the victims stand in the truth: ids that say nothing of it are in another order at every run."""
    order = sorted(range(len(rebuilt.ids)), key=lambda index: places.get(rebuilt.ids[index], -1))
    return Reconstructions(tuple(rebuilt.ids[index] for index in order), rebuilt.images[order])
