import numpy as np
import pytest
import torch

from splitleak.defenses.artifact import load_whole
from splitleak.eval.targets.service_quality import measure_service


@pytest.fixture
def measured(artifact, small_splits, tmp_path):
    small_splits.test.save(tmp_path / "test.npz")
    return lambda **policy: measure_service(artifact, policy, tmp_path / "test.npz", torch.device("cpu"), seed=0)


def test_without_a_policy_nothing_is_lost(measured, artifact, small_splits):
    found = measured()
    logits = load_whole(artifact, torch.device("cpu"), seed=0).predict(small_splits.test.floats().numpy())
    accuracy = (logits.argmax(1) == small_splits.test.labels.numpy()).mean()
    assert found["accuracy"] == found["accuracy_without"] == pytest.approx(accuracy)
    assert found["distortion"] == found["changed"] == 0


def test_label_only_keeps_the_accuracy_and_distorts_by_twice_the_missing_confidence(measured, artifact, small_splits):
    found = measured(label_only=True)
    logits = load_whole(artifact, torch.device("cpu"), seed=0).predict(small_splits.test.floats().numpy())
    scores = torch.from_numpy(logits).double().softmax(1).numpy()
    assert found["changed"] == 0
    assert found["accuracy"] == found["accuracy_without"]
    assert found["distortion"] == pytest.approx(np.mean(2 * (1 - scores.max(1))), rel=1e-5)


def test_noise_moves_labels(measured):
    found = measured(sigma=1.0)
    assert found["changed"] > 0.1
    assert found["distortion"] > 0.1
