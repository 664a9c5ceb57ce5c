"""An independent classifier that says what pictures show: the judge's own, which no attacker ever sees."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from splitleak.defenses.artifact import WholeModel, load_whole, read_record

_BATCH = 256


@dataclass(frozen=True)
class Evaluator:
    """A classifier of the target's classes, trained on its own: another architecture, or at least another seed."""

    model: WholeModel
    made: dict[str, Any]  # its artifact.json

    @classmethod
    def load(cls, folder: Path, target: Path) -> Self:
        """The artifact ``folder`` as judge of what was rebuilt from the artifact ``target``.

        Raises:
            FileNotFoundError: One of them is not there.
            ValueError: It is the target itself, or it is for other classes or images of another shape.
        """
        made, attacked = read_record(folder), read_record(target)
        if (made["target"], made["dataset"]) == (attacked["target"], attacked["dataset"]):
            raise ValueError(f"{folder}: expected an evaluator of its own, got the target itself")
        cpu = torch.device("cpu")
        model, judged = load_whole(folder, cpu, seed=0), load_whole(target, cpu, seed=0)
        own, theirs = ((each.cloud.config.classes, each.input_shape) for each in (model, judged))
        if own != theirs:
            raise ValueError(f"{folder}: expected an evaluator of the target's {theirs}, got one of {own}")
        return cls(model, made)

    def recognised(self, images: Tensor, labels: Tensor) -> Tensor:
        """1 where it puts an image ``(N, C, H, W)`` in the class ``labels`` ``(N,)`` says, else 0; ``(N,)``."""
        return (probabilities(self.model, images).argmax(1) == labels).float()

    def document(self) -> dict[str, Any]:
        """Who judges, and how often it is right on its own test images."""
        model = self.made["target"]["model"]
        about = {"name": self.made["name"], "accuracy": self.made["accuracy"]}
        return {**about, "architecture": model["architecture"], "seed": self.made["target"]["seed"]}


def probabilities(model: WholeModel, images: Tensor) -> Tensor:
    """What ``model`` says of images ``(N, C, H, W)`` in [0, 1], without any policy: ``(N, K)``, rows sum to one."""
    logits = [torch.from_numpy(model.predict(batch.numpy())) for batch in images.split(_BATCH)]
    return torch.cat(logits).softmax(1)
