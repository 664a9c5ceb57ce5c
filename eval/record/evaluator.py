"""The evaluator: an independent classifier of rebuilt images, to which no attacker has access."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from splitleak.defenses.artifact import WholeModel, load_whole, read_record
from splitleak.eval.record.schema import EvaluatorJudge

_BATCH = 256


@dataclass(frozen=True)
class Evaluator:
    """A classifier of the target's classes, trained separately: another architecture, or at least another seed."""

    model: WholeModel
    artifact: dict[str, Any]  # its artifact.json

    @classmethod
    def load(cls, folder: Path, target: Path) -> Self:
        """Loads the artifact ``folder`` to judge what was rebuilt from the artifact ``target``.

        Raises:
            FileNotFoundError: One of them is missing.
            ValueError: It is the target itself, or it is for other classes or images of another shape.
        """
        record, attacked = read_record(folder), read_record(target)
        if (record["target"], record["dataset"]) == (attacked["target"], attacked["dataset"]):
            raise ValueError(f"{folder}: expected an evaluator of its own, got the target itself")
        cpu = torch.device("cpu")
        model, judged = load_whole(folder, cpu, seed=0), load_whole(target, cpu, seed=0)
        own, theirs = ((classifier.cloud.config.classes, classifier.input_shape) for classifier in (model, judged))
        if own != theirs:
            raise ValueError(f"{folder}: expected an evaluator of the target's {theirs}, got one of {own}")
        return cls(model, record)

    def recognised(self, images: Tensor, labels: Tensor) -> Tensor:
        """1 for each image ``(N, C, H, W)`` in [0, 1] that it classifies as its label ``(N,)``, else 0; ``(N,)``."""
        return (probabilities(self.model, images).argmax(1) == labels).float()

    @property
    def identity(self) -> dict[str, Any]:
        """Its configuration and training data, for the id of a record."""
        return {"target": self.artifact["target"], "dataset": self.artifact["dataset"]}

    def judge(self, true_images: Tensor, labels: Tensor) -> EvaluatorJudge:
        """Its entry in a record, with its test accuracy and that on the true images (or class means)."""
        target = self.artifact["target"]
        return EvaluatorJudge(
            name=self.artifact["name"],
            accuracy=self.artifact["accuracy"],
            architecture=target["model"]["architecture"],
            seed=target["seed"],
            on_truth=float(self.recognised(true_images, labels).mean()),
        )


def probabilities(model: WholeModel, images: Tensor) -> Tensor:
    """Class probabilities ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1], without an output policy."""
    logits = [torch.from_numpy(model.predict(batch.numpy())) for batch in images.split(_BATCH)]
    return torch.cat(logits).softmax(1)
