import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from splitleak.graphs.module import GraphModule, missing_operations


def test_bounds_of_a_clip_were_attributes_before_version_11(assert_alike, drawn):
    assert_alike("Clip", [drawn(3, 4)], version=10, min=-0.5, max=0.5)
    assert_alike("Clip", [drawn(3, 4)], version=10, max=0.5)
    assert_alike("Clip", [drawn(3, 4)], [None, np.float32(0.5)], version=11)
    assert_alike("Clip", [drawn(3, 4)], version=11)


@pytest.mark.parametrize("elements", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL])
def test_a_cast_gives_the_elements_asked_for(elements, assert_alike, drawn):
    assert_alike("Cast", [drawn(3, 4) * 5], version=13, to=elements)


def test_a_cast_like_another_takes_its_elements(model):
    node = helper.make_node("CastLike", ["x", "like"], ["y"])
    module = GraphModule(model([node], ["x", "like"], ["y"], version=15))
    assert module(torch.randn(2), torch.tensor([1])).dtype == torch.int64


def test_elements_that_torch_does_not_have_are_named(model):
    given = model([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)], ["x"], ["y"])
    assert missing_operations(given) == ("Cast with elements STRING",)


def test_whole_numbers_divide_towards_zero(assert_alike):
    assert_alike("Div", [np.array([-7, 7, -8]), np.array([2, -2, 4])], version=14)


@pytest.mark.parametrize(("kind", "options"), [("LeakyRelu", {}), ("Elu", {"alpha": 2.0}), ("HardSigmoid", {})])
def test_functions_of_old_versions_are_those_of_today(kind, options, assert_alike, drawn):
    assert_alike(kind, [drawn(3, 4) * 3], version=7, **options)


@pytest.mark.parametrize("version", [7, 10, 12, 13])
def test_dropout_drops_in_training_mode_alone(version, model):
    ratio = {"ratio": 0.25} if version < 12 else {}
    reads = ["x"] if version < 12 else ["x", "ratio"]
    node = helper.make_node("Dropout", reads, ["y"], **ratio)
    module = GraphModule(model([node], ["x"], ["y"], {} if version < 12 else {"ratio": np.float32(0.25)}, version))
    values = torch.ones(4000)
    assert torch.equal(module.eval()(values), values)
    kept = module.train()(values)
    assert 0.2 < (kept == 0).float().mean() < 0.3
    assert kept.max() == pytest.approx(4 / 3)


def test_gradients_go_straight_through_a_quantisation(model):
    reads = ["x", "scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", reads, ["q"]),
        helper.make_node("DequantizeLinear", ["q", *reads[1:]], ["y"]),
    ]
    constants = {"scale": np.float32(0.1), "zero": np.int8(3)}
    values = torch.tensor([0.0, 0.52, -1.0, 500.0], requires_grad=True)
    result = GraphModule(model(nodes, ["x"], ["y"], constants))(values)
    assert torch.allclose(result, torch.tensor([0.0, 0.5, -1.0, 12.4]))
    (gradient,) = torch.autograd.grad(result.sum(), values)
    assert torch.allclose(gradient, torch.tensor([1.0, 1.0, 1.0, 0.0]))


def test_int8_weights_are_trained_as_the_floats_they_stand_for(model):
    nodes = [
        helper.make_node("DequantizeLinear", ["packed", "scale", "zero"], ["weight"], axis=1),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    packed = np.arange(6, dtype=np.int8).reshape(3, 2)
    constants = {"packed": packed, "scale": np.float32([0.5, 2]), "zero": np.int8([1, 0])}
    ((name, weight),) = GraphModule(model(nodes, ["x"], ["y"], constants)).named_parameters()
    assert name == "weight%"
    assert torch.equal(weight, torch.tensor([[-0.5, 2.0], [0.5, 6.0], [1.5, 10.0]]))
