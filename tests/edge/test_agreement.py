"""What a server announces of its model, or does not, through a client that is connected to it."""

import numpy as np
import pytest

from edge.client import EdgeClient, EdgeConfig

IMAGE = np.full((1, 1, 4, 4), 0.5, np.float32)


def config(cloud, **options):
    return EdgeConfig(cloud=cloud.address, model="toy", **options)


def test_a_server_that_announces_nothing_is_taken_at_the_configs_word(encoder, start_cloud):
    cloud = start_cloud()
    cloud.inputs, cloud.outputs = (), ()
    with pytest.raises(ValueError, match="name of the input"), EdgeClient(encoder, config(cloud)):
        pass
    with EdgeClient(encoder, config(cloud, input_name="features")) as client:
        assert client.submit(IMAGE, "a").result().output.shape == (1, 3)
        assert (client.output_name, client.output_shape) == ("logits", (3,))
    with (
        EdgeClient(encoder, config(cloud, input_name="features", output_name="scores")) as client,
        pytest.raises(ValueError, match=r"expected output 'scores', got \['logits'\]"),
    ):
        client.submit(IMAGE, "a").result()


def test_of_several_tensors_the_named_ones_are_used_and_a_size_may_be_open(encoder, start_cloud):
    cloud = start_cloud()
    cloud.inputs = (("features", (-1, 2, -1, -1)), ("scale", (-1, 1)))
    cloud.outputs = (("logits", (-1, -1)), ("label", (-1, 1)))
    with pytest.raises(ValueError, match=r"one input, got \['features', 'scale'\]"), EdgeClient(encoder, config(cloud)):
        pass
    named = config(cloud, input_name="features", output_name="logits")
    with EdgeClient(encoder, named) as client:
        assert client.submit(IMAGE, "a").result().output.shape == (1, 3)
    with (
        pytest.raises(ValueError, match="one output 'scores', got"),
        EdgeClient(encoder, config(cloud, input_name="features", output_name="scores")),
    ):
        pass
