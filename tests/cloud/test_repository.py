"""A half or a whole model becomes a model of the protocol, with the policy on what it says."""

import json

import numpy as np
import pytest

from splitleak.cloud.batching import BatchingConfig, ComputeWorker
from splitleak.cloud.policy import Policy, PolicyConfig
from splitleak.cloud.repository import predictor, served_model
from splitleak.errors import WireError


class Half:
    name, feature_shape, classes, properties = "half", (2, 3), 4, {"cut": "1"}

    def predict(self, features):
        return features.reshape(len(features), -1)[:, :4]


def test_a_half_is_served_under_its_name_shapes_and_facts():
    with ComputeWorker(Half().predict, BatchingConfig(max_batch_size=5)) as worker:
        model = served_model(Half(), worker)
        batch = np.ones((3, 2, 3), np.float32)
        np.testing.assert_array_equal(model.submit(batch, "1", 10).result(10).output, np.ones((3, 4)))
    assert (model.name, model.input_name, model.output_name) == ("half", "features", "logits")
    assert (model.input_shape, model.output_shape, model.max_batch_size) == ((2, 3), (4,), 5)
    assert model.properties == {"cut": "1"}


class Whole:
    name, input_shape, classes, properties = "whole", (1, 2, 2), 4, {"classes": "[]"}

    def predict(self, images):
        return 9 * images.reshape(len(images), -1)


def test_a_policy_turns_a_halfs_logits_into_probabilities_and_is_announced():
    policy = Policy(PolicyConfig(label_only=True), classes=4)
    with ComputeWorker(predictor(Half(), policy), BatchingConfig()) as worker:
        model = served_model(Half(), worker, policy)
        batch = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
        assert model.submit(batch, "1", 10).result(10).output.tolist() == [[0, 0, 0, 1]]
    assert (model.input_name, model.output_name) == ("features", "probabilities")
    assert model.properties == {"cut": "1", "policy": '{"label_only": true}'}


def test_a_whole_model_takes_images_says_which_and_refuses_others():
    policy = Policy(PolicyConfig(), classes=4)
    with ComputeWorker(predictor(Whole(), policy), BatchingConfig()) as worker:
        model = served_model(Whole(), worker, policy)
        told = model.submit(np.ones((2, 1, 2, 2), np.float32), "1", 10).result(10).output
        for value in (np.nan, 1.01, -0.01):
            with pytest.raises(ValueError, match=r"expected image values in \[0, 1\]"):
                model.submit(np.full((1, 1, 2, 2), value, np.float32), "1", 10)
    np.testing.assert_allclose(told, np.full((2, 4), 0.25))
    assert (model.input_name, model.input_shape, model.output_name) == ("images", (1, 2, 2), "probabilities")
    assert json.loads(model.properties["input"]) == {"shape": [1, 2, 2], "layout": "CHW", "low": 0, "high": 1}
    assert model.properties["policy"] == "{}"


def test_fixed_noise_is_of_the_input_and_not_of_the_logits():
    policy = Policy(PolicyConfig(sigma=0.1, noise="fixed"), classes=4)
    run = predictor(Whole(), policy)
    one = np.random.default_rng(0).random((1, 1, 2, 2), np.float32)
    np.testing.assert_array_equal(run(one), policy(Whole().predict(one), one))


def test_values_that_a_policy_cannot_score_are_refused_alone():
    policy = Policy(PolicyConfig(), classes=4)
    with ComputeWorker(predictor(Half(), policy), BatchingConfig()) as worker:
        model = served_model(Half(), worker, policy)
        answers = [model.submit(np.full((1, 2, 3), value, np.float32), "1", 10) for value in (1, np.nan, 2)]
        assert [answers[at].result(10).output.tolist() for at in (0, 2)] == [[[0.25] * 4]] * 2
        with pytest.raises(WireError, match="logits which are not finite"):
            answers[1].result(10)
