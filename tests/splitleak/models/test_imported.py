import json
import os
import resource

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from splitleak.attacker.prior import Prior
from splitleak.models.export import export_onnx
from splitleak.models.generator import Generator, GeneratorConfig
from splitleak.models.imported import ImportedGenerator

CONFIG = GeneratorConfig(channels=1, size=16, latent=6, width=2)


def exported(module, path):
    export_onnx(module, (6,), path / "generator.onnx")
    return path / "generator.onnx"


def upsampling():
    layers = (nn.Linear(6, 2 * 64), nn.LeakyReLU(0.2), nn.Unflatten(1, (2, 8, 8)), nn.Upsample(scale_factor=2))
    return nn.Sequential(*layers, nn.Conv2d(2, 1, 3, padding=1), nn.Tanh()).eval()


@pytest.mark.parametrize("kernel", [4, 5])
def test_our_own_generator_comes_back_as_it_was(kernel, tmp_path):
    config = CONFIG.model_copy(update={"kernel": kernel})
    own = Generator(config)
    own(torch.randn(8, 6))  # statistics of batch normalisation
    imported, latents = ImportedGenerator(exported(own.eval(), tmp_path), config), torch.randn(5, 6)
    assert torch.allclose(imported(latents), own(latents), atol=1e-6)


def test_another_architecture_survives_the_round_trip_and_is_rescaled_to_unit_range(tmp_path):
    own, latents = upsampling(), torch.randn(5, 6)
    path = exported(own, tmp_path)
    assert torch.allclose(ImportedGenerator(path, CONFIG)(latents), own(latents), atol=1e-6)
    assert torch.allclose(ImportedGenerator(path, CONFIG, signed=True)(latents), (own(latents) + 1) / 2, atol=1e-6)


def test_gradients_reach_the_latents_and_not_the_weights(tmp_path):
    own = upsampling()
    imported = ImportedGenerator(exported(own, tmp_path), CONFIG)
    latents = torch.randn(2, 6, requires_grad=True)
    (found,) = torch.autograd.grad(imported(latents).sum(), latents)
    (expected,) = torch.autograd.grad(own(latents).sum(), latents)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not any(weight.requires_grad for weight in imported.parameters())


def test_images_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"2 images \(3, 16, 16\) of 2 latents, got \(2, 1, 16, 16\)"):
        ImportedGenerator(exported(upsampling(), tmp_path), CONFIG.model_copy(update={"channels": 3}))


def test_an_operation_that_is_not_known_is_refused_by_name(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6]) for name in ("latents", "images")]
    graph = helper.make_graph([helper.make_node("Det", ["latents"], ["images"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph), tmp_path / "generator.onnx")
    with pytest.raises(ValueError, match=r"generator\.onnx: expected .* operations of Abs, .*, got Det \(1\)"):
        ImportedGenerator(tmp_path / "generator.onnx", CONFIG)


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08"])
def test_a_file_that_is_no_generator_is_refused_by_name(content, tmp_path):
    path = tmp_path / "generator.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"generator\.onnx: expected"):
        ImportedGenerator(path, CONFIG)


def tensor(name, values, kind=TensorProto.FLOAT):
    return helper.make_tensor(name, kind, [len(values)], values)


def external(location=None, **more):
    """A weight whose values are in another file."""
    weight = tensor("shift", [])
    weight.ClearField("float_data")
    weight.dims[0] = 256
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        if value is None:
            continue
        weight.external_data.add(key=key, value=str(value))
    return weight


def info(name, shape=("N", 256), kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def own(nodes=None, weights=(), inputs=("latents",), outputs=("images",), opset=17, ir=8, **changes):
    """A generator of 256 latents to images (1, 16, 16), as far as nothing is changed."""
    if nodes is None:
        nodes = [helper.make_node("Identity", ["latents"], ["x"]), *reshaped("x")]
    shape = tensor("shape", [0, 1, 16, 16], TensorProto.INT64)
    infos = [[each if not isinstance(each, str) else info(each) for each in names] for names in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *infos, [shape, *weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def reshaped(name):
    return [helper.make_node("Reshape", [name, "shape"], ["images"])]


def node(kind, *more, attributes=None, domain="", after=None):
    """A graph of one operation on the latents and then the images."""
    return [
        helper.make_node(kind, ["latents", *more], ["x"], domain=domain, **(attributes or {})),
        *(reshaped("x") if after is None else after),
    ]


def spoiled(change):
    model = own()
    change(model)
    return model


def huge():
    weight = tensor("w", [])
    weight.dims[:] = [2**29]
    return own(node("Add", "w"), [weight])


def overflowing():
    weight = tensor("w", [1.0])
    weight.dims[:] = [2**62, 2**62]
    return own(node("Add", "w"), [weight])


def negative():
    weight = tensor("w", [1.0])
    weight.dims[:] = [-1]
    return own(node("Add", "w"), [weight])


def branches():
    then = helper.make_graph([helper.make_node("Identity", ["latents"], ["y"])], "t", [], [info("y")])
    return own([helper.make_node("If", ["c"], ["images"], then_branch=then, else_branch=then)], inputs=("latents",))


def doubling():
    """2^40 times the latents, of a file of a few kilobytes."""
    nodes, last = [], "latents"
    for turn in range(40):
        nodes.append(helper.make_node("Concat", [last, last], [f"d{turn}"], axis=0))
        last = f"d{turn}"
    return own([*nodes, *reshaped(last)])


def sums():
    """A sum of 10^5 and 10^5 values, which has 10^10, of weights alone."""
    column = helper.make_tensor("column", TensorProto.FLOAT, [10**5, 1], [0.0] * 10**5)
    nodes = [helper.make_node("Add", ["column", "row"], ["all"]), helper.make_node("Add", ["latents", "all"], ["x"])]
    return own([*nodes, *reshaped("x")], [column, tensor("row", [0.0] * 10**5)])


SPARSE = helper.make_sparse_tensor(tensor("w", [1.0]), tensor("at", [3], TensorProto.INT64), [256])
HOSTILE = {
    "no graph": lambda: spoiled(lambda model: model.ClearField("graph")),
    "no opset": lambda: spoiled(lambda model: model.ClearField("opset_import")),
    "no inputs": lambda: own(inputs=()),
    "two inputs": lambda: own(inputs=("latents", "more")),
    "no outputs": lambda: own(outputs=()),
    "two outputs": lambda: own(outputs=("images", "x")),
    "an operation that there is not": lambda: own(node("Explode")),
    "an operation of another's": lambda: own(node("Add", "w", domain="com.evil")),
    "no name of an operation": lambda: own(node("")),
    "a branch": branches,
    "a loop": lambda: own(node("Loop", "w")),
    "an opset to come": lambda: own(opset=999),
    "a version to come": lambda: own(ir=9999),
    "no version": lambda: spoiled(lambda model: model.ClearField("ir_version")),
    "an input of another rank": lambda: own(node("Conv", "w"), [tensor("w", [1.0])]),
    "another number of latents": lambda: own(node("Add", "w"), [tensor("w", [1.0] * 7)]),
    "a batch of its own": lambda: own(
        [helper.make_node("Reshape", ["latents", "two"], ["images"])],
        [tensor("two", [2, 1, 16, 16], TensorProto.INT64)],
    ),
    "a batch that is doubled": lambda: own(node("Concat", "latents", attributes={"axis": 0})),
    "a shape of what is drawn": lambda: own([helper.make_node("Reshape", ["latents", "latents"], ["images"])]),
    "sizes that do not fit": lambda: own(
        [helper.make_node("Reshape", ["latents", "odd"], ["images"])],
        [tensor("odd", [-1, -1, 2**62], TensorProto.INT64)],
    ),
    "a text as input": lambda: own(inputs=(info("latents", kind=TensorProto.STRING),)),
    "a whole number as output": lambda: own([helper.make_node("Shape", ["latents"], ["images"])]),
    "a sequence as input": lambda: own(
        inputs=(helper.make_tensor_sequence_value_info("latents", TensorProto.FLOAT, None),)
    ),
    "texts as weights": lambda: own(node("Add", "w"), [tensor("w", [b"a"], TensorProto.STRING)]),
    "complex weights": lambda: own(node("Add", "w"), [tensor("w", [1j], TensorProto.COMPLEX64)]),
    "weights of eight bits": lambda: own(node("Add", "w"), [tensor("w", [1.0], TensorProto.FLOAT8E4M3FN)]),
    "weights of no kind": lambda: own(node("Add", "w"), [TensorProto(name="w", dims=[1])]),
    "weights of a kind to come": lambda: own(node("Add", "w"), [TensorProto(name="w", dims=[1], data_type=250)]),
    "weights that are no numbers": lambda: own(node("Add", "w"), [tensor("w", [float("nan")] * 256)]),
    "infinite weights": lambda: own(node("Add", "w"), [tensor("w", [float("-inf")])]),
    "a constant that is no number": lambda: own(
        [
            helper.make_node("Constant", [], ["w"], value=tensor("", [float("nan")])),
            *node("Add", "w"),
        ]
    ),
    "a sparse constant": lambda: own([helper.make_node("Constant", [], ["w"], sparse_value=SPARSE), *node("Add", "w")]),
    "sparse weights": lambda: spoiled(lambda model: model.graph.sparse_initializer.append(SPARSE)),
    "weights announced and not there": huge,
    "weights of more than all bytes": overflowing,
    "weights of less than none": negative,
    "weights of fewer than announced": lambda: own(node("Add", "w"), [TensorProto(name="w", dims=[256], data_type=1)]),
    "values that double": doubling,
    "weights whose sum is large": sums,
    "pictures enlarged a million times": lambda: own(
        [*reshaped("latents"), helper.make_node("Resize", ["images", "", "by"], ["large"])],
        [tensor("by", [1.0, 1.0, 1e6, 1e6])],
        outputs=("large",),
    ),
    "padding without end": lambda: own(
        [*reshaped("latents"), helper.make_node("Conv", ["images", "k"], ["y"], pads=[2**40] * 4)],
        [helper.make_tensor("k", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])],
        outputs=("y",),
    ),
    "a stride of none": lambda: own(
        [*reshaped("latents"), helper.make_node("Conv", ["images", "k"], ["y"], strides=[0, 0])],
        [helper.make_tensor("k", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])],
        outputs=("y",),
    ),
    "operations without end": lambda: own(
        [*[helper.make_node("Identity", ["latents"], [f"i{i}"]) for i in range(10_001)], *reshaped("i0")]
    ),
    "a circle": lambda: own(
        [
            helper.make_node("Add", ["latents", "b"], ["a"]),
            helper.make_node("Identity", ["a"], ["b"]),
            *reshaped("b"),
        ]
    ),
    "a value out of nowhere": lambda: own(reshaped("nowhere")),
    "an output out of nowhere": lambda: own(outputs=("nowhere",)),
    "a name given twice": lambda: own([helper.make_node("Identity", ["latents"], ["x"]), *node("Identity")]),
    "weights of one name": lambda: own(node("Add", "w"), [tensor("w", [1.0]), tensor("w", [2.0])]),
    "an operation without inputs": lambda: own([helper.make_node("Add", [], ["x"]), *reshaped("x")]),
    "an operation without outputs": lambda: own([helper.make_node("Relu", ["latents"], []), *reshaped("latents")]),
    "an attribute that there is not": lambda: own(node("Relu", attributes={"evil": 1})),
    "an attribute of another kind": lambda: own(node("Flatten", attributes={"axis": "one"})),
    "a file above the folder": lambda: own(node("Add", "shift"), [external("../../../../etc/passwd")]),
    "a file by its whole path": lambda: own(node("Add", "shift"), [external("/etc/passwd")]),
    "a file that is not there": lambda: own(node("Add", "shift"), [external("weights.bin")]),
    "a link": lambda: own(node("Add", "shift"), [external("link")]),
    "a pipe": lambda: own(node("Add", "shift"), [external("pipe")]),
    "no file": lambda: own(node("Add", "shift"), [external("")]),
    "no place": lambda: own(node("Add", "shift"), [external()]),
    "more of a file than there is": lambda: own(node("Add", "shift"), [external("prior.json", offset=0, length=2**40)]),
    "an offset below a file": lambda: own(node("Add", "shift"), [external("prior.json", offset=-5)]),
}


@pytest.fixture
def folder(tmp_path):
    """A prior's folder without a generator, with what a stranger may have put there."""
    document = {"format": 1, "generator": {"channels": 1, "size": 16, "latent": 256}}
    (tmp_path / "prior.json").write_text(json.dumps(document))
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def load(folder):
    return Prior.load(folder, torch.device("cpu")).generator


def test_what_the_hostile_graphs_are_made_of_is_a_generator(folder):
    latents = torch.rand(3, 256)
    onnx.save(own(), folder / "generator.onnx")
    assert torch.equal(load(folder)(latents), latents.view(3, 1, 16, 16))
    (folder / "shift.bin").write_bytes(torch.arange(256.0).numpy().tobytes())
    onnx.save(own(node("Add", "shift"), [external("shift.bin", length=1024)]), folder / "generator.onnx")
    assert torch.equal(load(folder)(latents), (latents + torch.arange(256.0)).view(3, 1, 16, 16))


@pytest.mark.parametrize("how", HOSTILE)
def test_a_strangers_graph_is_refused_in_one_line_and_bounded_memory(how, folder):
    onnx.save(own(), folder / "generator.onnx")
    load(folder)  # what torch imports for a first measurement is half of the limit, and not the file's
    (folder / "generator.onnx").write_bytes(HOSTILE[how]().SerializeToString())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as refused:
        load(folder)
    assert str(refused.value).startswith(f"{folder / 'generator.onnx'}: expected")
    assert "root:" not in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KiB


@pytest.mark.parametrize(
    "kind",
    [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.UINT8],
)
def test_weights_of_another_precision_are_brought_to_ours(kind, folder):
    onnx.save(
        own(node("Mul", "w"), [tensor("w", [3.0 if kind > 9 or kind == 1 else 3], kind)]), folder / "generator.onnx"
    )
    latents = torch.rand(2, 256)
    found = load(folder)(latents)
    assert found.dtype == torch.float32
    assert torch.equal(found, 3 * latents.view(2, 1, 16, 16))


def test_inputs_that_are_left_out_are_not_mistaken_for_the_next(folder):
    onnx.save(own(node("Clip", "", "most"), [helper.make_tensor("most", 1, [], [0.5])]), folder / "generator.onnx")
    assert torch.equal(load(folder)(torch.ones(2, 256)), torch.full((2, 1, 16, 16), 0.5))


def test_a_graph_is_flattened_to_rows_whatever_the_axis(folder):
    after = [helper.make_node("Flatten", ["x"], ["y"], axis=1), *reshaped("y")]
    four = tensor("four", [0, 2, 8, 16], TensorProto.INT64)
    onnx.save(own(node("Reshape", "four", after=after), [four]), folder / "generator.onnx")
    latents = torch.rand(2, 256)
    assert torch.equal(load(folder)(latents), latents.view(2, 1, 16, 16))


def test_a_slice_may_end_beyond_all_there_is(folder):
    after = [helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"]), *reshaped("y")]
    ends = {"start": -(2**62), "end": 2**63 - 1, "axis": 1}
    weights = [tensor(name, [at], TensorProto.INT64) for name, at in ends.items()]
    onnx.save(own(node("Relu", after=after), weights), folder / "generator.onnx")
    latents = torch.rand(2, 256)
    assert torch.equal(load(folder)(latents), latents.view(2, 1, 16, 16))
