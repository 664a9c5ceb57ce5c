from hypothesis import given
from hypothesis import strategies as st

from splitleak.wire.protocol import codec
from splitleak.wire.protocol.codec import WireTensor
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.protocol.request import RequestEncoder, RequestHead

names = st.text(max_size=300)
doubles = st.floats(allow_nan=False)
tensors = st.builds(
    WireTensor,
    datatype=st.sampled_from(["FP32", "FP16", "UINT8"]),
    shape=st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    raw=st.binary(max_size=20_000),
    scale=st.none() | doubles,
    zero_point=st.none() | doubles,
)


@given(names, names, names, tensors, st.none() | st.integers(0, 2**63 - 1))
def test_a_message_parses_to_what_protobuf_would_have_made(model, input_name, request_id, tensor, timeout_us):
    expected = codec.request(model, tensor, request_id=request_id, input_name=input_name)
    if timeout_us is not None:
        expected.parameters["timeout"].int64_param = timeout_us
    encoder = RequestEncoder(model, input_name)
    for _ in range(2):
        made = encoder.message(tensor, request_id=request_id, timeout_us=timeout_us)
        assert pb.ModelInferRequest.FromString(made) == expected


@given(st.lists(tensors, min_size=1, max_size=20))
def test_tensors_of_many_heads_through_one_encoder_keep_their_own(found):
    encoder = RequestEncoder("m", "features")
    for tensor in found:
        parsed = pb.ModelInferRequest.FromString(encoder.message(tensor, request_id="a"))
        assert codec.request_tensor(parsed) == tensor


def test_a_head_leaves_out_the_id_and_the_tensor_of_the_request_it_was_made_from():
    first = codec.request("m", WireTensor("FP32", (1, 2), bytes(8)), request_id="first")
    made = pb.ModelInferRequest.FromString(RequestHead(first).message(bytes(range(8)), request_id="second"))
    assert made.id == "second"
    assert list(made.raw_input_contents) == [bytes(range(8))]
    assert first.id == "first"
