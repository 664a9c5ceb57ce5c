"""A served model describes itself in both dialects, and its statistics are sums and nothing else."""

import dataclasses
import json
from concurrent.futures import Future

import numpy as np
import pytest

from splitleak.wire.protocol import CODECS, codec
from splitleak.wire.protocol.pb import open_inference_pb2 as pb
from splitleak.wire.server.model import ServedModel
from splitleak.wire.server.statistics import Statistics

MODEL = ServedModel(
    name="m",
    platform="test",
    input_name="features",
    input_shape=(2, 3),
    output_name="logits",
    output_shape=(4,),
    max_batch_size=8,
    submit=lambda batch, request_id, timeout_s: Future(),
    properties={"cut": "2"},
)

FEATURES = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


def test_the_configuration_is_without_the_batch_axis_that_the_metadata_have():
    config = MODEL.config()
    assert (config.name, config.platform, config.backend, config.max_batch_size) == ("m", "test", "splitleak", 8)
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        ("features", pb.TYPE_FP32, [2, 3])
    ]
    assert [(each.name, each.data_type, list(each.dims)) for each in config.output] == [("logits", pb.TYPE_FP32, [4])]
    assert list(MODEL.metadata().inputs[0].shape) == [-1, 2, 3]
    properties = dict(MODEL.metadata().properties)
    assert json.loads(properties.pop("codecs")) == list(CODECS)
    assert properties == {"cut": "2", "max_batch_size": "8"}


@pytest.mark.parametrize("name", CODECS)
def test_an_input_travels_by_the_codecs_of_the_model_alone(name):
    request = codec.request("m", codec.encode(FEATURES, name), request_id="1")
    assert MODEL.tensor(request).shape == FEATURES.shape
    plain = dataclasses.replace(MODEL, codecs=("fp32",))
    assert json.loads(plain.metadata().properties["codecs"]) == ["fp32"]
    if name == "fp32":
        plain.tensor(request)
    else:
        with pytest.raises(ValueError, match=r"expected datatype FP32 for 'features', got (FP16|UINT8)$"):
            plain.tensor(request)


def test_plain_uint8_is_no_fp32():
    request = codec.request("m", codec.WireTensor("UINT8", FEATURES.shape, bytes(FEATURES.size)), request_id="1")
    with pytest.raises(ValueError, match="or UINT8 quantised with scale and zero_point, got UINT8 without"):
        MODEL.tensor(request)


def test_plain_fp16_is_no_fp32():
    request = codec.request("m", codec.WireTensor("FP16", FEATURES.shape, bytes(2 * FEATURES.size)), request_id="1")
    with pytest.raises(ValueError, match="or FP16 with parameter encoding 'fp16', got FP16 without"):
        MODEL.tensor(request)


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_shared_memory_is_told_as_what_it_is(part):
    request = codec.request("m", codec.encode(FEATURES, "fp32"), request_id="1")
    request.outputs.add(name="logits")
    getattr(request, part)[0].parameters["shared_memory_region"].string_param = "mine"
    del request.raw_input_contents[:]
    with pytest.raises(ValueError, match="got shared memory, which is not served here"):
        MODEL.tensor(request)


@pytest.mark.parametrize("extra", [b"", b"1234", bytes(48)])
def test_a_raw_buffer_too_many_is_refused(extra):
    request = codec.request("m", codec.encode(FEATURES, "fp32"), request_id="1")
    request.raw_input_contents.append(extra)
    with pytest.raises(ValueError, match="expected at most one raw buffer for 'features', got 2"):
        MODEL.tensor(request)


def test_the_statistics_are_the_counts_in_tritons_fields():
    statistics = Statistics()
    statistics.computed(5, [10, 20], 1000, input_ns=7, output_ns=3)
    for status in ("OK", "OK", "CANCELLED"):
        statistics.ended("ModelInfer", status, 50)
    told = ServedModel(**{**vars(MODEL), "statistics": statistics}).model_statistics()
    assert (told.name, told.version, told.inference_count, told.execution_count) == ("m", "1", 5, 1)
    assert told.last_inference > 1_700_000_000_000
    found = {name.name: (value.count, value.ns) for name, value in told.inference_stats.ListFields()}
    assert found == {
        "success": (2, 100),
        "fail": (1, 50),
        "queue": (2, 30),
        "compute_input": (2, 14),
        "compute_infer": (2, 2000),
        "compute_output": (2, 6),
    }
