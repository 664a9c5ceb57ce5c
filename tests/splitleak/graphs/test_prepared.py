"""Any network as one of images in [0, 1]: preprocessing, inputs and the output that is asked for."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from splitleak.graphs.importing import NetworkConfig, network_of
from splitleak.graphs.module import GraphModule
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import OUTPUT, Preprocessing, input_shapes, prepare

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def two_outputs(shape: list[int | str], kind: int = TensorProto.FLOAT, opset: int = 17) -> ModelProto:
    """Gives twice what it is given as ``twice``, and its negative as ``minus``."""
    two = numpy_helper.from_array(np.array(2, helper.tensor_dtype_to_np_dtype(kind)), "two")
    nodes = [helper.make_node("Mul", ["x", "two"], ["twice"]), helper.make_node("Neg", ["x"], ["minus"])]
    given = helper.make_tensor_value_info("x", kind, shape)
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in ("twice", "minus")]
    graph = helper.make_graph(nodes, "g", [given], outputs, [two])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def answer(model: ModelProto, images: Array) -> Array:
    return np.concatenate([each[OUTPUT] for each in Network(model).forward(images, [OUTPUT])])


@pytest.fixture
def images() -> Array:
    return np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)


def test_mean_deviation_and_range_are_applied_per_channel(images: Array) -> None:
    given = Preprocessing(mean=(10, 20, 30), deviation=(2, 4, 8), range=255)
    got = answer(prepare(two_outputs(["n", 3, 4, 5]), given, {"x": (3, 4, 5)}, {}, "twice"), images)
    mean, deviation = (np.float32(each).reshape(3, 1, 1) for each in ((10, 20, 30), (2, 4, 8)))
    np.testing.assert_allclose(got, (2 * (images * 255 - mean) / deviation).reshape(2, -1), rtol=1e-5)


def test_the_network_may_take_bgr_and_channels_last(images: Array) -> None:
    given = Preprocessing(order="bgr", layout="hwc")
    got = answer(prepare(two_outputs(["n", 4, 5, 3]), given, {"x": (3, 4, 5)}, {}, "minus"), images)
    np.testing.assert_allclose(got, -images[:, ::-1].transpose(0, 2, 3, 1).reshape(2, -1))


def test_mean_and_deviation_are_of_the_channels_as_the_network_takes_them(images: Array) -> None:
    given = Preprocessing(order="bgr", mean=(1, 2, 3), deviation=(2, 4, 8))
    got = answer(prepare(two_outputs(["n", 3, 4, 5]), given, {"x": (3, 4, 5)}, {}, "twice"), images)
    blue, green, red = ((images[:, at] - mean) / scale for at, mean, scale in ((2, 1, 2), (1, 2, 4), (0, 3, 8)))
    np.testing.assert_allclose(got, 2 * np.stack([blue, green, red], 1).reshape(2, -1), rtol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_network_of_another_precision_is_given_its_own(images: Array, kind: int) -> None:
    got = answer(prepare(two_outputs(["n", 3, 4, 5], kind), Preprocessing(), {"x": (3, 4, 5)}, {}, "twice"), images)
    np.testing.assert_allclose(got, 2 * images.reshape(2, -1), rtol=1e-3)


def as_given(kind: int, opset: int = 17) -> ModelProto:
    """Gives the numbers that it is given, as floats."""
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    given = helper.make_tensor_value_info("x", kind, ["n", 3, 4, 5])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 4, 5])
    graph = helper.make_graph([node], "g", [given], [made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("kind", "opset"),
    [(TensorProto.UINT8, 17), (TensorProto.UINT8, 9), (TensorProto.INT32, 17), (TensorProto.UINT16, 13)],
)
def test_whole_numbers_are_given_every_level_of_a_picture(kind: int, opset: int) -> None:
    levels = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5) * 4
    for given in (Preprocessing(), Preprocessing(range=255), Preprocessing(deviation=(1 / 255,))):
        got = answer(prepare(as_given(kind, opset), given, {"x": (3, 4, 5)}, {}, None), levels / 255)
        np.testing.assert_array_equal(got, levels.reshape(1, 60))


def test_whole_numbers_below_0_are_given_those_around_it() -> None:
    model = prepare(as_given(TensorProto.INT8), Preprocessing(mean=(128,)), {"x": (3, 4, 5)}, {}, None)
    whites = np.ones((1, 3, 4, 5), np.float32)
    assert answer(model, whites)[0, 0] == 127
    assert answer(model, 0 * whites)[0, 0] == -128


def test_a_gradient_goes_straight_through_the_rounding_of_a_picture() -> None:
    module = GraphModule(prepare(as_given(TensorProto.UINT8), Preprocessing(), {"x": (3, 4, 5)}, {}, None))
    pixels = torch.linspace(0.1, 0.9, 120).reshape(2, 3, 4, 5).requires_grad_()
    made = module(pixels)
    made.sum().backward()
    torch.testing.assert_close(made.detach(), (255 * pixels.detach()).round().flatten(1))
    assert pixels.grad is not None
    assert (pixels.grad == 255).all()


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (TensorProto.INT8, Preprocessing(), r"whole numbers in -128 to 127.*input 'x', got 0 to 255"),
        (TensorProto.UINT8, Preprocessing(mean=(0.5,), deviation=(0.5,)), "whole numbers in 0 to 255.*got -1 to 509"),
        (TensorProto.UINT8, Preprocessing(deviation=(255,)), "at least 16 of them.*in 1 steps from black to white"),
        (TensorProto.BOOL, Preprocessing(), r"expected input 'x' to take floats or whole numbers, got bool"),
    ],
)
def test_whole_numbers_that_would_lose_the_picture_are_refused(kind: int, given: Preprocessing, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prepare(as_given(kind), given, {"x": (3, 4, 5)}, {}, None)


def inputs(opset: int) -> ModelProto:
    """left (2 channels), right (1 channel) and a vector; gives their concatenation, flattened."""
    shapes = {"left": ["n", 2, 4, 5], "right": ["n", 1, 4, 5], "angle": ["n", 3]}
    flat = [helper.make_node("Flatten", [name], [f"{name}.flat"]) for name in shapes]
    joined = helper.make_node("Concat", [f"{name}.flat" for name in shapes], ["logits"], axis=1)
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 63])
    graph = helper.make_graph([*flat, joined], "g", given, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [11, 17])
def test_several_images_are_channels_of_one_and_other_inputs_have_a_fixed_value(images: Array, opset: int) -> None:
    shapes = {"left": (2, 4, 5), "right": (1, 4, 5)}
    model = prepare(inputs(opset), Preprocessing(), shapes, {"angle": np.float32([7, 8, 9])}, None)
    assert Network(model).image_shape == (3, 4, 5)
    np.testing.assert_allclose(answer(model, images)[:, :60], images.reshape(2, 60))
    np.testing.assert_allclose(answer(model, images)[:, 60:], [[7, 8, 9]] * 2)


def test_the_shapes_a_file_tells_are_those_of_images() -> None:
    assert input_shapes(two_outputs(["n", 48, 320, 3]), "hwc") == {"x": (3, 48, 320)}
    assert input_shapes(two_outputs(["n", 3, "h", "w"])) == {"x": (3, None, None)}


@pytest.mark.parametrize(
    ("shapes", "fixed", "output", "said"),
    [
        ({}, {}, "twice", "none for x"),
        ({"y": (3, 4, 5)}, {}, "twice", "got 'y'"),
        ({"x": (3, 4, 5)}, {}, None, "several: twice, minus"),
        ({"x": (3, 4, 5)}, {}, "thrice", "among twice, minus"),
    ],
)
def test_what_is_missing_is_named(
    shapes: dict[str, tuple[int, ...]], fixed: dict[str, Array], output: str | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        prepare(two_outputs(["n", 3, 4, 5]), Preprocessing(), shapes, fixed, output)


def test_preprocessing_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Preprocessing(deviation=(0.0,))
    with pytest.raises(ValueError, match="one or 3 means"):
        Preprocessing(mean=(1.0, 2.0)).factors(3)
    with pytest.raises(ValueError, match="BGR"):
        prepare(two_outputs(["n", 1, 4, 5]), Preprocessing(order="bgr"), {"x": (1, 4, 5)}, {}, "twice")


@pytest.mark.parametrize("value", [17, 0, -1, 254.9])
def test_a_range_is_that_of_fractions_or_of_bytes(value: float) -> None:
    with pytest.raises(ValueError, match="expected a range of 1 or 255"):
        Preprocessing(range=value)


def test_a_network_without_an_image_is_refused_by_the_inputs_that_are_fixed() -> None:
    with pytest.raises(ValueError, match="expected an input that is an image, got a fixed value for x, and no other"):
        network_of(two_outputs([1, 3, 4, 4]), NetworkConfig(fixed={"x": 1.0}, output="twice"))


def ending(*nodes: tuple[str, str, str], opset: int) -> ModelProto:
    """Values, one a channel, through ``nodes`` of (operation, input, output), the last of which gives the answer."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 1, 1])
    made = [
        helper.make_node(kind, [name], [out], **({"axis": 1} if "max" in kind else {})) for kind, name, out in nodes
    ]
    kinds = {"best": TensorProto.INT64, nodes[-1][2]: TensorProto.FLOAT}
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    graph = helper.make_graph([*made, helper.make_node("ArgMax", ["p"], ["best"], axis=1)], "g", [given], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [11, 17])
def test_the_probabilities_of_a_softmax_become_logits_that_give_them(opset: int) -> None:
    values = np.random.default_rng(0).random((3, 4, 1, 1), dtype=np.float32) * 30
    expected = torch.from_numpy(values).flatten(1).log_softmax(1)
    for nodes in ([("Softmax", "x", "p")], [("Softmax", "x", "p"), ("Flatten", "p", "f"), ("Identity", "f", "y")]):
        model, last = ending(*nodes, opset=opset), nodes[-1][2]
        got = answer(prepare(model, Preprocessing(), {"x": (4, 1, 1)}, {}, last), values)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_vector_that_is_no_answer_is_left_as_it_is_and_so_is_what_is_no_softmax() -> None:
    values = np.random.default_rng(0).random((3, 4, 1, 1), dtype=np.float32)
    given: Any = Preprocessing(), {"x": (4, 1, 1)}, {}, "p"
    told = {
        kind: answer(prepare(ending((kind, "x", "p"), opset=17), *given, logits=logits), values)
        for kind, logits in (("Softmax", False), ("Sigmoid", True))
    }
    expected = {"Softmax": torch.from_numpy(values).softmax(1), "Sigmoid": torch.from_numpy(values).sigmoid()}
    for kind, got in told.items():
        np.testing.assert_allclose(got, expected[kind].flatten(1), rtol=1e-5)
