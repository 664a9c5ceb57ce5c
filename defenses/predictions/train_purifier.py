"""Trains the purifier of a target from its artifact, and measures its cost in accuracy and confidence distortion."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import WholeModel, artifact_digest, load_whole, read_record
from splitleak.defenses.importing import OWN_ANSWER
from splitleak.defenses.predictions.purifier import Purifier, PurifierConfig, train_purifier
from splitleak.logs import Report, silent
from splitleak.seeding import generator

_FLOOR = 1e-30  # lower bound of probabilities before the logarithm
_BATCH = 256


def train_target_purifier(
    artifact: Path,
    splits: Splits,
    config: PurifierConfig,
    seed: int,
    *,
    device: torch.device,
    report: Report = silent,
    checkpoint: Path | None = None,
) -> tuple[Purifier, dict[str, Any]]:
    """Trains the purifier of a target.

    Neither the attacker's images nor the victims' are used. The reference set is training images, on which the target
    is more confident than on others, and the cost is measured on all test images; or it is half of the test images (as
    in the paper, whose reference set the target was not trained on), and the cost is measured on the other half, both
    without the attacker's and the victims', where a split takes these from the test images.

    Args:
        artifact: Folder of the trained target.
        splits: The data that the target was trained on.
        config: The purifier and its training.
        seed: Of the reference set and the training.
        device: Where the target is run and the purifier is trained.
        report: Progress callback.
        checkpoint: File from which an interrupted training resumes.

    Returns:
        The purifier, and its record: target, data, seed, reference set and `purification_cost`.

    Raises:
        FileNotFoundError: There is no artifact at ``artifact``.
        ValueError: ``splits`` are not those that the target was trained on, or their labels are not its outputs.
    """
    target_record = read_record(artifact)
    if target_record["dataset"] != splits.record:
        raise ValueError(f"{artifact}: expected the images that it was trained on, got others")
    if target_record.get("right_answer") == OWN_ANSWER:
        raise ValueError(f"{artifact}: expected a target trained for the images' labels, not for {OWN_ANSWER}")
    model = load_whole(artifact, device, seed=seed)
    pool, evaluation = splits.train, splits.test
    if config.reference == "test":
        taken = {*splits.public.hashes(), *splits.victims.hashes()}  # a split from the test pool has them among these
        evaluation = evaluation.select(torch.tensor([name not in taken for name in evaluation.hashes()]))
        shuffled = torch.randperm(len(evaluation), generator=generator(seed, "purifier", "halves"))
        pool, evaluation = (evaluation.select(half) for half in shuffled.tensor_split(2))
    indices = torch.randperm(len(pool), generator=generator(seed, "purifier", "reference"))[: config.reference_images]
    reference = pool.select(indices)
    purifier = train_purifier(
        _scores(model, reference), config, seed, images=reference.floats(), report=report, checkpoint=checkpoint
    )
    return purifier, {
        "target": {
            "name": target_record["name"],
            "accuracy": target_record["accuracy"],
            "digest": artifact_digest(artifact),
        },
        "dataset": splits.record,
        "seed": seed,
        "reference": {
            "set": config.reference,
            "images": len(reference),
            "seen_in_training": config.reference == "train",
        },
        "cost": {"set": "test", **purification_cost(purifier, _scores(model, evaluation), evaluation.labels)},
    }


def dispersion(vectors: Tensor, labels: Tensor) -> float:
    """Root mean square L2 distance of vectors ``(N, D)`` from the mean of their class, labels ``(N,)``."""
    total = vectors.new_zeros(())
    for label in labels.unique():
        of_label = vectors[labels == label]
        total += (of_label - of_label.mean(0)).square().sum()
    return float((total / len(vectors)).sqrt())


@torch.no_grad()
def purification_cost(purifier: Purifier, scores: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy, label changes, confidence distortion and dispersion of scores before and after purification.

    Args:
        purifier: In eval mode.
        scores: ``(N, K)`` probabilities.
        labels: ``(N,)``, the true ones.

    Returns:
        ``accuracy`` and the ``dispersion`` within a predicted class, each before and after; ``same_label``, the share
        of vectors whose largest score stays the largest; ``confidence_distortion``, the mean L1 distance between a
        vector and its purified one, in [0, 2], as in the code of the paper's authors. Dispersion is that of the
        vectors, of their entropy (nats) and of their logarithms (nats), the input of an attacker who takes logarithms.
    """
    purified = purifier(scores)
    labels_before, labels_after = scores.argmax(1), purified.argmax(1)

    def dispersions(vectors: Tensor) -> dict[str, float]:
        log_scores = vectors.clamp(min=_FLOOR).log()
        entropy = -(vectors * log_scores).sum(1, keepdim=True)
        kinds = {"scores": vectors, "entropy": entropy, "log_scores": log_scores}
        return {kind: dispersion(values, labels_before) for kind, values in kinds.items()}

    return {
        "images": len(scores),
        "accuracy": {"before": _share(labels_before == labels), "after": _share(labels_after == labels)},
        "same_label": _share(labels_after == labels_before),
        "confidence_distortion": float((purified - scores).abs().sum(1).mean()),
        "dispersion": {"before": dispersions(scores), "after": dispersions(purified)},
    }


def _scores(model: WholeModel, images: Images) -> Tensor:
    """The target's probabilities ``(N, K)``, on the CPU."""
    batches = images.floats().split(_BATCH)
    return torch.cat([torch.from_numpy(model.predict(batch.numpy())).softmax(1) for batch in batches])


def _share(correct: Tensor) -> float:
    return float(correct.double().mean())
