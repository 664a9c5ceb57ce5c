import copy
import io
import itertools
import warnings
import weakref

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper
from safetensors.torch import load, save
from torch import nn

from splitleak.graphs.module import GraphModule, missing_operations, weight_key
from splitleak.graphs.operations.node import Operation
from splitleak.graphs.operations.table import OPERATIONS
from splitleak.models.export import OnnxModule, check_parity, onnx_bytes
from splitleak.models.split import output_shape


def small_network():
    """Convolutions with normalisation, a skip connection, a pool, a layer."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
            self.second, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6 * 4, 5)

        def forward(self, images):
            values = self.norm(self.first(images)).relu()
            values = values + self.second(values)
            return self.last(nn.functional.adaptive_avg_pool2d(values, 2).flatten(1))

    torch.manual_seed(0)
    network = Network()
    network(torch.randn(8, 3, 8, 8))  # statistics that are not those of the beginning
    return network.eval()


def torchvision_network(name):
    torch.manual_seed(0)
    if name == "vit":
        network = torchvision.models.VisionTransformer(
            image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
        )
        nn.init.normal_(network.heads.head.weight)
        return network.eval()
    return torchvision.models.get_model(name, weights=None, num_classes=10).eval()


def exported(network, shape, *, dynamo=False, training=False):
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            sizes = ({0: torch.export.Dim("rows", min=2)},)
            program = torch.onnx.export(
                network, (torch.randn(2, *shape),), dynamo=True, dynamic_shapes=sizes, verbose=False
            )
            return program.model_proto
        torch.onnx.export(
            network,
            (torch.randn(2, *shape),),
            written,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "rows"}, "y": {0: "rows"}},
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL,
            do_constant_folding=not training,
        )
    return onnx.load_from_string(written.getvalue())


@pytest.fixture
def network():
    return small_network()


@pytest.fixture
def written(network):
    """The small network as the exporter writes one that is to be trained, its normalisations apart."""
    return exported(network, (3, 8, 8), training=True)


def test_answer_and_gradients_are_those_of_the_network(network):
    module, images = GraphModule(exported(network, (3, 8, 8))).eval(), torch.randn(5, 3, 8, 8, requires_grad=True)
    assert torch.allclose(module(images), network(images), atol=1e-5)
    (found,) = torch.autograd.grad(module(images).square().sum(), images)
    (expected,) = torch.autograd.grad(network(images).square().sum(), images)
    assert torch.allclose(found, expected, atol=1e-4)


def test_weights_keep_their_names_and_learn_as_the_networks_own_do(network, written):
    module, images = GraphModule(written), torch.randn(5, 3, 8, 8)
    own = dict(module.named_parameters())
    assert own.keys() == {weight_key(name) for name, _ in network.named_parameters()}
    for each in (module, network):
        each.train()
        each(images).square().sum().backward()
    for name, weight in network.named_parameters():
        assert torch.allclose(own[weight_key(name)].grad, weight.grad, rtol=1e-3, atol=1e-3)
    assert torch.allclose(module.get_buffer("norm-running_mean"), network.norm.running_mean, atol=1e-6)
    assert torch.allclose(module.get_buffer("norm-running_var"), network.norm.running_var, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        ("resnet18", False),
        ("resnet18", True),
        ("vit", False),
        ("vit", True),
        ("mobilenet_v3_small", False),  # of these the newer exporter takes minutes
        ("shufflenet_v2_x0_5", False),
        ("swin_t", False),
    ],
)
def test_networks_of_torchvision_answer_as_in_onnx_runtime_and_have_torchs_gradients(name, dynamo, answers):
    network, images = torchvision_network(name), torch.randn(3, 3, 64, 64, requires_grad=True)
    model = exported(network, (3, 64, 64), dynamo=dynamo)
    (own,), (theirs,) = answers(model, images.detach().numpy())
    assert np.abs(own - theirs).max() <= 1e-4 * np.abs(theirs).max()
    (found,) = torch.autograd.grad(GraphModule(model).eval()(images).square().sum(), images)
    (expected,) = torch.autograd.grad(network(images).square().sum(), images)
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert output_shape(GraphModule(model), (3, 64, 64)) == (theirs.shape[1],)


def test_the_state_survives_a_round_trip_by_safetensors(written):
    module, other = GraphModule(written), GraphModule(written)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(1)
    other.load_state_dict(load(save(module.state_dict())))
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(other.eval()(images), module.eval()(images))


def test_keys_follow_from_the_graph_alone(written):
    assert list(GraphModule(written).state_dict()) == list(GraphModule(copy.deepcopy(written)).state_dict())


def test_no_two_names_have_one_key_and_none_has_a_dot_or_an_attributes_name():
    names = ["a.b", "a-b", "a/b", "a_b", "a%2Eb", "a:b", "a~b", "ab", "ab%", "training", "é", ".a", "a."]
    keys = [weight_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert not [key for key in keys if "." in key or hasattr(nn.Module(), key)]


def test_a_module_runs_by_another_state_and_on_the_meta_device(written):
    module, images = GraphModule(written).eval(), torch.randn(3, 3, 8, 8)
    zeros = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
    assert torch.equal(torch.func.functional_call(module, zeros, (images,)), torch.zeros(3, 5))
    before = copy.deepcopy(module.state_dict())
    assert output_shape(module.train(), (3, 8, 8)) == (5,)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_copy_shares_nothing(written):
    module = GraphModule(written).train()
    other, images = copy.deepcopy(module), torch.randn(4, 3, 8, 8)
    before = copy.deepcopy(module.state_dict())
    other(images)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_shapes_that_are_computed_follow_the_batch_on_any_device(model, drawn):
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["lead"]),
        helper.make_node("Concat", ["lead", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Cast", ["rows"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["count", "axes"], ["counts"]),
        helper.make_node("Concat", ["bias", "counts"], ["more"], axis=0),
        helper.make_node("Add", ["flat", "more"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]), "bias": drawn(11)}
    module = GraphModule(model(nodes, ["x"], ["y"], constants))
    assert [name for name, _ in module.named_parameters()] == ["bias%"]
    assert len(module.state_dict()) == 1
    values = torch.randn(5, 3, 4)
    assert torch.allclose(module(values)[:, -1], values.flatten(1)[:, -1] + 5)
    assert output_shape(module, (3, 4)) == (12,)


def test_single_numbers_are_no_weights_and_equal_weights_are_their_own(model, drawn):
    nodes = [
        helper.make_node("Identity", ["weight"], ["other"]),
        helper.make_node("MatMul", ["x", "weight"], ["a"]),
        helper.make_node("MatMul", ["a", "other"], ["b"]),
        helper.make_node("Mul", ["b", "number"], ["c"]),
        helper.make_node("Pow", ["c", "two"], ["y"]),
    ]
    constants = {"weight": drawn(4, 4), "number": np.float32(3), "two": np.float32(2)}
    module = GraphModule(model(nodes, ["x"], ["y"], constants))
    assert list(module.state_dict()) == ["weight%", "other%"]
    with torch.no_grad():
        module.get_parameter("other%").zero_()
    assert module.get_parameter("weight%").any()
    assert not module(torch.randn(2, 4)).any()


def test_several_inputs_and_outputs_keep_their_order(model, drawn):
    nodes = [
        helper.make_node("Sub", ["b", "a"], ["difference"]),
        helper.make_node("Split", ["a"], ["left", "right"], axis=1),
    ]
    outputs = ["right", "b", "difference"]
    module, (a, b) = GraphModule(model(nodes, ["a", "b"], outputs)), torch.randn(2, 3, 4)
    found = module(a, b)
    assert all(torch.equal(*pair) for pair in zip(found, (a[:, 2:], b, b - a), strict=True))
    with pytest.raises(ValueError, match="expected 2 inputs, got 1"):
        module(a)


def test_a_value_is_forgotten_after_its_last_use(model, monkeypatch):
    values, most = [], []

    def doubled(value):
        result = value + value
        values.append(weakref.ref(result))
        most.append(sum(each() is not None for each in values))
        return result

    monkeypatch.setitem(OPERATIONS, "Relu", Operation(lambda node: doubled))
    names = [f"v{place}" for place in range(20)]
    nodes = [helper.make_node("Relu", [before], [after]) for before, after in itertools.pairwise(names)]
    GraphModule(model(nodes, names[:1], names[-1:]))(torch.randn(3))
    assert max(most) == 2  # an input and an output


def test_half_precision_runs_through_every_layer(written):
    module, images = GraphModule(written).eval(), torch.randn(3, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(images)
    assert torch.allclose(found.float(), module(images), atol=0.1)


def test_everything_that_is_missing_is_named_and_counted(model):
    graph = helper.make_graph([], "inner", [], [])
    nodes = [
        helper.make_node("Loop", ["", "", "x"], ["a"], body=graph),
        helper.make_node("LSTM", ["a", "a", "a"], ["b"]),
        helper.make_node("LSTM", ["b", "a", "a"], ["c"]),
        helper.make_node("Fancy", ["c"], ["d"], domain="com.example"),
        helper.make_node("Resize", ["d", "", "s"], ["e"], mode="linear", antialias=1, unheard=1),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    given = model(nodes, ["x"], ["y"], {"s": np.float32([1, 1])})
    assert missing_operations(given) == ("LSTM", "Loop", "Resize with unheard", "com.example.Fancy")
    counts = r"got LSTM \(2\), Loop \(1\), Resize with unheard \(1\), com\.example\.Fancy \(1\)"
    with pytest.raises(ValueError, match=f"expected operations of Abs, .*, {counts}"):
        GraphModule(given)


def test_constants_that_contradict_each_other_are_named(model):
    given = model([helper.make_node("Add", ["a", "b"], ["y"])], ["x"], ["y"], {"a": np.arange(2), "b": np.arange(3)})
    (name,) = missing_operations(given)
    assert name.startswith("Add with inputs that contradict each other")


def test_nothing_large_is_computed_from_small_constants_when_a_graph_is_read(model):
    nodes = [
        helper.make_node("Expand", ["one", "huge"], ["large"]),
        helper.make_node("Add", ["a", "b"], ["square"]),
        helper.make_node("ConstantOfShape", ["huge"], ["zeros"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    side = np.zeros((1, 2**13), np.int8)
    constants = {"one": np.array([1]), "huge": np.array([2**40]), "a": side, "b": side.T.copy()}
    GraphModule(model(nodes, ["x"], ["y"], constants))


KERNEL, SIZES = np.ones((5, 4, 3, 3), np.float32), np.array([9, 5])


@pytest.mark.parametrize(
    ("kind", "constants", "version", "options"),
    [
        ("Conv", [KERNEL], 17, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("ConvTranspose", [KERNEL[:4]], 17, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("MaxPool", [], 17, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", [], 19, {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}),
        ("Resize", [None, None, SIZES], 18, {"mode": "cubic", "antialias": 1, "axes": [2, 3]}),
        ("Split", [], 18, {"axis": 2, "num_outputs": 3}),
        ("LayerNormalization", [KERNEL[0, 0, 0].repeat(2), None], 17, {}),
        ("RMSNormalization", [KERNEL[0, 0, 0].repeat(2)], 23, {}),
        ("ThresholdedRelu", [], 17, {"alpha": 0.5}),
    ],
)
def test_what_follows_from_the_sizes_of_a_map_is_exported_as_it_is_computed(
    kind, constants, version, options, model, drawn
):
    held = {f"c{place}": value for place, value in enumerate(constants) if value is not None}
    reads = ["x", *(f"c{place}" if value is not None else "" for place, value in enumerate(constants))]
    outputs = [f"y{place}" for place in range(options.get("num_outputs", 1))]
    module = GraphModule(model([helper.make_node(kind, reads, outputs, **options)], ["x"], outputs[:1], held, version))
    exported = OnnxModule(onnx_bytes(module.eval(), (4, 7, 6)), threads=1)
    for rows in (1, 2, 3):
        check_parity(module, exported, drawn(rows, 4, 7, 6))
