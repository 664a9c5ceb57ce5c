import itertools

import numpy as np
import pytest
import torch
from onnx import helper

from splitleak.graphs.module import GraphModule, missing_operations

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
SIZES = [(8, 10), (16, 7), (3, 1)]


@pytest.mark.parametrize(("mode", "coordinates"), list(itertools.product(("nearest", "linear", "cubic"), COORDINATES)))
@pytest.mark.parametrize("size", SIZES)
def test_every_interpolation_to_a_size(mode, coordinates, size, assert_alike, drawn):
    options = {"mode": mode, "coordinate_transformation_mode": coordinates}
    sizes = [None, None, np.array([2, 3, *size])]
    assert_alike("Resize", [drawn(2, 3, 8, 5)], sizes, version=13, **options)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_every_rounding_to_the_nearest(rounding, assert_alike, drawn):
    scales = [np.float32([]), np.float32([1, 1, 1.5, 0.6])]  # version 11 wants a region, empty or not
    assert_alike("Resize", [drawn(2, 3, 8, 5)], scales, version=11, mode="nearest", nearest_mode=rounding)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_scales_of_old_versions(mode, assert_alike, drawn):
    assert_alike("Resize", [drawn(1, 2, 4, 6)], [np.float32([1, 1, 2, 1.5])], version=10, mode=mode)
    assert_alike("Upsample", [drawn(1, 2, 4, 6)], [np.float32([1, 1, 2, 3])], version=9, mode=mode)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_gradients_are_those_of_torch(mode, model, drawn):
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode=mode, coordinate_transformation_mode="align_corners"
    )
    module = GraphModule(model([node], ["x"], ["y"], {"scales": np.float32([1, 1, 2, 2])}))
    values = torch.from_numpy(drawn(1, 2, 5, 5)).requires_grad_()
    weights = torch.from_numpy(drawn(1, 2, 10, 10))
    other = torch.nn.functional.interpolate(
        values, scale_factor=2, mode={"linear": "bilinear", "cubic": "bicubic"}[mode], align_corners=True
    )
    (found,) = torch.autograd.grad((module(values) * weights).sum(), values)
    (expected,) = torch.autograd.grad((other * weights).sum(), values)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_crop_is_named_as_not_reached(model):
    node = helper.make_node(
        "Resize", ["x", "roi", "", "sizes"], ["y"], coordinate_transformation_mode="tf_crop_and_resize"
    )
    constants = {"roi": np.float32([0, 1]), "sizes": np.array([4])}
    (name,) = missing_operations(model([node], ["x"], ["y"], constants))
    assert name == "Resize with coordinate_transformation_mode=tf_crop_and_resize"
