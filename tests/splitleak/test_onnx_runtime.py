"""One ONNX Runtime is used; several, or a broken one, are told with what mends them."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from onnx import TensorProto, helper

from splitleak import onnx_runtime as module
from splitleak.onnx_runtime import onnx_runtime, session_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(monkeypatch):
    """A system with these distributions installed."""

    def make(*names, system="linux", processor="x86_64", runtime=None):
        def distribution(name):
            if name not in names:
                raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "distribution", distribution)
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr("platform.machine", lambda: processor)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        onnx_runtime.cache_clear()

    yield make
    onnx_runtime.cache_clear()


def working():
    runtime = ModuleType("onnxruntime")
    runtime.InferenceSession = object
    return runtime


def test_one_distribution_is_used_without_a_word(machine, caplog):
    runtime = working()
    machine("onnxruntime-gpu", runtime=runtime)
    assert onnx_runtime() is runtime
    assert not caplog.records


@pytest.mark.parametrize(
    ("system", "processor", "wanted"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
    ],
)
def test_two_are_said_once_with_what_belongs_on_this_machine(machine, caplog, system, processor, wanted):
    machine("onnxruntime", "onnxruntime-gpu", system=system, processor=processor, runtime=working())
    onnx_runtime()
    onnx_runtime()
    (record,) = caplog.records
    said = record.getMessage()
    assert "got onnxruntime and onnxruntime-gpu" in said
    assert f"`pip uninstall -y onnxruntime onnxruntime-gpu && pip install {wanted}`" in said


@pytest.mark.parametrize("runtime", [None, ModuleType("onnxruntime")], ids=["gone", "left over"])
def test_what_cannot_be_used_is_one_line(machine, runtime):
    machine("onnxruntime", runtime=runtime)
    with pytest.raises(RuntimeError, match=r"got onnxruntime \(.*`pip uninstall -y onnxruntime && pip install onnxr"):
        onnx_runtime()
    machine(runtime=runtime)
    with pytest.raises(RuntimeError, match=r"got none \(.*`pip install onnxruntime-gpu`"):
        onnx_runtime()


def test_the_markers_ask_for_the_one_that_this_module_advises():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(each) for each in project["dependencies"] if each.startswith("onnxruntime")]
    for system in ("linux", "win32", "darwin"):
        for processor in ("x86_64", "AMD64", "aarch64", "arm64", "ARM64"):
            here = {"sys_platform": system, "platform_machine": processor}
            gpu = (system, processor) in module._GPU_WHEELS
            chosen = [each.name for each in wanted if each.marker.evaluate(here)]
            assert chosen == ["onnxruntime-gpu" if gpu else "onnxruntime"]


# What sessions may compute with is limited, whoever makes them.

GREEDY = """
import json, resource, sys
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from splitleak.models.export import OnnxModule

rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 1])
total = helper.make_tensor_value_info("total", TensorProto.FLOAT, ["n", 1])
size = numpy_helper.from_array(np.array([1, 100 * 2**20 // 4]), "size")
nodes = [helper.make_node("Expand", ["rows", "size"], ["many"]),
         helper.make_node("ReduceMax", ["many"], ["total"], axes=[1])]
graph = helper.make_graph(nodes, "greedy", [rows], [total], [size])
model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    answer = OnnxModule(model.SerializeToString(), 1)(np.ones((1, 1), np.float32)).tolist()
except Exception as error:
    answer = str(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([answer, grown * 1024]))
"""


def greedy(gib):
    environment = {**os.environ, module.MEMORY: gib}
    command = [sys.executable, "-c", GREEDY]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.mark.slow
def test_a_graph_that_takes_more_memory_than_is_allowed_ends_before_it_has_it():
    answer, grown = greedy("0.05")
    assert "memory" in answer
    assert grown < 80 * 2**20
    answer, _ = greedy("0.5")
    assert answer == [[1.0]]


@pytest.mark.parametrize("said", ["", "many", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(monkeypatch, said):
    monkeypatch.setenv(module.MEMORY, said)
    with pytest.raises(ValueError, match=f"GiB above 0 in {module.MEMORY}"):
        module.most_memory()


def test_the_limit_is_four_gib_or_what_the_environment_says(monkeypatch):
    monkeypatch.delenv(module.MEMORY, raising=False)
    assert module.most_memory() == 4 * 2**30
    monkeypatch.setenv(module.MEMORY, "0.5")
    assert module.most_memory() == 2**29


def test_a_graph_that_cannot_be_computed_is_one_error_and_nothing_is_printed(capfd):
    for broken in (b"", b"no graph", b"\x08\x07\x3a\x04\x0a\x02\xff\xfe"):
        with pytest.raises(ValueError, match="expected a network that ONNX Runtime computes"):
            module.session_of(broken, 1)
    assert capfd.readouterr() == ("", "")


def test_a_network_in_bfloat16_is_to_be_written_in_float32():
    to = [helper.make_node("Cast", [name], [f"{name}b"], to=TensorProto.BFLOAT16) for name in ("x", "w")]
    nodes = [*to, helper.make_node("Conv", ["xb", "wb"], ["y"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 3, 3]) for name in ("x", "w")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)]
    graph = helper.make_graph(nodes, "conv", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(ValueError, match=r"ONNX Runtime computes, but it computes little in bfloat16: .*float32"):
        session_of(model.SerializeToString(), 1)
