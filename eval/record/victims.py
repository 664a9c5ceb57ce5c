"""The judge of victims' images: what was attacked, how, and how well. A record's id is the hash of what produced it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from splitleak.artifacts import provenance, written_folder
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.config import digest
from splitleak.datasets.files import load_file
from splitleak.edge.ledger import Ledger
from splitleak.eval.record.auxiliary import read_auxiliary
from splitleak.eval.record.evaluator import Evaluator
from splitleak.eval.record.inputs import Attacked, target_of
from splitleak.eval.record.metrics import measured_victims, spread
from splitleak.eval.record.schema import FILE, EvaluatorJudge, Place, Provenance, Service, VictimsRecord, Wire
from splitleak.eval.record.scoring import PICTURES, check_disjoint, constant_mse, truth_of

_IDENTIFYING = ("attack", "config", "seed", "queries", "draws", "views", "knowledge")


def make_record(
    artifact: Path,
    attack: Path,
    truth: Path,
    ledger: Path,
    out: Path,
    order: int = 0,
    cell: Place | None = None,
    *,
    evaluator: Path | None = None,
    auxiliary: str | None = None,
    auxiliary_images: Path | None = None,
    auxiliary_dataset: str | None = None,
    service: Service | None = None,
) -> VictimsRecord:
    """Scores what ``attack`` rebuilt and writes ``out``: ``record.json`` and ``pictures.npz``; returns the record.

    Args:
        artifact: The target that was attacked, with both halves.
        attack: What ``splitleak attack`` wrote.
        truth: The victims' images; the target's training images are ``train.npz`` beside it.
        ledger: The edge's record of the stream.
        out: Folder to write.
        order: Place of the record in a report.
        cell: Where in a campaign the record stands; it changes no id.
        evaluator: An artifact that classifies the same classes and is not the target: ``reclassified`` then says of
            every rebuilt image whether it is taken for its victim's true class (1 or 0), beside the evaluator's
            accuracy on its test images and on the victims' true ones (``evaluator.on_truth``).
        auxiliary: What the attacker's images are; checked (`read_auxiliary`) against them and the training images.
        auxiliary_images: These images.
        auxiliary_dataset: The data set they are of, where no ``splits.json`` beside them tells.
        service: What the output policy costs honest users, where predictions were attacked.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: They do not belong together: an id the edge never sent, an attacker who owned a victim's image, an
            evaluator that is the target or knows other classes, or images that are not what was declared of them.
    """
    if (auxiliary is None) != (auxiliary_images is None):
        raise ValueError(f"expected auxiliary images and what they are, got {auxiliary_images} and {auxiliary}")
    (target, made), streamed = target_of(artifact), Ledger.read(ledger)
    attacked = Attacked.read(attack)
    rebuilt = _in_order(Reconstructions.load(attack / "reconstructions.npz"), streamed.places)
    victims = load_file(truth).train
    check_disjoint(attacked.public, victims)
    true = truth_of(rebuilt.ids, streamed.places, victims)
    pixels = true.pixels.numpy()
    scores = measured_victims(rebuilt.images, true.floats())
    identity = [made["target"], made["dataset"], list(attacked.public), *attacked.identity(*_IDENTIFYING)]
    own, judge = None, None
    if auxiliary is not None and auxiliary_images is not None:
        train, public = truth.parent / "train.npz", attacked.public
        own = read_auxiliary(auxiliary, auxiliary_images, public, victims, train, made["dataset"], auxiliary_dataset)
    if evaluator is not None:
        judging = Evaluator.load(evaluator, artifact)
        if victims.classes != judging.model.cloud.config.classes:
            raise ValueError(f"{evaluator}: expected an evaluator of the victims' classes {victims.classes}")
        scores["reclassified"] = spread(judging.recognised(rebuilt.images, true.labels).double().numpy())
        on_truth = float(judging.recognised(true.floats(), true.labels).mean())
        judge = EvaluatorJudge(**judging.document(), on_truth=on_truth)
        identity.append({"target": judging.made["target"], "dataset": judging.made["dataset"]})
    kind = ATTACKS.get(attacked.run.name)
    record = VictimsRecord(
        id=digest(identity),
        order=order,
        cell=cell,
        target=target,
        attack=attacked.run,
        threat_model=attacked.threat_model(sees="features" if kind is None else kind.takes, auxiliary=own),
        n=len(rebuilt.images),
        scores=scores,
        constant_mse=constant_mse(pixels),
        images={"scored": digest(sorted(true.hashes())), "public": digest(sorted(attacked.public))},
        evaluator=judge,
        service=service,
        wire=Wire.parse(streamed.summary(), source=str(ledger)),
        provenance=Provenance(**provenance()),
    )
    with written_folder(out) as partial:
        with (partial / PICTURES).open("wb") as file:
            np.savez_compressed(
                file,
                places=np.array([streamed.places[name] for name in rebuilt.ids]),
                truth=pixels,
                rebuilt=(rebuilt.images * 255).round().byte().numpy(),
            )
        record.write(partial / FILE)
    return record


def _in_order(rebuilt: Reconstructions, places: Mapping[str, int]) -> Reconstructions:
    """As the victims stand in the truth: ids that say nothing of it are in another order at every run."""
    order = sorted(range(len(rebuilt.ids)), key=lambda index: places.get(rebuilt.ids[index], -1))
    return Reconstructions(tuple(rebuilt.ids[index] for index in order), rebuilt.images[order])
