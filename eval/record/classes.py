"""The judge of pictures of classes: do they show that class, and to whom."""

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitleak.artifacts import provenance, written_folder
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.prior import Prior
from splitleak.config import digest
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_whole
from splitleak.eval.record.class_figures import class_figures, prior_figures
from splitleak.eval.record.evaluator import Evaluator
from splitleak.eval.record.inputs import Attacked, target_of
from splitleak.eval.record.metrics import JudgedClasses, measured_classes
from splitleak.eval.record.schema import FILE, ClassesRecord, EvaluatorJudge, Place, PriorFigures, Provenance
from splitleak.eval.record.scoring import PICTURES, check_disjoint, constant_mse
from splitleak.eval.record.trained_on import trained_images
from splitleak.seeding import generator

_IDENTIFYING = ("attack", "config", "seed", "queries", "draws", "knowledge", "prior", "adaptive")
_SAMPLES = 500


def make_class_record(
    artifact: Path,
    attack: Path,
    train_images: Path,
    evaluator: Path,
    out: Path,
    cell: Place | None = None,
    others: Path | None = None,
    prior: Path | None = None,
    known: MutableMapping[str, tuple[Tensor, Tensor]] | None = None,
) -> ClassesRecord:
    """Judges what ``attack`` rebuilt of each class, writes ``record.json`` and ``pictures.npz``, returns the record.

    For each metric: mean and standard deviation over classes, and the value of every class in order. Where there are
    several pictures of each, a class's value is their mean, and ``images`` holds the value of every picture
    ``[class][picture]``, so that any published "±" can be formed; ``n`` counts pictures.

    - ``recognised``: 1 where the evaluator's first answer is the class. Chance is ``chance``, one over the classes.
      An evaluator that is a convolutional network calls images whose pixels are nothing like its own chance, however
      well a person sees the face: hence the next.
    - ``nearest_mean``: 1 where, of all the classes' mean training images, that of the class is nearest, after every
      image is brought to mean 0 and deviation 1. A picture of one colour is near none.
    - ``mse`` to the mean training image of the class, in [0, 1].
    - ``target_confidence``: the attacked model's own, undefended by any policy, in the class.

    ``figures`` are those of the literature, see `class_figures`; with a ``prior``, what the evaluator makes of 500 of
    its own samples stands beside them, see `prior_figures`.

    Args:
        artifact: The target that was attacked, with both halves.
        attack: What ``splitleak invert`` wrote.
        train_images: The images that ``artifact`` was trained on.
        evaluator: Another artifact for the same classes.
        out: Folder to write.
        cell: Where in a campaign the record stands.
        others: Images of other classes, distractors for re-identification.
        prior: The generator that was searched.
        known: Keeps what the evaluator makes of private images for the next record, see `class_figures`.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: They do not belong together: other training images than the artifact's, an attacker who owned one of
            them, not as many pictures of each class, an evaluator that is the target, or a prior of other images.
    """
    private = trained_images(artifact, train_images)[1]
    judge, model = Evaluator.load(evaluator, artifact), load_whole(artifact, torch.device("cpu"), seed=0)
    (target, made), attacked = target_of(artifact), Attacked.read(attack)
    check_disjoint(attacked.public, private)
    distractors = None if others is None else load_file(others).train
    by_class = Reconstructions.load(attack / "reconstructions.npz").by_class(model.classes)
    each, rebuilt = by_class.shape[1], by_class.flatten(0, 1)
    means, classes = class_means(private, model.classes), torch.arange(model.classes)
    judged = JudgedClasses(rebuilt, classes.repeat_interleave(each), means, model, judge)
    judged_by = {"target": judge.made["target"], "dataset": judge.made["dataset"]}
    given = attacked.identity(*_IDENTIFYING)
    figures = class_figures(model, judge, by_class, private, others=distractors, known=known)
    if prior is not None:
        figures = figures.model_copy(update={"prior": _of_prior(judge, prior, attacked.public)})
    pixels = _pixels(means)
    record = ClassesRecord(
        id=digest([made["target"], made["dataset"], list(attacked.public), *given, judged_by]),
        cell=cell,
        target=target,
        attack=attacked.run,
        threat_model=attacked.threat_model(sees="nothing"),
        n=len(rebuilt),
        chance=1 / model.classes,
        scores=measured_classes(judged, each),
        constant_mse=constant_mse(pixels),
        images={"scored": digest(sorted(private.hashes())), "public": digest(sorted(attacked.public))},
        figures=figures,
        evaluator=EvaluatorJudge(**judge.document(), on_truth=float(judge.recognised(means, classes).mean())),
        provenance=Provenance(**provenance()),
    )
    with written_folder(out) as partial:
        with (partial / PICTURES).open("wb") as file:
            pictures: dict[str, Any] = {"truth": pixels, "rebuilt": _pixels(by_class[:, 0])}
            if each > 1:
                pictures["all"] = _pixels(by_class)
            np.savez_compressed(file, classes=classes.numpy(), **pictures)
        record.write(partial / FILE)
    return record


@torch.no_grad()
def _of_prior(judge: Evaluator, folder: Path, public: Sequence[str]) -> PriorFigures:
    prior = Prior.load(folder, torch.device("cpu"))
    if strange := set(prior.document.public_hashes) - set(public):
        raise ValueError(f"{folder}: expected the prior that was searched, got one of {len(strange)} other images")
    shape, classes = prior.document.generator, prior.document.generator.classes
    latents = torch.randn(_SAMPLES, shape.latent, generator=generator(0, "score", "prior"))
    labels = None if classes is None else torch.arange(_SAMPLES) % classes
    return prior_figures(judge, prior.generator(latents, labels))


def class_means(images: Images, classes: int) -> Tensor:
    """The mean image of each class ``(K, C, H, W)``.

    Raises:
        ValueError: There is no image of a class.
    """
    counts = torch.bincount(images.labels, minlength=classes)
    if len(counts) != classes or not bool(counts.all()):
        raise ValueError(f"expected images of each of {classes} classes, got {counts.tolist()}")
    floats = images.floats()
    return torch.stack([floats[images.labels == label].mean(0) for label in range(classes)])


def _pixels(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (images * 255).round().byte().numpy()
    return pixels
