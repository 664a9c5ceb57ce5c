"""Utility cost of a service's output policy: accuracy and distortion of the returned scores."""

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
    """Accuracy of the scores under a policy, and their distortion.

    Args:
        artifact: Folder of the target.
        policy: Settings of the policy.
        test: File of labelled test images.
        device: Where the target runs.
        seed: Of the policy and the defenses.

    Returns:
        ``accuracy`` and ``accuracy_without``: top-1 accuracy (ties: the lower class), with the policy and without;
        ``distortion``: mean L1 distance of the two score vectors of an image, from 0 to 2; ``changed``: share of images
        whose top-1 class changed.
    """
    whole, images = load_whole(artifact, device, seed=seed), load_file(test).train
    policy_config = PolicyConfig.parse(policy, source="policy")
    policies = [Policy(config, classes=whole.classes, seed=seed) for config in (PolicyConfig(), policy_config)]
    outputs: list[list[np.ndarray]] = [[], []]
    for batch in images.floats().split(_BATCH):
        logits = whole.predict(batch.numpy())
        for scores, apply_policy in zip(outputs, policies, strict=True):
            scores.append(apply_policy(logits, batch.numpy()))
    labels, (scores_before, scores_after) = images.labels.numpy(), map(np.concatenate, outputs)
    return {
        "accuracy": float((scores_after.argmax(1) == labels).mean()),
        "accuracy_without": float((scores_before.argmax(1) == labels).mean()),
        "distortion": float(np.abs(scores_after - scores_before).sum(1).mean()),
        "changed": float((scores_after.argmax(1) != scores_before.argmax(1)).mean()),
    }
