"""Accuracy and confidence of a target on training and test images, and its number of trainable parameters."""

from itertools import chain
from pathlib import Path
from typing import Any

import torch

from splitleak.artifacts import provenance
from splitleak.defenses.artifact import load_whole
from splitleak.eval.record.evaluator import probabilities
from splitleak.eval.record.trained_on import labelled_splits


def target_figures(artifact: Path, images: Path, device: torch.device) -> dict[str, Any]:
    """Accuracy, confidence and parameter counts of a target; a JSON document.

    Args:
        artifact: Folder of the target.
        images: Folder of the splits that it was trained on.
        device: Where it runs.

    Returns:
        For ``train`` and ``test``: ``accuracy``, and ``confidence``, the mean of the highest probability, right or
        wrong. ``parameters``: ``all`` of both halves, without running statistics, and those ``trained`` on the private
        images, as recorded by a defense that freezes layers.

    Raises:
        FileNotFoundError: There is no artifact, or no split.
        ValueError: The target was not trained on these splits, or for other answers than their labels.
    """
    record, splits = labelled_splits(artifact, images)
    whole = load_whole(artifact, device, seed=0)
    document: dict[str, Any] = {"name": record["name"]}
    for part, part_set in (("train", splits.train), ("test", splits.test)):
        confidences, answers = probabilities(whole, part_set.floats()).max(1)
        accuracy = float((answers == part_set.labels).float().mean())
        document[part] = {"images": len(part_set), "accuracy": accuracy, "confidence": float(confidences.mean())}
    parameters = chain(*(part.parameters() for part in (whole.edge.encoder, whole.edge.stack, whole.cloud.head)))
    count = sum(parameter.numel() for parameter in parameters)
    reported = (found for found in record.get("defenses", {}).values() if "trainable_parameters" in found)
    document["parameters"] = {
        "all": count,
        "trained": next(reported, {"trainable_parameters": count})["trainable_parameters"],
    }
    return {**document, "provenance": provenance()}
