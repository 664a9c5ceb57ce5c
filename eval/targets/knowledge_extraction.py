"""Knowledge Extraction Score: accuracy on the target's training images of a student trained on reconstructions."""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import provenance
from splitleak.attacker.outputs import Reconstructions
from splitleak.config import Config
from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.training import AugmentConfig, TargetConfig, TrainingConfig, train
from splitleak.eval.record.trained_on import trained_images
from splitleak.logs import Report, silent
from splitleak.measures.proportion import wilson
from splitleak.models import ArchitectureName
from splitleak.models.split import ModelConfig


class ExtractionConfig(Config):
    """The student's architecture and training."""

    architecture: ArchitectureName = "cnn"
    width: float = Field(default=1.0, gt=0, description="factor on every layer's width")
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=0.05, gt=0)
    crop_padding: int = Field(default=2, ge=0, description="pixels of padding before a random crop")
    flip: bool = Field(default=False, description="random horizontal flip; not for digits")
    seed: int = Field(default=0, ge=0)


def measure_extraction(
    artifact: Path,
    attack: Path,
    train_images: Path,
    config: ExtractionConfig,
    device: torch.device,
    report: Report = silent,
) -> dict[str, Any]:
    """`knowledge_extraction` for the reconstructions of an attack.

    Args:
        artifact: Folder of the target.
        attack: Folder of the attack, as ``splitleak invert`` writes it.
        train_images: The target's training images.
        config: The student.
        device: Where the student is trained.
        report: Progress callback.

    Raises:
        FileNotFoundError: An input does not exist.
        ValueError: They do not match: other training images than the artifact's, or unequal numbers of reconstructions
            per class.
    """
    record, private = trained_images(artifact, train_images)
    by_class = Reconstructions.load(attack / "reconstructions.npz").by_class(len(private.classes))
    dataset = str(record["dataset"]["dataset"])
    result = knowledge_extraction(by_class, private, dataset, config, device=device, report=report)
    return {"name": record["name"], **result, "provenance": provenance()}


def knowledge_extraction(
    by_class: Tensor,
    private: Images,
    dataset: str,
    config: ExtractionConfig,
    *,
    device: torch.device,
    report: Report = silent,
) -> dict[str, Any]:
    """Accuracy on the target's training images of a student trained on reconstructions; a JSON document.

    The student is trained from random weights on the reconstructions, quantised to 8 bits, with their target classes as
    labels. No evaluator is needed, so the score cross-checks one. Chance is 1/K.

    Struppek, Hintersdorf and Kersting, "Be careful what you smooth for", ICLR 2024, with a ResNet-50 pre-trained on
    ImageNet; deviation: a small network from scratch, for small images, so that scores compare only with each other.

    Args:
        by_class: Reconstructions ``(K, R, C, H, W)`` in [0, 1].
        private: The target's training images.
        dataset: Name of the data set, which selects the normalisation constants.
        config: The student.
        device: Where it is trained.
        report: Progress callback.

    Raises:
        ValueError: A class has no reconstruction, or their shape is not that of the private images.
    """
    classes, per_class = by_class.shape[:2]
    shape = private.shape
    if by_class.ndim != 5 or classes != len(private.classes) or tuple(by_class.shape[2:]) != shape or not per_class:
        got = tuple(by_class.shape)
        raise ValueError(f"expected images ({len(private.classes)}, R, *{shape}) of every class, got {got}")
    pixels = (by_class.flatten(0, 1) * 255).round().to(torch.uint8)
    rebuilt = Images(pixels, torch.arange(classes).repeat_interleave(per_class), private.classes)
    student = TargetConfig(
        model=ModelConfig.model_validate(
            {
                "architecture": config.architecture,
                "width": config.width,
                "channels": shape[0],
                "size": shape[1],
                "classes": classes,
            }
        ),
        training=TrainingConfig(
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            augment=AugmentConfig(crop_padding=config.crop_padding, flip=config.flip),
        ),
        seed=config.seed,
    )
    student_splits = Splits(train=rebuilt, public=rebuilt, victims=rebuilt, test=private, record={"dataset": dataset})
    student_record = train(student, student_splits, device=device, report=report).record
    return {
        **wilson(round(student_record["accuracy"] * len(private)), len(private)).document(),
        "images_per_class": per_class,
        "chance": 1 / classes,
        "train_accuracy": student_record["history"][-1]["train_accuracy"],
        "student": config.document(),
    }
