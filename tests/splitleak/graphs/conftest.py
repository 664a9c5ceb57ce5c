import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from splitleak.graphs.module import GraphModule


def model_of(nodes, inputs, outputs, constants=None, version=17):
    """A graph of ``nodes``; inputs of any shape, floats unless a dictionary gives their element types."""
    kinds = inputs if isinstance(inputs, dict) else dict.fromkeys(inputs, TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


@pytest.fixture
def model():
    """``model(nodes, inputs, outputs, constants, version)``: an ONNX model."""
    return model_of


@pytest.fixture
def answers():
    """``answers(model, *arrays)``: its outputs here and in ONNX Runtime, two lists of arrays."""

    def both(given, *arrays):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(given.SerializeToString(), options, ["CPUExecutionProvider"])
        theirs = session.run(None, {each.name: array for each, array in zip(session.get_inputs(), arrays, strict=True)})
        with torch.no_grad():
            ours = GraphModule(given).eval()(*(torch.from_numpy(array) for array in arrays))
        return [output.numpy() for output in (ours if isinstance(ours, tuple) else (ours,))], theirs

    return both


@pytest.fixture
def assert_alike(answers):
    """``assert_alike(kind, arrays, constants, version=, outputs=, **attributes)``: one node, as in ONNX Runtime."""

    def check(kind, arrays, constants=(), *, version, outputs=1, **attributes):
        names = [f"x{place}" for place in range(len(arrays))]
        held = {f"c{place}": value for place, value in enumerate(constants) if value is not None}
        reads = names + [f"c{place}" if value is not None else "" for place, value in enumerate(constants)]
        writes = [f"y{place}" for place in range(outputs)]
        elements = {
            name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in zip(names, arrays, strict=True)
        }
        given = model_of([helper.make_node(kind, reads, writes, **attributes)], elements, writes, held, version)
        for own, their in zip(*answers(given, *arrays), strict=True):
            assert own.dtype == their.dtype
            assert own.shape == their.shape
            assert np.allclose(own, their, rtol=1e-4, atol=1e-5)

    return check


@pytest.fixture
def drawn():
    """``drawn(*shape)``: floats by a fixed seed."""
    generator = np.random.default_rng(0)
    return lambda *shape: generator.standard_normal(shape).astype(np.float32)
