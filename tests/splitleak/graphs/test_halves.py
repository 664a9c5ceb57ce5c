"""Both halves of a cut network give what the whole gives."""

import io

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

from splitleak.graphs.halves import CROSSING, check_halves, cloud_half, edge_half
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import IMAGES, OUTPUT, Preprocessing, prepare
from splitleak.graphs.reading import sort_nodes
from splitleak.graphs.user_module import export_module
from tests.splitleak.graphs.test_network import Attends, Residual, network, reshaping


@pytest.mark.parametrize("made", [Residual, pytest.param(Attends, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tensors", [1, 3])
def test_edge_and_cloud_together_are_the_whole_at_every_cut(made: type[torch.nn.Module], tensors: int) -> None:
    whole = network(made())
    cuts = whole.cuts(tensors)
    assert max(len(cut.tensors) for cut in cuts) == (1 if tensors == 1 else max(len(cut.tensors) for cut in cuts))
    for cut in cuts[:: max(1, len(cuts) // 12)]:
        edge, cloud = edge_half(whole, cut), cloud_half(whole, cut)
        onnx.checker.check_model(edge)
        onnx.checker.check_model(cloud)
        assert check_halves(whole, edge, cloud, rows=(1, 3, 5)) < 1e-5


def test_a_half_holds_no_weight_of_the_other() -> None:
    whole = network(Residual())
    cut = whole.cuts()[0]
    edge, cloud = edge_half(whole, cut), cloud_half(whole, cut)
    assert [each.name for each in edge.graph.input] == [IMAGES]
    assert [each.name for each in edge.graph.output] == [each.name for each in cloud.graph.input] == [CROSSING]
    assert [each.name for each in cloud.graph.output] == [OUTPUT]
    sizes = [
        sum(np.prod(tensor.dims) for tensor in half.graph.initializer if tensor.data_type == 1)
        for half in (edge, cloud)
    ]
    assert sizes == [4 * 3 * 9 + 4, 4 * 4 * 9 + 4 + 4 * 4 + 5 * 4 + 5]


def test_a_network_of_one_image_is_cut_as_well() -> None:
    whole = Network(prepare(reshaping(1), Preprocessing(), {"x": (3, 2, 2)}, {}, None))
    for cut in whole.cuts():
        assert check_halves(whole, edge_half(whole, cut), cloud_half(whole, cut)) == 0


def halved(kind: int) -> ModelProto:
    """Computes in another precision: relu, then minus."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 2, 2]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [given], [made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("kind", "width"), [(TensorProto.FLOAT16, 2), (TensorProto.DOUBLE, 8)])
def test_a_tensor_of_another_precision_crosses_as_float32_and_counts_its_own_bytes(kind: int, width: int) -> None:
    whole = Network(prepare(halved(kind), Preprocessing(), {"x": (3, 2, 2)}, {}, None))
    cut = next(cut for cut in whole.cuts() if cut.after == "Relu")
    assert cut.bytes == 12 * width
    edge = edge_half(whole, cut)
    assert edge.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert check_halves(whole, edge, cloud_half(whole, cut)) == 0


def test_a_network_of_half_precision_is_cut_though_it_is_rounded_at_the_cut() -> None:
    torch.manual_seed(0)
    inputs = {"image": (3, 32, 32)}
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5))
    model = convert_float_to_float16(export_module(module.eval(), inputs), keep_io_types=True)
    sort_nodes(model.graph)
    whole = Network(prepare(model, Preprocessing(), inputs, {}, None))
    differences = [check_halves(whole, edge_half(whole, cut), cloud_half(whole, cut)) for cut in whole.cuts()]
    assert 1e-4 < max(differences) < 1e-2


def test_halves_that_give_something_else_are_refused() -> None:
    whole = network(Residual())
    cut = whole.cuts()[0]
    edge, cloud = edge_half(whole, cut), cloud_half(whole, cut)
    bias = next(tensor for tensor in cloud.graph.initializer if list(tensor.dims) == [5])
    bias.CopyFrom(numpy_helper.from_array(np.full(5, 1, np.float32), bias.name))
    with pytest.raises(RuntimeError, match=r"the whole's answer within 0\.0001, got"):
        check_halves(whole, edge, cloud)


def test_a_half_is_read_back_as_it_was_written() -> None:
    whole = network(Residual())
    edge = edge_half(whole, whole.cuts()[0])
    assert onnx.load(io.BytesIO(edge.SerializeToString())) == edge
