"""The Knowledge Extraction Score: what a student learns of a target's training images from what was rebuilt of them."""

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
from splitleak.models.split import ArchitectureName, ModelConfig


class ExtractionConfig(Config):
    """The student, and how it is trained."""

    architecture: ArchitectureName = "cnn"
    width: float = Field(default=1.0, gt=0, description="factor on every layer's width")
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=0.05, gt=0)
    crop_padding: int = Field(default=2, ge=0, description="pixels around an image before a random crop")
    flip: bool = Field(default=False, description="mirror every other image; not for digits")
    seed: int = Field(default=0, ge=0)


def measure_extraction(
    artifact: Path,
    attack: Path,
    train_images: Path,
    config: ExtractionConfig,
    device: torch.device,
    report: Report = silent,
) -> dict[str, Any]:
    """`knowledge_extraction` from what ``attack``, a folder of ``splitleak invert``, rebuilt of ``artifact``.

    Raises:
        FileNotFoundError: One of the inputs is not there.
        ValueError: They do not belong together: other training images than the artifact's, or not as many pictures of
            each class.
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
    """Accuracy, on the target's own training images ``private``, of a student trained on what was rebuilt; JSON.

    The student starts from random weights and sees images ``by_class`` ``(K, R, C, H, W)`` in [0, 1], as 8-bit
    pictures, with the classes they were rebuilt for. No evaluator is needed, so the score cross-checks one. ``dataset``
    names the constants that images are normalised by. Chance is 1/K.

    Struppek, Hintersdorf and Kersting, "Be careful what you smooth for", ICLR 2024, with a ResNet-50 that knows
    ImageNet; deviation: a small network from scratch, for small images, so that scores compare only with each other.

    Raises:
        ValueError: There are not images of every class, or of the private ones' shape.
    """
    classes, per_class = by_class.shape[:2]
    shape = tuple(private.pixels.shape[1:])
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
