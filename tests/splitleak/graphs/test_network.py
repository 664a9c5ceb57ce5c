"""Where a network can be cut, and what lies on either side."""

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from splitleak.graphs.network import Network
from splitleak.graphs.prepared import IMAGES, OUTPUT, Preprocessing, prepare
from splitleak.graphs.user_module import export_module
from splitleak.models.counting import count_macs


class Residual(nn.Module):
    """A stem, a residual block, a mean over places, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)
        for weight in self.parameters():  # equal ones are written once
            nn.init.normal_(weight)

    def forward(self, images: Tensor) -> Tensor:
        made = self.stem(images)
        answer: Tensor = self.head((made + self.body(made)).mean((2, 3)))
        return answer


def network(module: nn.Module, shape: tuple[int, int, int] = (3, 8, 6)) -> Network:
    inputs = {"image": shape}
    return Network(prepare(export_module(module.eval(), inputs), Preprocessing(), inputs, {}, None))


@pytest.fixture(scope="module")
def residual() -> Network:
    return network(Residual())


def test_one_tensor_alone_crosses_at_a_cut_and_a_skip_connection_leaves_none_inside(residual: Network) -> None:
    cuts = residual.cuts()
    assert [cut.after for cut in cuts] == ["Conv", "Add", "ReduceMean"]
    assert [cut.shapes for cut in cuts] == [((4, 4, 3),), ((4, 4, 3),), ((4,),)]
    assert [cut.bytes for cut in cuts] == [192, 192, 16]
    assert cuts[0].feature_shape == (4, 4, 3)


def test_two_tensors_cross_inside_a_skip_connection_packed_as_one_vector(residual: Network) -> None:
    inside = [cut for cut in residual.cuts(2) if len(cut.tensors) == 2]
    assert [cut.after for cut in inside] == ["Conv", "BatchNormalization", "Relu"]
    assert inside[0].feature_shape == (96,)
    assert inside[0].name == "+".join(inside[0].tensors)


@pytest.mark.slow
def test_parameters_and_macs_on_both_sides_are_those_of_the_module(residual: Network) -> None:
    counted = count_macs(Residual(), (3, 8, 6))
    for cut in residual.cuts(2):
        assert cut.device_macs + cut.cloud_macs == counted.macs
        assert cut.device_parameters + cut.cloud_parameters == counted.parameters
    assert residual.cuts()[0].device_macs == 4 * 3 * 4 * 3 * 9


def test_an_unknown_cut_gets_the_nearest(residual: Network) -> None:
    known = residual.cuts()[1].name
    assert residual.cut(known).name == known
    with pytest.raises(ValueError, match=f"did you mean '{known}'"):
        residual.cut(f"{known}_")


def test_one_pass_gives_every_tensor_that_is_asked_for(residual: Network) -> None:
    images = np.random.default_rng(0).random((70, 3, 8, 6), dtype=np.float32)
    names = [cut.name for cut in residual.cuts()]
    batches = list(residual.forward(images, [IMAGES, *names]))
    assert sum(len(batch[names[0]]) for batch in batches) == 70
    np.testing.assert_array_equal(np.concatenate([batch[IMAGES] for batch in batches]), images)


class Attends(nn.Module):
    """Tokens with a class token, whose shapes depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = self.layer(torch.cat([self.token.expand(images.shape[0], -1, -1), tokens], 1))
        answer: Tensor = self.head(tokens[:, 0])
        return answer


def test_what_depends_on_shapes_alone_does_not_cross() -> None:
    found = network(Attends())
    assert found.batched
    assert (13, 8) in [cut.feature_shape for cut in found.cuts()]


def reshaping(rows: int) -> ModelProto:
    """A network whose file fixes the batch."""
    shape = numpy_helper.from_array(np.array([rows, 12]), "shape")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [given], [made], [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_network_of_one_image_is_given_one_at_a_time() -> None:
    found = Network(prepare(reshaping(1), Preprocessing(), {"x": (3, 2, 2)}, {}, None))
    assert not found.batched
    images = np.ones((3, 3, 2, 2), np.float32)
    assert [batch[OUTPUT].shape for batch in found.forward(images, [OUTPUT])] == [(1, 12)] * 3
    assert [cut.feature_shape for cut in found.cuts()] == [(3, 2, 2), (12,)]


def test_a_network_that_cannot_be_computed_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"expected a network for images \(3, 2, 2\)") as caught:
        Network(prepare(reshaping(2), Preprocessing(), {"x": (3, 2, 2)}, {}, None))
    assert "\n" not in str(caught.value)


def hungry(*, told: bool) -> ModelProto:
    """A tensor of 40 GB: as a constant that the file tells, or computed from a shape."""
    nodes = [helper.make_node("Size", ["x"], ["size"]), helper.make_node("Mul", ["size", "many"], ["wide"])]
    nodes += [helper.make_node("Reshape", ["wide", "one"], ["shape"])]
    made = [helper.make_node("ConstantOfShape", ["many1" if told else "shape"], ["huge"])]
    made += [helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0), helper.make_node("Add", ["x", "sum"], ["y"])]
    weights = {"many": np.array(10**9), "one": np.array([1]), "many1": np.array([10**10])}
    given, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(made if told else [*nodes, *made], "g", [given], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("told", [True, False])
def test_memory_is_bounded_whatever_a_file_asks_for(told: bool) -> None:
    with pytest.raises(ValueError, match=r"bytes|smaller than requested|memory"):
        Network(prepare(hungry(told=told), Preprocessing(), {"x": (1, 2, 2)}, {}, None))


def test_an_answer_that_no_image_changes_is_refused() -> None:
    constant = helper.make_node("ConstantOfShape", ["shape"], ["y"])
    given, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    shape = numpy_helper.from_array(np.array([1, 2]), "shape")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["a"]), constant], "g", [given], [out], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ValueError, match="depends on the images"):
        Network(prepare(model, Preprocessing(), {"x": (1, 2, 2)}, {}, None))


def test_a_network_that_draws_at_random_is_refused():
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    given, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [given], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ValueError, match=r"the same answer twice.*\(Random.*export it in evaluation mode.*fixed.NAME"):
        Network(prepare(model, Preprocessing(), {"x": (1, 2, 2)}, {}, None))
