"""Fisher information of a target's layers, for classification and for inversion."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splitleak.artifacts import provenance
from splitleak.attacker.outputs import Reconstructions
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import WholeModel, load_whole
from splitleak.defenses.classes.adaptive import white_box
from splitleak.eval.record.trained_on import labelled_splits
from splitleak.measures.layer_fisher import classification_loss, inversion_loss, layer_fisher
from splitleak.models.penultimate import penultimate

_BATCH = 256


def measure_layers(artifact: Path, attack: Path, images: Path, *, count: int = 200) -> dict[str, Any]:
    """`layer_information` of a target for the reconstructions of an attack; held-out images are the test images.

    Args:
        artifact: Folder of the target.
        attack: Folder of the attack, as ``splitleak invert`` writes it.
        images: Folder of the splits that the target was trained on.
        count: Maximum images per loss.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: The target was not trained on these splits, or classes have unequal numbers of reconstructions.
    """
    record, splits = labelled_splits(artifact, images)
    target = load_whole(artifact, torch.device("cpu"), seed=0)
    by_class = Reconstructions.load(attack / "reconstructions.npz").by_class(target.classes)
    result = layer_information(target, splits.test, splits.train, by_class, images=count)
    return {"name": record["name"], **result, "provenance": provenance()}


def layer_information(
    target: WholeModel, held_out: Images, private: Images, by_class: Tensor, *, images: int = 200
) -> dict[str, Any]:
    """`layer_fisher` of the target's `white_box` network; a JSON document.

    Args:
        target: The target.
        held_out: Images for ``classification``.
        private: The target's training images, for the mean penultimate features of each class.
        by_class: Reconstructions ``(K, R, C, H, W)`` in [0, 1], for ``inversion``.
        images: Maximum images per loss, the first of ``held_out`` and the first reconstructions of each class.

    Returns:
        ``classification``, of the cross-entropy, and ``inversion``, of the feature distance of reconstructions to the
        class mean: layers, in order, to the mean over a layer's parameters. The losses differ, so compare ``share``,
        the values divided by their sum over all layers.

    Raises:
        ValueError: A class has no private image, or there are no reconstructions.
    """
    network = white_box(target)
    classes = by_class.shape[0]
    count = max(1, min(by_class.shape[1], images // classes))
    labels = torch.arange(classes).repeat_interleave(count)
    natural = held_out.select(torch.arange(min(images, len(held_out))))
    by_task = {
        "classification": layer_fisher(network, natural.floats(), natural.labels, classification_loss),
        "inversion": layer_fisher(
            network, by_class[:, :count].flatten(0, 1), labels, inversion_loss(_centroids(network, private, classes))
        ),
    }
    return {
        "images": {"classification": len(natural), "inversion": len(labels)},
        **by_task,
        "share": {task: _shares(layers) for task, layers in by_task.items()},
    }


@torch.no_grad()
def _centroids(network: nn.Module, private: Images, classes: int) -> Tensor:
    counts = torch.bincount(private.labels, minlength=classes)
    if not bool(counts.all()):
        raise ValueError(f"expected private images of each of {classes} classes, got {counts.tolist()}")
    features = torch.cat([penultimate(network, batch)[0] for batch in private.floats().split(_BATCH)])
    return torch.stack([features[private.labels == label].mean(0) for label in range(classes)])


def _shares(layers: dict[str, float]) -> dict[str, float]:
    total = sum(layers.values())
    return {name: value / total if total else 0.0 for name, value in layers.items()}
