"""Where the values of a tensor lay."""

import numpy as np
import pytest
from onnx import NodeProto, helper

from splitleak.graphs.arrangement import arrangements
from splitleak.graphs.prepared import IMAGES
from tests.splitleak.graphs.test_network import graph_of

IMAGE: list[int | str] = ["n", 3, 4, 5]
CONVOLVED = helper.make_node("Conv", ["x", "kernels"], ["c"])
KERNELS = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
WAYS = {
    "Flatten": [helper.make_node("Flatten", ["c"], ["y"])],
    "Reshape": [helper.make_node("Reshape", ["c", "tokens"], ["y"])],
    "Transpose": [helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 1, 3])],
    "Unsqueeze": [helper.make_node("Unsqueeze", ["c", "two1"], ["u"]), helper.make_node("Flatten", ["u"], ["y"])],
    "flip": [helper.make_node("Slice", ["c", "last", "before", "three1", "back"], ["y"])],
    "Gather": [
        helper.make_node("Reshape", ["c", "tokens"], ["g"]),
        helper.make_node("Gather", ["g", "shuffled"], ["y"], axis=2),
    ],
    "roll": [
        helper.make_node("Slice", ["c", "two1", "many", "three1"], ["right"]),
        helper.make_node("Slice", ["c", "none", "two1", "three1"], ["left"]),
        helper.make_node("Concat", ["right", "left"], ["y"], axis=3),
    ],
    "several": [
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("Mul", ["half", "f"], ["y"]),
    ],
}


@pytest.mark.parametrize("way", [*WAYS])
def test_what_is_rearranged_lies_as_it_did_before(way: str) -> None:
    nodes: list[NodeProto] = [CONVOLVED, *WAYS[way]]
    weights = {"kernels": KERNELS, "tokens": np.array([0, 2, 20]), "two1": np.array([2]), "half": np.float32(0.5)}
    weights |= {"last": np.array([-1]), "before": np.array([-99]), "back": np.array([-1]), "three1": np.array([3])}
    weights |= {"many": np.array([99]), "none": np.array([0]), "shuffled": np.random.default_rng(2).permutation(20)}
    network = graph_of(nodes, IMAGE, **weights)
    images = np.random.default_rng(1).random((2, 3, 4, 5), dtype=np.float32)
    [made] = network.forward(images, ["c", "y"])
    own, *others = arrangements(network, ["y"])
    assert own == ((network.shapes[1]["y"][1:],), None)
    (shape,), order = others[-1]
    assert shape == (2, 4, 5)
    flat = made["y"].reshape(2, -1)
    back = (flat if order is None else flat[:, order]).reshape(2, *shape)
    expected = np.maximum(made["c"], 0) / 2 if way == "several" else made["c"]
    np.testing.assert_allclose(back, expected, rtol=1e-6)


def test_what_lacks_some_values_or_has_them_twice_is_no_rearrangement() -> None:
    cut = helper.make_node("Slice", ["c", "none", "two1", "three1"], ["left"])
    nodes: list[NodeProto] = [CONVOLVED, cut, helper.make_node("Concat", ["left", "left"], ["y"], axis=3)]
    held = {"none": np.array([0]), "two1": np.array([2]), "three1": np.array([3])}
    network = graph_of(nodes, ["n", 3, 4, 4], kernels=KERNELS, **held)
    assert arrangements(network, ["y"]) == [(((2, 4, 4),), None)]


def test_a_flattened_picture_lies_as_the_picture_did() -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    network = graph_of(nodes, IMAGE, w=np.ones((60, 2), np.float32))
    assert arrangements(network, ["f"]) == [(((60,),), None), (((3, 4, 5),), None)]
    assert arrangements(network, ["y"]) == [(((2,),), None)]
    assert arrangements(network, [IMAGES]) == [(((3, 4, 5),), None)]


def test_several_tensors_are_put_in_order_one_after_the_other() -> None:
    nodes = [
        CONVOLVED,
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Flatten", ["t"], ["g"]),
        helper.make_node("Concat", ["f", "g"], ["y"], axis=1),
    ]
    network = graph_of(nodes, IMAGE, kernels=KERNELS)
    [made] = network.forward(np.random.default_rng(1).random((1, 3, 4, 5), dtype=np.float32), ["f", "t", "c"])
    shapes, order = arrangements(network, ["f", "t"])[-1]
    assert shapes == ((3, 4, 5), (2, 4, 5))
    assert order is not None
    packed = np.concatenate([made["f"][0], made["t"][0].ravel()])[order]
    np.testing.assert_array_equal(packed, np.concatenate([made["f"][0], made["c"][0].ravel()]))
