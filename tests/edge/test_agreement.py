"""What a server announces of its model, or does not, through a client that is connected to it."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from splitleak.edge.agreement import Agreement
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.errors import WireError
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

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
        assert (client.agreement.output_name, client.agreement.output_shape) == ("logits", (3,))
    with (
        EdgeClient(encoder, config(cloud, input_name="features", output_name="scores")) as client,
        pytest.raises(ValueError, match=r"expected output 'scores', got \['logits'\]"),
    ):
        client.submit(IMAGE, "a").result()


def test_the_half_of_another_artifact_is_refused_where_both_tell_which_they_are_of(encoder, start_cloud):
    cloud = start_cloud()
    with EdgeClient(encoder, config(cloud, pair="0123456789ab")) as client:  # a foreign server, which tells nothing
        client.submit(IMAGE, "a").result()
    cloud.properties = {"pair": "0123456789ab"}
    for own in (None, "0123456789ab"):
        with EdgeClient(encoder, config(cloud, pair=own)) as client:
            client.submit(IMAGE, "a").result()
    with (
        pytest.raises(ValueError, match=r"model 'toy' at .*: expected the other half of the encoder's"),
        EdgeClient(encoder, config(cloud, pair="ba9876543210")),
    ):
        pass


def test_an_answer_of_the_half_of_another_artifact_is_refused_though_the_cloud_was_right_at_first(encoder, start_cloud):
    cloud, served = start_cloud(), ["0123456789ab", "ba9876543210", "0123456789ab", None]

    def answered(request):
        answer, pair = cloud.answer(request), served[len(cloud.arrived) - 1]
        if pair is not None:
            answer.parameters["pair"].string_param = pair
        return pb.ModelStreamInferResponse(infer_response=answer)

    cloud.hold = answered
    with EdgeClient(encoder, config(cloud, pair="0123456789ab")) as client:
        client.submit(IMAGE, "a").result()
        with pytest.raises(ValueError, match=r"expected the other half of the encoder's artifact"):
            client.submit(IMAGE, "b").result()
        for name in "cd":
            client.submit(IMAGE, name).result()


def test_of_several_tensors_the_named_ones_are_used_and_a_size_may_be_open(encoder, start_cloud):
    cloud = start_cloud()
    cloud.inputs = (("features", (-1, 2, -1, -1)), ("scale", (-1, 1)))
    cloud.outputs = (("logits", (-1, -1)), ("label", (-1, 1)))
    with (
        pytest.raises(LookupError, match=r"one input, got \['features', 'scale'\]"),
        EdgeClient(encoder, config(cloud)),
    ):
        pass
    named = config(cloud, input_name="features", output_name="logits")
    with EdgeClient(encoder, named) as client:
        assert client.submit(IMAGE, "a").result().output.shape == (1, 3)
    with (
        pytest.raises(LookupError, match="one output 'scores', got"),
        EdgeClient(encoder, config(cloud, input_name="features", output_name="scores")),
    ):
        pass


def verdict(agreement, response):
    try:
        output = agreement.logits(response, 2)
    except WireError as error:
        return str(error)
    return output.shape, output.tobytes()


@given(st.data())
def test_what_an_earlier_answer_has_taught_changes_no_verdict_on_a_later_one(data):
    output = {"name": "logits", "datatype": "FP32", "shape": (2, 3)}
    good = pb.ModelInferResponse(id="a", outputs=[output], raw_output_contents=[bytes(range(24))])
    taught = Agreement("features", "logits", (3,))
    assert verdict(taught, good) == verdict(taught, good) == ((2, 3), bytes(range(24)))
    sent = good.SerializeToString()
    position = data.draw(st.integers(0, len(sent)))
    bad = sent[:position] + data.draw(st.binary(max_size=8)) + sent[position + data.draw(st.integers(0, 8)) :]
    try:
        response = pb.ModelInferResponse.FromString(bad)
    except DecodeError:
        return
    assert verdict(taught, response) == verdict(Agreement("features", "logits", (3,)), response)
