import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from splitleak.graphs.operations.node import Node, dtype_of, tensor_of


def node(**attributes):
    return Node(version=17, attributes=attributes, given=frozenset({0}), constants={}, outputs=2, used=1)


def test_attributes_are_taken_by_their_kind_and_the_rest_is_told():
    given = node(axis=1, alpha=0.5, mode=b"linear", pads=[1, 2], extra=3, more=4)
    assert (given.integer("axis", 0), given.number("alpha", 1.0), given.text("mode", "nearest")) == (1, 0.5, "linear")
    assert given.integers("pads") == [1, 2]
    assert given.numbers("scales") is None
    assert given.left_over() == ["extra", "more"]
    given.ignore("extra", "more")
    assert given.left_over() == []


def test_a_mode_that_is_not_reached_is_told_in_a_few_words():
    with pytest.raises(ValueError, match="mode=area"):
        node(mode=b"area").text("mode", "nearest", ("nearest", "linear"))
    with pytest.raises(ValueError, match="spatial=0"):
        node(spatial=0).refuse("spatial", 1)
    node().refuse("spatial", 1)


def test_an_output_that_nothing_reads_is_not_missed():
    node().only(1)
    with pytest.raises(ValueError, match="output 1"):
        node().only(0)


@pytest.mark.parametrize("elements", [np.float32, np.float16, np.int64, np.int8, np.uint8, np.bool_])
def test_a_tensor_keeps_its_elements(elements):
    array = np.array([[1, 0, 3]]).astype(elements)
    assert np.array_equal(tensor_of(numpy_helper.from_array(array)).numpy(), array)


def test_halves_of_the_other_kind_are_read_too():
    value = tensor_of(helper.make_tensor("x", TensorProto.BFLOAT16, [2], [1.5, -2.0]))
    assert torch.equal(value, torch.tensor([1.5, -2.0], dtype=torch.bfloat16))


def test_elements_that_torch_does_not_have_are_named():
    with pytest.raises(ValueError, match="elements STRING"):
        dtype_of(TensorProto.STRING)
