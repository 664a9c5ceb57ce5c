"""The judge of rebuilt victims' images. A record's id is a hash of all that determines it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from splitleak.artifacts import provenance
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.config import digest
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.edge.ledger import Ledger
from splitleak.eval.record.auxiliary import read_auxiliary
from splitleak.eval.record.evaluator import Evaluator
from splitleak.eval.record.inputs import Attacked, target_of
from splitleak.eval.record.metrics import measure_plugins, measured_victims, not_measured, spread
from splitleak.eval.record.schema import ClassMeans, Place, Provenance, Service, VictimsRecord, Wire
from splitleak.eval.record.scoring import check_disjoint, check_target, constant_mse, pixels, truth_of, write_judged
from splitleak.eval.record.trained_on import check_known

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
    force: bool = False,
) -> VictimsRecord:
    """Scores a reconstruction and writes ``record.json`` and ``pictures.npz``; returns the record.

    Args:
        artifact: The attacked target, with both halves.
        attack: The folder that ``splitleak attack`` wrote.
        truth: The victims' images; the target's training images are ``train.npz`` beside it.
        ledger: The edge's record of the stream.
        out: Folder to write.
        order: Position of the record in a report.
        cell: Place of the record in a campaign; not part of its id.
        evaluator: Another artifact for the same classes. It adds the metric ``reclassified``, 1 for each rebuilt image
            that it classifies as the victim's true class, and its accuracy on the true images, as a reference.
        auxiliary: Kind of the auxiliary data; validated by `read_auxiliary`.
        auxiliary_images: The auxiliary data.
        auxiliary_dataset: Name of their data set, if there is no ``splits.json`` next to them.
        service: Cost of the output policy for honest users, if predictions were attacked.
        force: Replace a record of another attack or target.

    Raises:
        FileExistsError: What is at ``out`` may not be replaced.
        FileNotFoundError: One of the inputs is missing.
        ValueError: The inputs do not match: victims or a target that are not those of the stream, an id the edge never
            sent, an attacker who owned a victim's image, an evaluator that is the target or has other classes, or
            auxiliary data of another kind than declared.
    """
    if (auxiliary is None) != (auxiliary_images is None):
        raise ValueError(f"expected auxiliary images and what they are, got {auxiliary_images} and {auxiliary}")
    (target, document), streamed = target_of(artifact), Ledger.read(ledger)
    attacked = Attacked.read(attack)
    made = Reconstructions.load(attack / "reconstructions.npz")
    attacked.check_public(made)
    rebuilt = _in_order(made, streamed.places)
    victims = load_file(truth).train
    check_disjoint(attacked.public, victims)
    true = truth_of(rebuilt.ids, streamed, victims)
    check_target(artifact, attacked, streamed)
    scores = measured_victims(rebuilt.images, true.floats())
    identity = [
        document["target"],
        document["dataset"],
        list(attacked.public),
        *attacked.identity(*_IDENTIFYING),
        *([] if streamed.codec in (None, "fp32") else [streamed.codec]),  # as older records have none
    ]
    own, judge, means = None, None, None
    if auxiliary is not None and auxiliary_images is not None:
        check_known(document, artifact)
        train, public = truth.parent / "train.npz", attacked.public
        own = read_auxiliary(
            auxiliary, auxiliary_images, public, victims, train, document["dataset"], auxiliary_dataset
        )
        given = [load_file(path).train for path in (auxiliary_images, train)]
        means = ClassMeans(**dict(zip(("own", "true"), (_mean_error(true, images) for images in given), strict=True)))
    if evaluator is not None:
        judging = Evaluator.load(evaluator, artifact)
        if victims.classes != judging.model.cloud.config.classes:
            raise ValueError(f"{evaluator}: expected an evaluator of the victims' classes {victims.classes}")
        scores["reclassified"] = spread(judging.recognised(rebuilt.images, true.labels).double().numpy())
        judge = judging.judge(true.floats(), true.labels)
        identity.append(judging.identity)
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
        not_measured=not_measured(true.floats()),
        constant_mse=constant_mse(true.pixels.numpy()),
        class_means=means,
        images={"scored": digest(sorted(true.hashes())), "public": digest(sorted(attacked.public))},
        evaluator=judge,
        service=service,
        wire=Wire.parse({**streamed.summary(), "codec": streamed.codec}, source=str(ledger)),
        provenance=Provenance(**provenance()),
        plugins=attacked.plugins(document.get("plugins", ()), measure_plugins("victims")),
    )
    places = np.array([streamed.places[name] for name in rebuilt.ids])
    pictures = {"places": places, "truth": true.pixels.numpy(), "rebuilt": pixels(rebuilt.images)}
    write_judged(out, record, pictures, force=force)
    return record


def _mean_error(true: Images, images: Images) -> float:
    """MSE of the mean of ``images`` of each true image's class, by its name; of their mean where they have none."""
    floats, known = images.floats(), {name: label for label, name in enumerate(images.classes)}
    labels = torch.tensor([known.get(name, -1) for name in true.classes])[true.labels]
    errors = []
    for label in labels.unique().tolist():
        own = floats[images.labels == label]
        mean = (own if len(own) else floats).mean(0)
        errors.append((true.floats()[labels == label] - mean).square().flatten(1).mean(1))
    return float(torch.cat(errors).mean())


def _in_order(rebuilt: Reconstructions, places: Mapping[str, int]) -> Reconstructions:
    """Sorted as the true images are; ids are random, and their order differs from run to run."""
    order = sorted(range(len(rebuilt.ids)), key=lambda index: places.get(rebuilt.ids[index], -1))
    return Reconstructions(tuple(rebuilt.ids[index] for index in order), rebuilt.images[order])
