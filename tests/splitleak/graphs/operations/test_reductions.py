import numpy as np
import pytest


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax", "ReduceL2", "ReduceSum", "ReduceProd", "ReduceLogSumExp"])
@pytest.mark.parametrize("keeps", [0, 1])
def test_axes_of_a_reduction_were_an_attribute(kind, keeps, assert_alike, drawn):
    assert_alike(kind, [drawn(2, 3, 4)], version=12, axes=[0, -1], keepdims=keeps)
    assert_alike(kind, [drawn(2, 3, 4)], version=12, keepdims=keeps)


@pytest.mark.parametrize(("kind", "version"), [("ReduceSum", 13), ("ReduceMean", 18), ("ReduceMin", 18)])
def test_axes_of_a_reduction_are_an_input(kind, version, assert_alike, drawn):
    assert_alike(kind, [drawn(2, 3, 4)], [np.array([1, -1])], version=version)
    assert_alike(kind, [drawn(2, 3, 4)], version=version, noop_with_empty_axes=1)


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("version", [11, 12, 13])
def test_a_softmax_was_over_all_axes_from_one_on(kind, axis, version, assert_alike, drawn):
    assert_alike(kind, [drawn(2, 3, 4)], version=version, **({} if axis is None else {"axis": axis}))


def test_the_number_of_largest_values_was_an_attribute(assert_alike, drawn):
    assert_alike("TopK", [drawn(3, 6)], version=9, k=2, outputs=2)
    assert_alike("TopK", [drawn(3, 6)], [np.array([2])], version=11, largest=0, outputs=2)


def test_whole_numbers_stay_whole(assert_alike):
    assert_alike("ReduceSum", [np.arange(6, dtype=np.int32).reshape(2, 3)], [np.array([1])], version=13)
