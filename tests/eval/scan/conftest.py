"""A tiny network as an ONNX file, whose leak at each cut is known, and a set of pictures."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from splitleak.graphs.importing import NetworkConfig, network_of
from splitleak.graphs.reading import read_graph


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory):
    """16 × 16 grey: squares of 4 × 4 mixed without loss, then averaged over the picture, then two answers."""
    draw = np.random.default_rng(0)
    weights = {
        "mix": np.linalg.qr(draw.normal(size=(16, 16)))[0].reshape(16, 1, 4, 4),
        "head": draw.normal(size=(16, 2)),
        "two": np.array([2.0]),
    }
    nodes = [
        helper.make_node("Conv", ["image", "mix"], ["mixed"], strides=[4, 4]),
        helper.make_node("Mul", ["mixed", "two"], ["doubled"]),
        helper.make_node("GlobalAveragePool", ["doubled"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 16, 16])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def tiny(tiny_onnx):
    return network_of(read_graph(tiny_onnx), NetworkConfig())


@pytest.fixture(scope="session")
def owned(small_splits):
    return small_splits.public.select(torch.arange(120))


@pytest.fixture(scope="session")
def attacked(small_splits):
    return small_splits.victims
