"""A stranger's ONNX file: whatever is wrong with it is one line, and little memory."""

import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from splitleak.graphs.reading import read_graph


def info(name: str, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8] if shape is None else shape)


def model(nodes: list[onnx.NodeProto], *, weights: list[TensorProto] | None = None, opset: int = 17) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [info("x")], [info("y")], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def relu() -> ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])])


def written(made: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_reads_a_network_and_brings_its_nodes_into_order(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    assert [node.op_type for node in read_graph(written(model(nodes), tmp_path)).graph.node] == ["Neg", "Relu"]


def test_reads_weights_that_lie_beside_the_file(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(3, dtype=np.float32).reshape(3, 1, 1), "w")
    onnx.save(
        model([helper.make_node("Mul", ["x", "w"], ["y"])], weights=[weight]),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (read,) = read_graph(tmp_path / "model.onnx").graph.initializer
    assert numpy_helper.to_array(read).ravel().tolist() == [0, 1, 2]


def external(location: str, **fields: str) -> ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **fields}.items():
        weight.external_data.add(key=key, value=value)
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], weights=[weight])


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link", ""])
def test_reads_nothing_outside_the_files_own_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"expected (the )?weights"):
        read_graph(written(external(location), folder))


@pytest.mark.parametrize("fields", [{"offset": "8"}, {"length": "17"}, {"offset": "-4"}, {"offset": "a"}])
def test_refuses_weights_that_are_not_where_the_file_says(tmp_path: Path, fields: dict[str, str]) -> None:
    (tmp_path / "beside").write_bytes(bytes(16))
    with pytest.raises(ValueError, match=r"'w'"):
        read_graph(written(external("beside", **fields), tmp_path))


def two_gigabytes() -> ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**29])
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], weights=[weight])


def absurd(dims: list[int]) -> ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(4))
    return model([helper.make_node("Mul", ["x", "w"], ["y"])], weights=[weight])


def circle() -> ModelProto:
    return model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])


def stranger() -> ModelProto:
    made = model([helper.make_node("Backdoor", ["x"], ["y"], domain="evil")])
    made.opset_import.append(helper.make_opsetid("evil", 1))
    return made


def versioned(opset: int = 17, ir: int = 8) -> ModelProto:
    made = model([helper.make_node("Relu", ["x"], ["y"])], opset=opset)
    made.ir_version = ir
    return made


def twice() -> ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])])


def hidden_in_a_branch() -> ModelProto:
    inner = helper.make_graph([helper.make_node("Backdoor", ["x"], ["z"])], "then", [], [info("z")])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return model([branch], weights=[numpy_helper.from_array(np.array(True), "c")])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (two_gigabytes(), "bytes of weights"),
        (absurd([2**40, 2**40]), "bytes of weights"),
        (absurd([-1]), "0 and above"),
        (absurd([2]), "8 bytes"),
        (circle(), "circle"),
        (stranger(), "evil::Backdoor"),
        (hidden_in_a_branch(), "Backdoor"),
        (twice(), "'y' twice"),
        (versioned(opset=99), "version"),
        (versioned(opset=3), "version"),
        (versioned(ir=99), "IR version"),
        (model([helper.make_node("Relu", ["nothing"], ["y"])]), "'nothing'"),
        (model([helper.make_node("Relu", ["x"], ["z"])]), "output 'y'"),
        (model([helper.make_node("", ["x"], ["y"])]), "without a name"),
        (ModelProto(ir_version=8), "graph"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file_and_takes_no_memory(
    tmp_path: Path, made: ModelProto, said: str
) -> None:
    path, before = written(made, tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=said) as caught:
        read_graph(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x05pickle", b"\x08\x08\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="expected an ONNX file"):
        read_graph(tmp_path / "model.onnx")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = written(relu(), tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="expected an ONNX file"):
        read_graph(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_graph(tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError, match="a folder"):
        read_graph(tmp_path)


@pytest.mark.parametrize("name", [b"Rel\xffu", b"\xc5node", b"\xff"])
def test_names_that_are_no_text_are_refused(tmp_path: Path, name: bytes) -> None:
    made = relu()
    made.graph.node[0].name = "Relu-of-it"[: len(name)]
    path = written(made, tmp_path)
    path.write_bytes(path.read_bytes().replace("Relu-of-it"[: len(name)].encode(), name))
    with pytest.raises(ValueError, match=r"model\.onnx: expected names in UTF-8"):
        read_graph(path)
