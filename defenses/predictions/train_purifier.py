"""Training the purifier of a target from its artifact, and what purifying costs in accuracy and in confidence."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import WholeModel, load_whole, read_record
from splitleak.defenses.predictions.purifier import Purifier, PurifierConfig, train_purifier
from splitleak.logs import Report, silent
from splitleak.seeding import generator

_FLOOR = 1e-30  # the least probability that a log is taken of
_BATCH = 256


def purify(
    artifact: Path,
    splits: Splits,
    config: PurifierConfig,
    seed: int,
    *,
    device: torch.device,
    report: Report = silent,
    checkpoint: Path | None = None,
) -> tuple[Purifier, dict[str, Any]]:
    """The purifier of a trained target, on the CPU, and a record of how it was made and what it costs.

    Neither the attacker's images nor the victims' have a part in it. Reference vectors are of training images, of
    which the target is surer than of others, and the cost is measured on all test images; or they are of half of the
    test images, as in the paper, whose reference set the target has not seen, and it is measured on the other half.

    Raises:
        FileNotFoundError: There is no artifact at ``artifact``.
        ValueError: ``splits`` are not those that the target was trained on.
    """
    made = read_record(artifact)
    if made["dataset"] != splits.record:
        raise ValueError(f"{artifact}: expected the images that it was trained on, got others")
    model = load_whole(artifact, device, seed=seed)
    pool, judge = splits.train, splits.test
    if config.reference == "test":
        shuffled = torch.randperm(len(judge), generator=generator(seed, "purifier", "halves"))
        pool, judge = (judge.select(half) for half in shuffled.tensor_split(2))
    chosen = torch.randperm(len(pool), generator=generator(seed, "purifier", "reference"))[: config.reference_images]
    reference = pool.select(chosen)
    purifier = train_purifier(
        _scores(model, reference), config, seed, images=reference.floats(), report=report, checkpoint=checkpoint
    )
    return purifier, {
        "target": {"name": made["name"], "accuracy": made["accuracy"]},
        "dataset": splits.record,
        "seed": seed,
        "reference": {
            "set": config.reference,
            "images": len(reference),
            "seen_in_training": config.reference == "train",
        },
        "cost": {"set": "test", **purification_cost(purifier, _scores(model, judge), judge.labels)},
    }


def dispersion(vectors: Tensor, labels: Tensor) -> float:
    """How far vectors ``(N, D)`` are from the mean of those with their label ``(N,)``: root mean square distance."""
    total = vectors.new_zeros(())
    for label in labels.unique():
        of_label = vectors[labels == label]
        total += (of_label - of_label.mean(0)).square().sum()
    return float((total / len(vectors)).sqrt())


@torch.no_grad()
def purification_cost(purifier: Purifier, scores: Tensor, labels: Tensor) -> dict[str, Any]:
    """What purifying ``scores`` ``(N, K)`` costs and hides; ``labels`` ``(N,)`` are the true ones.

    ``accuracy`` and the dispersion within a predicted class, each before and after; the share of vectors whose
    largest score stays the largest; and the confidence distortion, the mean L1 distance of a vector from what it
    becomes, in [0, 2], as the code of the paper's authors takes it. Dispersion is that of the vectors, of their
    entropy (nats) and of their logs (nats), which is what an attacker sees who takes logs.
    """
    purified = purifier(scores)
    said, says = scores.argmax(1), purified.argmax(1)

    def spread(vectors: Tensor) -> dict[str, float]:
        logs = vectors.clamp(min=_FLOOR).log()
        entropy = -(vectors * logs).sum(1, keepdim=True)
        kinds = {"scores": vectors, "entropy": entropy, "log_scores": logs}
        return {kind: dispersion(values, said) for kind, values in kinds.items()}

    return {
        "images": len(scores),
        "accuracy": {"before": _share(said == labels), "after": _share(says == labels)},
        "same_label": _share(says == said),
        "confidence_distortion": float((purified - scores).abs().sum(1).mean()),
        "dispersion": {"before": spread(scores), "after": spread(purified)},
    }


def _scores(model: WholeModel, images: Images) -> Tensor:
    """The target's probabilities ``(N, K)``, on the CPU."""
    batches = images.floats().split(_BATCH)
    return torch.cat([torch.from_numpy(model.predict(batch.numpy())).softmax(1) for batch in batches])


def _share(found: Tensor) -> float:
    return float(found.double().mean())
