"""What a service's output policy costs its honest users."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitleak.cloud.policy import Policy, PolicyConfig
from splitleak.datasets.files import load_file
from splitleak.defenses.artifact import load_whole

_BATCH = 256


def measure_service(
    artifact: Path, policy: Mapping[str, Any], test: Path, device: torch.device, *, seed: int
) -> dict[str, float]:
    """Accuracy of what is let out, and how far it is from what the model says, over the images of ``test``.

    ``accuracy`` and ``accuracy_without`` are shares of images whose highest score is on the right class (ties: the
    lower class), with the policy and without; ``distortion`` is the mean L1 distance of the two vectors of an image,
    from 0 to 2; ``changed`` the share of images whose highest score moved to another class.
    """
    whole, images = load_whole(artifact, device, seed=seed), load_file(test).train
    asked = PolicyConfig.parse(policy, source="policy")
    policies = [Policy(each, classes=whole.classes, seed=seed) for each in (PolicyConfig(), asked)]
    found: list[list[np.ndarray]] = [[], []]
    for batch in images.floats().split(_BATCH):
        logits = whole.predict(batch.numpy())
        for scores, each in zip(found, policies, strict=True):
            scores.append(each(logits, batch.numpy()))
    true, (said, told) = images.labels.numpy(), map(np.concatenate, found)
    return {
        "accuracy": float((told.argmax(1) == true).mean()),
        "accuracy_without": float((said.argmax(1) == true).mean()),
        "distortion": float(np.abs(told - said).sum(1).mean()),
        "changed": float((told.argmax(1) != said.argmax(1)).mean()),
    }
