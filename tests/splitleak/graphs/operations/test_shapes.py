import numpy as np
import pytest


@pytest.mark.parametrize("version", [11, 13])
def test_axes_were_an_attribute_before_version_13(version, assert_alike, drawn):
    for kind, shape, axes in (("Squeeze", (1, 3, 1), [0, -1]), ("Unsqueeze", (3, 4), [0, -1])):
        options, inputs = ({"axes": axes}, []) if version < 13 else ({}, [np.array(axes)])
        assert_alike(kind, [drawn(*shape)], inputs, version=version, **options)


def test_parts_of_a_split_were_an_attribute_and_may_be_left_out(assert_alike, drawn):
    assert_alike("Split", [drawn(2, 5)], version=11, axis=1, split=[2, 3], outputs=2)
    assert_alike("Split", [drawn(2, 6)], version=11, axis=1, outputs=3)
    assert_alike("Split", [drawn(2, 5)], [np.array([2, 3])], version=13, axis=-1, outputs=2)
    assert_alike("Split", [drawn(2, 5)], version=18, axis=1, num_outputs=2, outputs=2)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1, 0], [-1, 2], [0, 1], [1, 1]),
        ([-1], [-(2**31)], [1], [-1]),
        ([0], [2**31], [1], [2]),
        ([4, 3], [0, -100], [0, -1], [-2, -3]),
        ([2], [1], [0], [1]),
        ([100], [200], [0], [1]),
    ],
)
def test_slices_of_any_step(starts, ends, axes, steps, assert_alike, drawn):
    assert_alike("Slice", [drawn(5, 4)], [np.array(each) for each in (starts, ends, axes, steps)], version=13)


def test_slices_of_old_versions(assert_alike, drawn):
    assert_alike("Slice", [drawn(5, 4)], version=9, starts=[1, -2], ends=[1000, -1], axes=[0, 1])
    assert_alike("Slice", [drawn(5, 4)], version=9, starts=[1], ends=[3])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding_of_any_mode_on_any_side(mode, assert_alike, drawn):
    pads = [0, 1, 2, 1, 0, 0, 3, 0]
    assert_alike("Pad", [drawn(2, 3, 4, 5)], version=10, mode=mode, pads=pads)
    assert_alike("Pad", [drawn(2, 3, 4, 5)], [np.array(pads)], version=13, mode=mode)
    assert_alike("Pad", [drawn(4, 5)], [np.array([1, 2]), None, np.array([-1])], version=18, mode=mode)


def test_padding_takes_a_value_and_cuts(assert_alike, drawn):
    assert_alike("Pad", [drawn(4, 5)], [np.array([1, -1, 0, -2]), np.float32(7)], version=13)


def test_a_zero_in_a_shape_keeps_a_size_or_is_one(assert_alike, drawn):
    assert_alike("Reshape", [drawn(2, 3, 4)], [np.array([0, -1])], version=13)
    assert_alike("Reshape", [drawn(0, 3)], [np.array([3, 0])], version=14, allowzero=1)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_flattening_before_any_axis(axis, assert_alike, drawn):
    assert_alike("Flatten", [drawn(2, 3, 4)], version=13, axis=axis)


@pytest.mark.parametrize("indices", [np.array(1), np.array([[0, -1], [2, 1]]), np.array([], dtype=np.int64)])
def test_looking_up_along_an_axis(indices, assert_alike, drawn):
    assert_alike("Gather", [drawn(2, 3, 4)], [indices], version=13, axis=1)
    assert_alike("Gather", [drawn(2, 3, 4), indices], version=13, axis=-2)


def test_a_batch_is_looked_up_by_its_own_indices(assert_alike, drawn):
    assert_alike("GatherND", [drawn(2, 2, 3, 4), np.array([[[1], [0]], [[2], [1]]])], version=13, batch_dims=2)
    assert_alike("GatherND", [drawn(2, 3, 4), np.array([[1, 0], [0, 2]])], version=13)


def test_a_constant_is_of_the_asked_elements(assert_alike):
    assert_alike("ConstantOfShape", [np.array([2, 3])], version=9)
    for numbers in (np.float32([1, 4.2, 0.5]), np.array([5, 0, -2]), np.array([5, 0, 2])):
        assert_alike("Range", [np.array(number) for number in numbers], version=11)
