import itertools

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from splitleak.graphs.module import GraphModule

AUTO = ("SAME_UPPER", "SAME_LOWER", "VALID")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_of_any_number_of_axes(dims, assert_alike, drawn):
    weight, bias = drawn(4, 2, *[3] * dims), drawn(4)
    options = {"strides": [2] * dims, "pads": [1] * 2 * dims, "group": 2}
    assert_alike("Conv", [drawn(2, 4, *[7] * dims)], [weight, bias], version=11, **options)
    turned = drawn(4, 3, *[3] * dims)
    assert_alike("ConvTranspose", [drawn(2, 4, *[5] * dims)], [turned], version=11, **options)


@pytest.mark.parametrize(("auto", "stride", "size"), list(itertools.product(AUTO, (1, 2, 3), (7, 8))))
def test_automatic_padding_follows_the_input(auto, stride, size, assert_alike, drawn):
    options = {"auto_pad": auto, "strides": [stride, stride]}
    assert_alike("Conv", [drawn(2, 3, size, size + 1)], [drawn(4, 3, 4, 3)], version=11, **options)
    assert_alike("MaxPool", [drawn(2, 3, size, size)], version=12, kernel_shape=[3, 2], **options)
    assert_alike("AveragePool", [drawn(2, 3, size, size)], version=11, kernel_shape=[3, 2], **options)


def test_automatic_padding_counts_dilations(model, drawn):
    node = helper.make_node("Conv", ["x", "weight"], ["y"], auto_pad="SAME_UPPER", dilations=[2, 2])
    weight, values = drawn(1, 1, 3, 3), torch.from_numpy(drawn(1, 1, 9, 9))
    expected = nn.functional.conv2d(values, torch.from_numpy(weight), padding=2, dilation=2)
    assert torch.allclose(GraphModule(model([node], ["x"], ["y"], {"weight": weight}))(values), expected, atol=1e-6)


def test_padding_may_differ_from_side_to_side(assert_alike, drawn):
    pads = {"pads": [0, 1, 2, 0]}
    assert_alike("Conv", [drawn(2, 3, 6, 6)], [drawn(4, 3, 3, 3), drawn(4)], version=11, **pads)
    assert_alike("ConvTranspose", [drawn(2, 3, 6, 6)], [drawn(3, 4, 3, 3), drawn(4)], version=11, **pads)
    assert_alike("MaxPool", [drawn(2, 3, 6, 6)], version=12, kernel_shape=[3, 3], **pads)
    assert_alike("AveragePool", [drawn(2, 3, 6, 6)], version=11, kernel_shape=[3, 3], **pads)
    assert_alike("AveragePool", [drawn(2, 3, 6, 6)], version=11, kernel_shape=[3, 3], count_include_pad=1, **pads)


@pytest.mark.parametrize("size", [6, 7, 8])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
def test_pools_that_round_up(size, pads, assert_alike, drawn):
    options = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": pads, "ceil_mode": 1}
    assert_alike("MaxPool", [drawn(2, 3, size, size)], version=12, **options)
    assert_alike("AveragePool", [drawn(2, 3, size, size)], version=19, **options)
    assert_alike("AveragePool", [drawn(2, 3, size, size)], version=19, count_include_pad=1, **options)


def test_a_transposed_convolution_of_a_given_size(assert_alike, drawn):
    options = {"strides": [3, 2], "output_shape": [10, 8]}
    assert_alike("ConvTranspose", [drawn(1, 2, 3, 3)], [drawn(2, 2, 3, 3)], version=11, **options)
    options = {"strides": [3, 2], "output_padding": [1, 1]}
    assert_alike("ConvTranspose", [drawn(1, 2, 3, 3)], [drawn(2, 2, 3, 3)], version=11, **options)


@pytest.mark.parametrize(("left", "right"), list(itertools.product((0, 1), (0, 1))))
def test_products_of_turned_matrices(left, right, assert_alike, drawn):
    options = {"transA": left, "transB": right, "alpha": 0.5, "beta": 2.0}
    first, second = drawn(*((3, 4), (4, 3))[left]), drawn(*((4, 5), (5, 4))[right])
    assert_alike("Gemm", [first], [second, drawn(5)], version=13, **options)
    assert_alike("Gemm", [first, second], version=13, **options)


@pytest.mark.parametrize("version", [9, 14, 15])
def test_statistics_of_a_batch_are_used_and_kept_in_training_as_torch_does(version, model, drawn):
    theirs = nn.BatchNorm2d(3, momentum=0.2, eps=1e-3)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    constants = {
        "layer.weight": theirs.weight.detach().numpy().copy(),
        "layer.bias": theirs.bias.detach().numpy().copy(),
        "layer.running_mean": np.zeros(3, np.float32),
        "layer.running_var": np.ones(3, np.float32),
    }
    node = helper.make_node("BatchNormalization", ["x", *constants], ["y"], momentum=0.8, epsilon=1e-3)
    ours = GraphModule(model([node], ["x"], ["y"], constants, version))
    assert [name for name, _ in ours.named_parameters()] == ["layer-weight", "layer-bias"]
    values = torch.from_numpy(drawn(4, 3, 5, 5)).requires_grad_()
    for module in (ours, theirs):
        module.train()
    for _ in range(2):
        (found,) = torch.autograd.grad(ours(values).square().sum(), values)
        (expected,) = torch.autograd.grad(theirs(values).square().sum(), values)
        assert torch.allclose(found, expected, atol=1e-5)
    for name in ("running_mean", "running_var"):
        assert torch.allclose(ours.state_dict()[f"layer-{name}"], theirs.state_dict()[name])
    assert torch.allclose(ours.eval()(values), theirs.eval()(values), atol=1e-6)


@pytest.mark.parametrize("version", [18, 21])
def test_groups_are_scaled_one_by_one_before_version_21(version, model, drawn):
    size = 2 if version < 21 else 4
    constants = {"scale": drawn(size), "bias": drawn(size)}
    node = helper.make_node("GroupNormalization", ["x", *constants], ["y"], num_groups=2)
    module, values = GraphModule(model([node], ["x"], ["y"], constants, version)), torch.from_numpy(drawn(2, 4, 3, 3))
    scale, bias = (torch.from_numpy(value).repeat_interleave(4 // size) for value in constants.values())
    assert torch.allclose(module(values), nn.functional.group_norm(values, 2, scale, bias), atol=1e-6)


def test_attention_of_heads_in_one_axis(model, drawn):
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2)
    module = GraphModule(model([node], ["q", "k", "v"], ["y"], version=23))
    query, key, value = (torch.from_numpy(drawn(2, 5, 6)) for _ in range(3))
    parts = [each.unflatten(-1, (2, 3)).transpose(1, 2) for each in (query, key, value)]
    expected = nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
    assert torch.allclose(module(query, key, value), expected, atol=1e-6)
