"""A half becomes a model of the protocol."""

import numpy as np

from cloud.batching import BatchingConfig, ComputeWorker
from cloud.repository import served_model


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
