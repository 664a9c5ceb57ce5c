"""A cell's record where pictures of each class were rebuilt: do they show that class, and to whom."""

from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitleak.artifacts import provenance, write_json, written_folder
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.prior import Prior
from splitleak.config import digest, read_document
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_whole
from splitleak.eval.record.class_figures import class_figures, prior_figures
from splitleak.eval.record.evaluator import Evaluator, probabilities
from splitleak.eval.record.scoring import check_disjoint, spread
from splitleak.eval.record.trained_on import trained_images
from splitleak.measures.pixel import mse
from splitleak.seeding import generator

_IDENTIFYING = ("attack", "config", "seed", "queries", "draws", "knowledge")
_SAMPLES = 500
_LATER = ("prior", "adaptive")  # identify too, where there; came after the first recorded results


def make_class_record(
    artifact: Path,
    attack: Path,
    train_images: Path,
    evaluator: Path,
    out: Path,
    cell: Mapping[str, Any] | None = None,
    others: Path | None = None,
    prior: Path | None = None,
    known: MutableMapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Any]:
    """Judges what ``attack`` rebuilt of each class, writes ``record.json`` and ``pictures.npz``, returns the record.

    ``train_images`` are those that ``artifact`` was trained on; ``evaluator`` is another artifact for the same classes.
    For each measure of ``score``: mean and standard deviation over classes, and the value of every class in order.
    Where there are several pictures of each, a class's value is their mean, and ``images`` holds the value of every
    picture ``[class][picture]``, so that any published "±" can be formed; ``n`` counts pictures.

    - ``recognised``: 1 where the evaluator's first answer is the class. Chance is ``chance``, one over the classes.
      An evaluator that is a convolutional network calls images whose pixels are nothing like its own chance, however
      well a person sees the face: hence the next.
    - ``nearest_mean``: 1 where, of all the classes' mean training images, that of the class is nearest, after every
      image is brought to mean 0 and deviation 1. A picture of one colour is near none.
    - ``mse`` to the mean training image of the class, in [0, 1].
    - ``target_confidence``: the attacked model's own, undefended by any policy, in the class.

    ``figures`` are those of the literature, see `class_figures`, which ``known`` is for too; ``others`` are images of
    other classes, distractors.
    With the folder of the ``prior`` that was searched, they hold ``prior`` too: what the evaluator makes of 500 of its
    own images, see `prior_figures`.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: They do not belong together: other training images than the artifact's, an attacker who owned one of
            them, not as many pictures of each class, an evaluator that is the target, or a prior of other images.
    """
    made, private = trained_images(artifact, train_images)
    judge, target = Evaluator.load(evaluator, artifact), load_whole(artifact, torch.device("cpu"), seed=0)
    attacked = read_document(attack / "attack.json")
    public = attacked.pop("public_hashes")
    check_disjoint(public, private)
    distractors = None if others is None else load_file(others).train
    by_class = Reconstructions.load(attack / "reconstructions.npz").by_class(target.classes)
    each, rebuilt = by_class.shape[1], by_class.flatten(0, 1)
    means, classes = class_means(private, target.classes), torch.arange(target.classes)
    labels = classes.repeat_interleave(each)
    values = {
        "recognised": judge.recognised(rebuilt, labels),
        "nearest_mean": (nearest_mean(rebuilt, means) == labels).float(),
        "mse": mse(rebuilt, means[labels]),
        "target_confidence": probabilities(target, rebuilt)[torch.arange(len(labels)), labels],
    }
    judged_by = {"target": judge.made["target"], "dataset": judge.made["dataset"]}
    given = [attacked[key] for key in (*_IDENTIFYING, *(key for key in _LATER if key in attacked))]
    produced = [made["target"], made["dataset"], public, *given, judged_by]
    figures = class_figures(target, judge, by_class, private, others=distractors, known=known)
    if prior is not None:
        figures["prior"] = _of_prior(judge, prior, public)
    record = {
        "id": digest(produced),
        **({} if cell is None else {"cell": dict(cell)}),
        "target": {key: made[key] for key in ("name", "target", "dataset", "accuracy", "provenance")},
        "attack": attacked,
        "score": {
            "n": len(rebuilt),
            "chance": 1 / target.classes,
            **{name: _by_class(found.unflatten(0, (-1, each))) for name, found in values.items()},
        },
        "figures": figures,
        "evaluator": {**judge.document(), "on_truth": float(judge.recognised(means, classes).mean())},
        "provenance": provenance(),
    }
    with written_folder(out) as partial:
        with (partial / "pictures.npz").open("wb") as file:
            pictures: dict[str, Any] = {"truth": _pixels(means), "rebuilt": _pixels(by_class[:, 0])}
            if each > 1:
                pictures["all"] = _pixels(by_class)
            np.savez_compressed(file, classes=classes.numpy(), **pictures)
        write_json(partial / "record.json", record)
    return record


@torch.no_grad()
def _of_prior(judge: Evaluator, folder: Path, public: Sequence[str]) -> dict[str, Any]:
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


def nearest_mean(images: Tensor, means: Tensor) -> Tensor:
    """Which of ``means`` ``(K, C, H, W)`` each image ``(N, C, H, W)`` is nearest to ``(N,)``, -1 if it is flat.

    Distances are between images of mean 0 and deviation 1 over all their values, so the nearest is the one of the
    highest correlation.
    """
    own, theirs = _standardised(images), _standardised(means)
    nearest = torch.cdist(own, theirs).argmin(1)
    return nearest.where(own.any(1), torch.tensor(-1))


def _by_class(values: Tensor) -> dict[str, Any]:
    """The spread over classes of values ``(K, R)``, and the values themselves where R is more than 1."""
    found = spread(values.double().mean(1).numpy())
    images = {} if values.shape[1] == 1 else {"images": [[round(float(each), 6) for each in row] for row in values]}
    return {**found, **images}


def _standardised(images: Tensor) -> Tensor:
    """``(N, C*H*W)`` float64; an image of one colour becomes zeros."""
    flat = images.flatten(1).double()
    centred = flat - flat.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(deviation > 1e-6, centred / deviation, torch.zeros(()).double())


def _pixels(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (images * 255).round().byte().numpy()
    return pixels
