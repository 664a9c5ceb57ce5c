"""Where a network can be cut, and what lies on either side."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from splitleak.graphs.halves import CROSSING, check_halves, cloud_half, edge_half
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import IMAGES, OUTPUT, Preprocessing, prepare
from splitleak.graphs.user_module import export_module
from splitleak.models.counting import count_macs
from splitleak.onnx_runtime import session_of


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


def test_weights_that_both_sides_need_count_on_both() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    found = network(nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten(), nn.Linear(144, 2)))
    own, last = 3 * 27 + 3, 144 * 2 + 2
    assert found.parameters == own + last
    counted = [(cut.device_parameters, cut.cloud_parameters) for cut in found.cuts()]
    assert counted == [(own, own + last)] * 2 + [(own, last)] * 2


class Shuffling(nn.Module):
    """Sizes of its reshapes are computed from what its layers give, of which two have equal weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))

    def forward(self, images: Tensor) -> Tensor:
        made = self.body(self.first(images))
        rows, channels, height, width = made.shape
        halves = made.view(rows, 2, channels // 2, height, width).transpose(1, 2).reshape(made.shape)
        answer: Tensor = self.head(halves.mean((2, 3)))
        return answer


def test_equal_weights_count_each_and_those_that_a_size_is_computed_from_count_on_their_own_side() -> None:
    found = network(Shuffling())
    stem, norm, head = 4 * 27 + 4, 2 * 4, 4 * 5 + 5
    assert found.parameters == stem + 2 * norm + head
    on_device = [cut.device_parameters for cut in found.cuts()]
    assert on_device[:4] == [stem, stem + norm, stem + norm, stem + 2 * norm]
    assert [cut.cloud_parameters for cut in found.cuts()] == [found.parameters - own for own in on_device]


class Weighted(Residual):
    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        return super().forward(images * weights)


def test_the_numbers_of_preprocessing_and_of_fixed_inputs_are_no_parameters() -> None:
    shape = (3, 8, 6)
    model = export_module(Weighted().eval(), {"image": shape, "weights": shape})
    given = Preprocessing(mean=(0.5, 0.4, 0.3), deviation=(0.2,))
    found = Network(prepare(model, given, {"image": shape}, {"weights": np.ones(shape, np.float32)}, None))
    stem = next(cut for cut in found.cuts() if cut.after == "Conv")
    assert stem.device_parameters == 4 * 27 + 4


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


def graph_of(nodes: list[NodeProto], shape: list[int | str], made: int = TensorProto.FLOAT, **weights: Any) -> Network:
    """A network from ``x`` to ``y``, of images of ``shape``."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("y", made, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [given], [out], tensors)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    return Network(prepare(model, Preprocessing(), {"x": tuple(int(side) for side in shape[1:])}, {}, None))  # type: ignore[arg-type]


IMAGE: list[int | str] = ["n", 3, 4, 4]
SELECTED = {
    "NonZero": [helper.make_node("NonZero", ["a"], ["chosen"])],
    "Compress": [
        helper.make_node("Flatten", ["a"], ["flat"], axis=0),
        helper.make_node("Cast", ["flat"], ["bits"], to=TensorProto.BOOL),
        helper.make_node("Squeeze", ["bits", "zero1"], ["bits1"]),
        helper.make_node("Compress", ["flat", "bits1"], ["chosen"], axis=1),
    ],
    "Unique": [helper.make_node("Unique", ["a"], ["chosen"])],
    "sliced": [
        helper.make_node("ReduceMax", ["a"], ["most"], keepdims=0),
        helper.make_node("Ceil", ["most"], ["up"]),
        helper.make_node("Cast", ["up"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "minus1"], ["end"]),
        helper.make_node("Slice", ["a", "zero1", "end", "three1"], ["chosen"]),
    ],
}


@pytest.mark.parametrize("made", [*SELECTED])
def test_a_count_of_what_the_picture_selects_is_data_and_no_size(made: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        *SELECTED[made],
        helper.make_node("Size", ["chosen"], ["count"]),
        helper.make_node("Cast", ["count"], ["counted"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["a"], ["pooled"]),
        helper.make_node("Add", ["pooled", "counted"], ["y"]),
    ]
    found = graph_of(nodes, IMAGE, zero1=np.array([0]), minus1=np.array([-1]), three1=np.array([3]))
    assert "count" not in found.values[1]
    assert [cut.name for cut in found.cuts()] == ["a"]
    cut = found.cuts()[0]
    edge, cloud = edge_half(found, cut), cloud_half(found, cut)
    assert check_halves(found, edge, cloud) < 1e-5
    blacks = np.zeros((1, 3, 4, 4), np.float32)
    [whole] = [each[OUTPUT] for each in found.forward(blacks, [OUTPUT])]
    features = session_of(edge.SerializeToString(), 1).run(None, {IMAGES: blacks})[0]
    np.testing.assert_allclose(session_of(cloud.SerializeToString(), 1).run(None, {CROSSING: features})[0], whole)


def test_an_output_of_another_size_for_another_picture_is_refused_in_one_line() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Unsqueeze", ["places", "zero1"], ["y"]),
    ]
    with pytest.raises(ValueError, match="as many numbers for every image, got 192 of one image and 96 of another"):
        graph_of(nodes, IMAGE, TensorProto.INT64, zero1=np.array([0]))
    with pytest.raises(ValueError, match=r"expected an output whose first axis is that of the images.*got 4 rows"):
        graph_of([helper.make_node("NonZero", ["x"], ["y"])], IMAGE, TensorProto.INT64)


@pytest.mark.parametrize(
    "taken",
    [
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0])],
        [helper.make_node("Slice", ["x", "zero1", "one1"], ["m"])],
    ],
)
def test_an_answer_that_depends_on_the_rest_of_its_batch_is_told(taken: list[NodeProto]) -> None:
    nodes = [*taken, helper.make_node("Sub", ["x", "m"], ["d"]), helper.make_node("Abs", ["d"], ["y"])]
    found = graph_of(nodes, IMAGE, zero1=np.array([0]), one1=np.array([1]))
    assert found.mixes
    assert not found.batched
    assert "what leaks in batches was not measured" in found.notes[0]


def test_an_int8_network_has_the_macs_of_the_network_it_is_of() -> None:
    kernels, weights = np.ones((5, 3, 2, 2), np.int8), np.ones((20, 7), np.int8)
    one, zero, unsigned = np.float32(1), np.int8(0), np.uint8(0)
    scales = {"one": one, "zero": zero, "unsigned": unsigned, "kernels": kernels, "weights": weights}
    static = [
        helper.make_node("QuantizeLinear", ["x", "one", "unsigned"], ["q"]),
        helper.make_node(
            "QLinearConv",
            ["q", "one", "unsigned", "kernels", "one", "zero", "one", "unsigned"],
            ["c"],
            strides=[2, 2],
        ),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("QLinearMatMul", ["f", "one", "unsigned", "weights", "one", "zero", "one", "unsigned"], ["m"]),
        helper.make_node("DequantizeLinear", ["m", "one", "unsigned"], ["y"]),
    ]
    cuts = graph_of(static, IMAGE, **scales).cuts()
    assert cuts[-1].device_macs == 5 * 2 * 2 * 12 + 20 * 7
    dynamic = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("ConvInteger", ["q", "kernels", "qz"], ["ci"], strides=[2, 2]),
        helper.make_node("Cast", ["ci"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("DynamicQuantizeLinear", ["f"], ["r", "rs", "rz"]),
        helper.make_node("MatMulInteger", ["r", "weights", "rz"], ["mi"]),
        helper.make_node("Cast", ["mi"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["m", "rs"], ["y"]),
    ]
    found = graph_of(dynamic, IMAGE, kernels=kernels, weights=weights)
    assert found.scales_by_batch
    assert {cut.device_macs + cut.cloud_macs for cut in found.cuts()} == {5 * 2 * 2 * 12 + 20 * 7}


def test_recurrent_layers_and_sums_of_products_are_counted() -> None:
    lstm = [
        helper.make_node("Squeeze", ["x", "one1"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["", "h"], hidden_size=6),
        helper.make_node("Transpose", ["h"], ["y"], perm=[1, 0, 2]),
    ]
    weights = {"w": np.ones((1, 24, 4), np.float32), "r": np.ones((1, 24, 6), np.float32)}
    found = graph_of(lstm, ["n", 1, 5, 4], one1=np.array([1]), **weights)
    assert found.cuts()[-1].cloud_macs == 5 * 24 * (4 + 6)
    product = [
        helper.make_node("Einsum", ["x", "v"], ["e"], equation="...chw,wk->...chk"),
        helper.make_node("Einsum", ["e", "e"], ["y"], equation="nchk, nchk -> nc"),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    product[-1].output[0], product[1].output[0], product[2].input[0] = "y", "s", "s"
    found = graph_of(product, IMAGE, v=np.ones((4, 7), np.float32))
    assert found.cuts()[-1].device_macs == 3 * 4 * 4 * 7 + 3 * 4 * 7


class Turned(nn.Module):
    """A convolution and a product whose weights are computed: turned from the order that they are stored in."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.rows = nn.Parameter(torch.rand(3, 3, 3, 8)), nn.Parameter(torch.rand(48, 7))

    def forward(self, images: Tensor) -> Tensor:
        made = nn.functional.conv2d(images, self.kernels.permute(3, 2, 0, 1), padding=1)
        return (self.rows.t() @ made.flatten(2).transpose(1, 2)).mean(1)


def test_macs_of_weights_that_are_computed_are_those_of_the_weights_that_come_of_it() -> None:
    found = network(Turned())
    assert found.macs == 8 * 48 * 27 + 7 * 48 * 8
    assert found.cuts()[0].device_macs == 8 * 48 * 27


def tokens(*nodes: NodeProto, opset: int = 17, **weights: Any) -> Network:
    """``nodes`` from six tokens ``t`` of eight values to ``y``."""
    first, last = helper.make_node("Squeeze", ["x", "one"], ["t"]), helper.make_node("Relu", ["a"], ["y"])
    versions = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    held = [numpy_helper.from_array(value, name) for name, value in {"one": np.array([1]), **weights}.items()]
    graph = helper.make_graph([first, *nodes, last], "g", [given], [made], held)
    model = helper.make_model(graph, opset_imports=versions, ir_version=10)
    return Network(prepare(model, Preprocessing(), {"x": (1, 6, 8)}, {}, None))


def test_attention_counts_as_the_products_that_it_is_made_of() -> None:
    each = 6 * 6 * 8 * 2  # queries with keys, and their shares with the values
    heads = helper.make_node("Attention", ["t", "t", "t"], ["a"], q_num_heads=2, kv_num_heads=2)
    assert tokens(heads, opset=23).macs == each
    several = helper.make_node("MultiHeadAttention", ["t", "t", "t"], ["a"], domain="com.microsoft", num_heads=2)
    assert tokens(several).macs == each
    whole = helper.make_node("Attention", ["t", "w", "b"], ["a"], domain="com.microsoft", num_heads=2)
    weights = {"w": np.ones((8, 24), np.float32), "b": np.ones(24, np.float32)}
    assert tokens(whole, **weights).macs == each + 6 * 8 * 24


class Beside(nn.Module):
    """A classifier, and a second head on its first layer that is computed last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head, self.other = nn.Linear(4, 5), nn.Conv2d(4, 16, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        made = self.first(images)
        return self.head(self.second(made).mean((2, 3))), self.other(made)


def test_another_output_than_the_answer_hides_no_cut_and_costs_nothing() -> None:
    shape, module = (3, 8, 6), Beside().eval()
    inputs = {"image": shape}
    both = Network(prepare(export_module(module, inputs), Preprocessing(), inputs, {}, "output.0"))
    cuts = both.cuts()
    assert [cut.after for cut in cuts] == ["Conv", "Conv", "ReduceMean"]
    counted = [count_macs(module.first, shape).macs, count_macs(module.second, (4, 8, 6)).macs, 20]
    assert [(cut.device_macs, cut.cloud_macs) for cut in cuts[:2]] == [
        (counted[0], counted[1] + counted[2]),
        (counted[0] + counted[1], counted[2]),
    ]
    assert cuts[1].cloud_parameters == 5 * 4 + 5
    assert not any("other" in tensor.name for tensor in both.graph.initializer)
