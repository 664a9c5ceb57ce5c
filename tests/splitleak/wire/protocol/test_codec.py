"""What is encoded comes back within the codec's error, and any bytes give an array or `WireError`."""

import tracemalloc
import zlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitleak.errors import WireError
from splitleak.wire.protocol import CODECS, codec
from splitleak.wire.protocol.codec import WireTensor
from splitleak.wire.protocol.pb import open_inference_pb2 as pb

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, max_side=5)


def floats(limit: float):
    bound = float(np.float32(limit))
    return arrays.arrays(np.float32, SHAPES, elements=st.floats(-bound, bound, width=32))


def through_the_wire(tensor: WireTensor) -> np.ndarray:
    sent = codec.request("m", tensor, request_id="7").SerializeToString()
    return codec.decode(codec.request_tensor(pb.ModelInferRequest.FromString(sent)))


@given(floats(3e38))
def test_fp32_comes_back_unchanged(values):
    back = through_the_wire(codec.encode(values, "fp32"))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values)


@given(floats(65504))
def test_fp16_comes_back_as_numpy_rounds_it(values):
    back = through_the_wire(codec.encode(values, "fp16"))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values.astype(np.float16).astype(np.float32))
    wide = values.astype(np.float64)
    assert (np.abs(back - wide) <= np.maximum(np.abs(wide) * 2**-11, 2**-25)).all()


def test_fp16_keeps_little_of_slight_values():
    slight = np.array([1e-6, 1e-8], np.float32)
    back = codec.decode(codec.encode(slight, "fp16"))
    assert np.abs(back - slight)[0] > 0.01 * slight[0]
    assert back[1] == 0


@given(floats(1e38))
def test_uint8_comes_back_within_half_a_step(values):
    tensor = codec.encode(values, "uint8")
    back = through_the_wire(tensor)
    assert (back.dtype, back.shape, len(tensor.raw)) == (np.float32, values.shape, values.size)
    wide = values.astype(np.float64)
    tolerance = (wide.max() - wide.min()) / 255 / 2 * (1 + 1e-9) + np.abs(wide).max() * 2**-23 + 1e-45
    assert np.abs(back.astype(np.float64) - wide).max() <= tolerance


def test_uint8_keeps_the_ends_of_the_range_and_a_constant():
    values = np.array([-1.5, 0.1, 3.0], np.float32)
    np.testing.assert_allclose(codec.decode(codec.encode(values, "uint8"))[[0, 2]], [-1.5, 3.0], rtol=1e-6)
    constant = np.full((2, 3), 0.7, np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(constant, "uint8")), constant)


@given(floats(1e38))
def test_uint8_leaves_what_was_dropped_at_zero(values):
    dropped = np.append(values, np.float32(0))
    assert through_the_wire(codec.encode(dropped, "uint8"))[-1] == 0


@given(floats(65504), st.sampled_from(["fp16", "uint8"]))
def test_deflate_changes_no_value_and_never_adds_a_byte(values, name):
    plain, packed = codec.encode(values, name), codec.encode(values, f"{name}+deflate")
    assert len(packed.raw) <= len(plain.raw)
    np.testing.assert_array_equal(through_the_wire(packed), codec.decode(plain))


def test_deflate_says_so_only_where_it_saves_bytes():
    assert codec.encode(np.zeros((64, 8), np.float32), "fp16+deflate").encoding == "deflate"
    assert codec.encode(np.ones(1, np.float32), "fp16+deflate").encoding == "fp16"
    assert codec.encode(np.ones(1, np.float32), "uint8+deflate").encoding is None


def deflated(raw: bytes, shape: tuple[int, ...]) -> WireTensor:
    return WireTensor("UINT8", shape, raw, encoding="deflate")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (deflated(zlib.compress(bytes(9)), (8,)), r"expected 8 bytes for UINT8 of shape \[8\], got 9"),
        (deflated(zlib.compress(bytes(7)), (8,)), "got 7"),
        (deflated(zlib.compress(bytes(2**24)), (8,)), "got 9"),
        (deflated(zlib.compress(bytes(2**24)), (2**40,)), "at most 67108864 bytes to inflate"),
        (deflated(zlib.compress(bytes(8)) + b"more", (8,)), "to end with its 8 bytes"),
        (deflated(zlib.compress(bytes(8))[:-1], (8,)), "to end with its 8 bytes"),
        (deflated(b"no such thing", (8,)), "packed by deflate, but"),
        (WireTensor("UINT8", (1,), b"a", encoding="zstd"), "expected no encoding or 'deflate', got 'zstd'"),
    ],
)
def test_what_does_not_inflate_to_its_shape_is_refused(tensor, message):
    with pytest.raises(WireError, match=message):
        codec.decode(tensor)


def test_a_small_message_does_not_unpack_to_gigabytes():
    bomb = deflated(zlib.compress(bytes(2**27), 9), (8,))
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="got 9"):
            codec.decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_uint8_without_scale_is_plain_codes():
    back = codec.decode(WireTensor("UINT8", (3,), bytes([0, 7, 255])))
    np.testing.assert_array_equal(back, np.array([0, 7, 255], np.float32))


def test_decoded_fp32_is_a_read_only_view_of_the_message():
    tensor = codec.encode(np.ones((2, 3), np.float32), "fp32")
    view = codec.decode(tensor)
    assert np.shares_memory(view, np.frombuffer(tensor.raw, np.uint8))
    assert not view.flags.writeable
    assert not codec.decode(WireTensor("FP32", (1,), bytearray(4))).flags.writeable


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_encoding_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match=r"expected finite values, got 1"):
        codec.encode(np.array([1, bad], np.float32), "fp32")


def test_encoding_refuses_what_it_cannot_carry():
    with pytest.raises(ValueError, match="65504 for fp16, got 70000"):
        codec.encode(np.array([-70000], np.float32), "fp16")
    with pytest.raises(ValueError, match=r"at least one value, got shape \(0, 3\)"):
        codec.encode(np.zeros((0, 3), np.float32), "uint8")
    with pytest.raises(ValueError, match="got 'int4'"):
        codec.encode(np.zeros(1, np.float32), "int4")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (WireTensor("INT64", (1,), bytes(8)), "expected datatype FP32, FP16, UINT8, got 'INT64'"),
        (WireTensor("FP32", (2, 3), bytes(20)), r"expected 24 bytes for FP32 of shape \[2, 3\], got 20"),
        (WireTensor("FP32", (2, 3), bytes(28)), "expected 24 bytes .* got 28"),
        (WireTensor("FP32", (-2, -1), bytes(8)), "expected no negative size"),
        (WireTensor("FP32", (0, 2**62, 2**62), b""), "expected the shape of an array"),
        (WireTensor("FP32", (1,) * 1000, bytes(4)), "expected at most 16 axes, got 1000"),
        (WireTensor("UINT8", (1,), b"a", scale=1.0), "expected scale and zero_point together"),
        (WireTensor("UINT8", (1,), b"a", float("nan"), 0.0), "both finite, got nan"),
        (WireTensor("UINT8", (1,), b"a", -1.0, 0.0), "expected scale > 0"),
        (WireTensor("UINT8", (1,), b"a", 1e300, 0.0), "within float32's range"),
    ],
)
def test_a_tensor_whose_parts_disagree_is_refused_with_what_came(tensor, message):
    with pytest.raises(WireError, match=message):
        codec.decode(tensor)


def test_typed_contents_are_read_like_raw_ones():
    message = codec.request("m", WireTensor("FP32", (2,), b""), request_id="")
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend([1.5, -2])
    np.testing.assert_array_equal(codec.decode(codec.request_tensor(message)), np.array([1.5, -2], np.float32))


def test_contents_that_do_not_fit_the_datatype_are_refused():
    message = codec.request("m", WireTensor("UINT8", (1,), b"a"), request_id="")
    message.inputs[0].contents.uint_contents.append(256)
    with pytest.raises(WireError, match="got both"):
        codec.request_tensor(message)
    del message.raw_input_contents[:]
    with pytest.raises(WireError, match="from 0 to 255 for UINT8, got 256"):
        codec.request_tensor(message)
    message.inputs[0].datatype = "FP32"
    with pytest.raises(WireError, match=r"in fp32_contents, got \['uint_contents'\]"):
        codec.request_tensor(message)
    message.inputs[0].ClearField("contents")
    message.inputs[0].parameters["scale"].string_param = "2"
    with pytest.raises(WireError, match="'scale' of 'features' as double_param, got string_param"):
        codec.request_tensor(message)


def test_a_response_without_the_output_or_its_bytes_is_refused():
    response = pb.ModelInferResponse(outputs=[{"name": "logits", "datatype": "FP32", "shape": [1, 2]}])
    with pytest.raises(WireError, match=r"expected output 'other', got \['logits'\]"):
        codec.response_array(response, "other")
    with pytest.raises(WireError, match=r"expected 8 bytes .* got 0"):
        codec.response_array(response, "logits")


@given(
    st.builds(
        WireTensor,
        st.sampled_from(["FP32", "FP16", "UINT8", "BYTES", ""]),
        st.lists(st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=5).map(tuple),
        st.binary(max_size=64),
        st.none() | st.floats(),
        st.none() | st.floats(),
        st.sampled_from([None, "deflate", ""]),
    )
)
@settings(max_examples=300)
def test_any_tensor_gives_an_array_of_its_shape_or_a_wire_error(tensor):
    try:
        values = codec.decode(tensor)
    except WireError:
        return
    assert (values.dtype, values.shape) == (np.float32, tensor.shape)


@given(st.binary(max_size=4), st.sampled_from(["FP32", "FP16", "UINT8"]))
def test_bytes_of_the_right_length_always_decode(raw, datatype):
    size = codec.DATATYPES[datatype].itemsize
    raw = raw[: len(raw) // size * size]
    assert codec.decode(WireTensor(datatype, (len(raw) // size,), raw)).size == len(raw) // size


def plain(shape=(2, 3)):
    return codec.request("m", codec.encode(np.ones(shape, np.float32), "fp32"), request_id="1")


@given(st.data())
def test_a_known_layout_reads_what_decode_reads_and_leaves_all_else_to_it(data):
    good = plain()
    known = codec.Layout.of(good.inputs[0], codec.decode(codec.request_tensor(good)))
    sent = good.SerializeToString()
    position = data.draw(st.integers(0, len(sent)))
    bad = sent[:position] + data.draw(st.binary(max_size=8)) + sent[position + data.draw(st.integers(0, 8)) :]
    try:
        message = pb.ModelInferRequest.FromString(bad)
    except DecodeError:
        return
    if message.inputs and message.raw_input_contents:
        found = known.read(message.inputs[0], message.raw_input_contents[0])
        if found is not None:
            np.testing.assert_array_equal(found, codec.decode(codec.request_tensor(message)))
            assert not found.flags.writeable


def test_another_shape_name_parameter_length_or_typed_contents_is_no_known_layout():
    good = plain()
    known = codec.Layout.of(good.inputs[0], codec.decode(codec.request_tensor(good)))
    raw = good.raw_input_contents[0]
    assert known.read(good.inputs[0], raw).tolist() == np.ones((2, 3)).tolist()
    assert known.read(plain((3, 2)).inputs[0], raw) is None
    assert known.read(good.inputs[0], raw[:-4]) is None
    for change in (
        lambda entry: setattr(entry, "name", "b"),
        lambda entry: setattr(entry, "datatype", "UINT8"),
        lambda entry: entry.parameters["encoding"].__setattr__("string_param", "deflate"),
        lambda entry: entry.contents.fp32_contents.append(1),
        lambda entry: entry.contents.SetInParent(),
    ):
        other = plain().inputs[0]
        change(other)
        assert known.read(other, raw) is None


def test_only_plain_fp32_has_a_layout():
    for how in list(CODECS)[1:]:
        message = codec.request("m", codec.encode(np.zeros((2, 30), np.float32), how), request_id="")
        assert codec.Layout.of(message.inputs[0], codec.decode(codec.request_tensor(message))) is None


@given(st.data())
def test_any_message_gives_a_tensor_or_a_wire_error(data):
    good = codec.request(
        "m", codec.encode(np.zeros(40, np.float32), "uint8+deflate"), request_id="1"
    ).SerializeToString()
    position = data.draw(st.integers(0, len(good) - 1))
    bad = good[:position] + data.draw(st.binary(max_size=8)) + good[position + data.draw(st.integers(0, 8)) :]
    try:
        message = pb.ModelInferRequest.FromString(bad)
    except DecodeError:
        return
    try:
        codec.decode(codec.request_tensor(message))
    except WireError:
        return
