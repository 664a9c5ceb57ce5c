"""A half of an imported network in torch and in ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from splitleak.graphs.halves import cloud_half, edge_half
from splitleak.graphs.importing import NetworkConfig, network_of
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import Preprocessing, prepare
from splitleak.models.counting import count_macs
from splitleak.models.engine import choose_engine
from splitleak.models.export import OnnxModule, check_parity, onnx_bytes
from splitleak.models.imported_half import (
    ImportedModel,
    StandIn,
    Unreached,
    both_halves,
    file_engine,
    torch_half,
    unreached,
)
from splitleak.models.split import output_shape
from tests.splitleak.graphs.test_network import Attends, Residual, network, reshaping


def described(whole, cut, **more):
    return ImportedModel(
        source="net.onnx",
        network="0",
        cut=cut.name,
        image_shape=whole.image_shape,
        features=cut.feature_shape,
        classes=whole.outputs,
        batched=whole.batched,
        **more,
    )


@pytest.fixture(scope="module")
def cut_network():
    whole = network(Residual())
    return whole, whole.cuts()[1]


def test_torch_and_the_file_compute_the_same_and_gradients_pass(cut_network, tmp_path):
    whole, cut = cut_network
    path = tmp_path / "network.onnx"
    onnx.save(edge_half(whole, cut), path)
    model = described(whole, cut)
    images = np.random.default_rng(0).random((4, *whole.image_shape), dtype=np.float32)
    module = torch_half(path, model)
    given = torch.from_numpy(images).requires_grad_()
    features = module(given)
    features.square().sum().backward()
    assert float(given.grad.abs().sum()) > 0
    np.testing.assert_allclose(file_engine(path, model).values(images), features.detach().numpy(), rtol=1e-5, atol=1e-4)


def test_macs_of_a_half_are_those_of_the_cut(cut_network):
    whole, cut = cut_network
    networks = {"edge": edge_half(whole, cut).SerializeToString(), "cloud": cloud_half(whole, cut).SerializeToString()}
    edge, cloud = both_halves(networks, described(whole, cut))
    assert count_macs(edge, whole.image_shape).macs == cut.device_macs
    assert count_macs(cloud, cut.feature_shape).macs == cut.cloud_macs
    with pytest.raises(ValueError, match="no cloud half"):
        both_halves({"edge": networks["edge"]}, described(whole, cut))
    assert both_halves({}, None) is None


class Sized(nn.Module):
    """Tokens beside learned ones and zeros, as many as there are images: three ways that sizes follow from a batch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.token, self.places = nn.Parameter(torch.rand(1, 1, 4)), nn.Parameter(torch.rand(1, 3, 4))
        self.head = nn.Linear(4 * 18, 5)

    def forward(self, images):
        count = images.size(0)
        tokens = self.stem(images).view(count, 4, -1).transpose(1, 2)
        beside = self.token.expand(count, -1, -1), self.places.repeat(count, 1, 1), torch.zeros(count, 2, 4)
        return self.head(torch.cat([*beside, tokens], 1).reshape(count, -1))


@pytest.mark.slow
@pytest.mark.parametrize("make", [Sized, Attends])
def test_halves_whose_shapes_follow_from_the_batch_are_exported_for_any(make):
    whole = network(make())
    for cut in whole.cuts()[::3]:
        networks = {"edge": edge_half(whole, cut), "cloud": cloud_half(whole, cut)}
        written = {half: graph.SerializeToString() for half, graph in networks.items()}
        for half, shape in zip(
            both_halves(written, described(whole, cut)), (whole.image_shape, cut.feature_shape), strict=True
        ):
            exported = OnnxModule(onnx_bytes(half.eval(), shape), threads=1)
            for rows in (1, 2, 3):
                check_parity(half, exported, np.random.default_rng(rows).random((rows, *shape), dtype=np.float32))


def test_preprocessing_is_not_trained():
    from splitleak.graphs.user_module import export_module

    inputs = {"image": (3, 8, 6)}
    given = Preprocessing(mean=(0.5,), deviation=(0.25,))
    whole = Network(prepare(export_module(Residual().eval(), inputs), given, inputs, {}, None))
    cut = whole.cuts()[-1]
    networks = {"edge": edge_half(whole, cut).SerializeToString(), "cloud": cloud_half(whole, cut).SerializeToString()}
    edge, _ = both_halves(networks, described(whole, cut))
    trained = [name for name, weight in edge.named_parameters() if weight.requires_grad]
    assert len(trained) == 6
    assert not [name for name in trained if name.startswith("images")]


def test_a_network_of_one_image_takes_any_number_in_torch_as_well(tmp_path):
    whole = Network(prepare(reshaping(1), Preprocessing(), {"x": (3, 2, 2)}, {}, None))
    cut = whole.cuts()[1]
    path = tmp_path / "network.onnx"
    onnx.save(edge_half(whole, cut), path)
    rows = np.random.default_rng(0).random((3, 3, 2, 2), dtype=np.float32)
    expected = np.maximum(rows, 0).reshape(3, 12)
    np.testing.assert_array_equal(torch_half(path, described(whole, cut))(torch.from_numpy(rows)).numpy(), expected)
    np.testing.assert_array_equal(file_engine(path, described(whole, cut)).values(rows), expected)


def alone():
    """A convolution and a layer, in a file that fixes the batch to one image."""
    draw = np.random.default_rng(0)
    held = {"k": draw.random((4, 3, 3, 3)), "w": draw.random((4 * 24, 5))}
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    shape = numpy_helper.from_array(np.array([1, 4 * 24]), "shape")
    graph = helper.make_graph(nodes, "g", [given], [made], [*weights, shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Network(prepare(model, Preprocessing(), {"x": (3, 8, 6)}, {}, None))


def test_a_half_of_one_image_is_exported_and_counted_for_one():
    whole = alone()
    assert not whole.batched
    cut = whole.cuts()[0]
    networks = {"edge": edge_half(whole, cut).SerializeToString(), "cloud": cloud_half(whole, cut).SerializeToString()}
    edge, cloud = both_halves(networks, described(whole, cut))
    assert count_macs(edge, whole.image_shape).macs == cut.device_macs == 4 * 24 * 27
    assert count_macs(cloud, cut.feature_shape).macs == cut.cloud_macs == 4 * 24 * 5
    features = np.random.default_rng(0).random((3, *cut.feature_shape), dtype=np.float32)
    engine = choose_engine("onnx", cloud.eval(), torch.device("cpu"), [features[:1], features])
    np.testing.assert_allclose(engine.values(features), cloud(torch.from_numpy(features)).detach(), atol=1e-5)
    again = onnx.load_from_string(onnx_bytes(nn.Sequential(edge, cloud), whole.image_shape))
    assert network_of(again, NetworkConfig()).macs == whole.macs


def test_what_torch_does_not_reach_is_named_when_it_is_used(cut_network, tmp_path):
    whole, cut = cut_network
    half = edge_half(whole, cut)
    next(node for node in half.graph.node if node.op_type == "Relu").op_type = "Det"
    path = tmp_path / "network.onnx"
    onnx.save(half, path)
    module = torch_half(path, described(whole, cut))
    assert isinstance(module, Unreached)
    with pytest.raises(ValueError, match=r"network\.onnx: expected operations that torch computes here.*got Det"):
        module(torch.zeros(1, *whole.image_shape))


def test_a_normalisation_by_the_batch_is_not_taken_for_one_by_running_statistics(cut_network, tmp_path):
    whole, cut = cut_network
    graph = edge_half(whole, cut)
    (node,) = [node for node in graph.graph.node if node.op_type == "BatchNormalization"]
    node.attribute.append(helper.make_attribute("training_mode", 1))
    node.output.extend(["mean", "variance"])
    onnx.save(graph, tmp_path / "network.onnx")
    assert unreached(graph) == ("BatchNormalization with training_mode=1",)
    half = torch_half(tmp_path / "network.onnx", described(whole, cut))
    with pytest.raises(ValueError, match="got BatchNormalization with training_mode=1"):
        half(torch.zeros(1, *whole.image_shape))
    assert not unreached(edge_half(whole, cut))


def test_a_stand_in_gives_the_shape_of_what_is_not_there():
    assert output_shape(StandIn((4, 3)), (3, 8, 8)) == (4, 3)
