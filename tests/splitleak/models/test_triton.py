import sys
import types

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from torch import nn

from splitleak.models.export import OnnxModule
from splitleak.models.split import ModelConfig, build
from splitleak.models.triton import write_triton_model
from splitleak.wire.protocol.pb import open_inference_pb2 as pb


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build(ModelConfig(architecture="cnn", width=0.5, channels=1, size=16, classes=10))
    model(torch.rand(64, 1, 16, 16))  # running statistics that are not 0 and 1
    return model.eval()


def write(model, repository, name="half", **options):
    return write_triton_model(repository, name, model.head, model.feature_shape, 10, **options)


def logits(model, features):
    with torch.inference_mode():
        return model.head(torch.from_numpy(features)).numpy()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_the_configuration_is_that_of_our_cloud_in_tritons_words(model, tmp_path, backend):
    folder = write(model, tmp_path / "models", backend=backend, max_batch_size=32)
    text = (folder / "config.pbtxt").read_text()
    told = text_format.Parse(text, pb.ModelConfig(), allow_unknown_field=True)
    assert (told.name, told.backend, told.max_batch_size) == ("half", backend, 32)
    (taken,), (given,) = told.input, told.output
    assert (taken.name, taken.data_type, tuple(taken.dims)) == ("features", pb.TYPE_FP32, model.feature_shape)
    assert (given.name, given.data_type, tuple(given.dims)) == ("logits", pb.TYPE_FP32, (10,))
    assert "dynamic_batching { }" in text


def test_a_network_of_one_image_is_given_one(model, tmp_path):
    assert "max_batch_size: 1\n" in (write(model, tmp_path, one_by_one=True) / "config.pbtxt").read_text()


def test_the_model_is_one_file_that_gives_the_heads_logits(model, tmp_path):
    folder = write(model, tmp_path)
    assert folder == tmp_path / "half"
    assert files(tmp_path) == ["half/1/model.onnx", "half/config.pbtxt", "half/splitleak.json"]
    features = np.random.default_rng(0).standard_normal((5, *model.feature_shape), dtype=np.float32)
    found = OnnxModule(folder / "1" / "model.onnx", threads=1)(features)
    np.testing.assert_allclose(found, logits(model, features), atol=1e-5)


class Tensor:
    """As much of Triton's tensor as a model uses."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


@pytest.fixture
def python_backend(monkeypatch):
    """Triton's module, which exists only inside its processes; requests and responses are lists of tensors."""
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor
    module.InferenceResponse = list
    module.get_input_tensor_by_name = lambda request, name: next(each for each in request if each.name == name)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_python_model_computes_all_requests_together_and_gives_each_its_own(model, tmp_path, python_backend):
    folder = write(model, tmp_path, backend="python")
    assert files(folder) == ["1/model.onnx", "1/model.py", "config.pbtxt", "splitleak.json"]
    code = {}
    exec(compile((folder / "1" / "model.py").read_text(), "model.py", "exec"), code)
    served = code["TritonPythonModel"]()
    served.initialize({"model_repository": str(folder), "model_version": "1"})
    draw = np.random.default_rng(0)
    batches = [draw.standard_normal((rows, *model.feature_shape), dtype=np.float32) for rows in (1, 3, 2)]
    answers = served.execute([[Tensor("features", batch)] for batch in batches])
    assert [tensor.name for (tensor,) in answers] == ["logits"] * 3
    for batch, (answer,) in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer.values, logits(model, batch), atol=1e-5)


def test_a_model_that_is_there_stays_unless_it_is_to_be_replaced(model, tmp_path):
    (tmp_path / "other").mkdir()
    write(model, tmp_path, backend="python")
    with pytest.raises(FileExistsError, match="half"):
        write(model, tmp_path)
    write(model, tmp_path, replace=True)
    assert files(tmp_path) == ["half/1/model.onnx", "half/config.pbtxt", "half/splitleak.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "other"]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", 'a"b', "a b", "a\n"])
def test_a_name_that_is_no_folders_is_refused(model, tmp_path, name):
    with pytest.raises(ValueError, match="expected a name"):
        write(model, tmp_path, name)
    assert not list(tmp_path.iterdir())


class Noisy(nn.Module):
    """Another result at each call: no other run of it can be right."""

    def forward(self, rows):
        return rows + torch.rand_like(rows)


def test_a_head_that_onnx_does_not_reproduce_is_not_written(tmp_path):
    with pytest.raises(RuntimeError, match="expected values within"):
        write_triton_model(tmp_path, "noisy", Noisy().eval(), (3,), 3)
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_not_exported_so_is_never_replaced(model, tmp_path):
    (tmp_path / "half" / "1").mkdir(parents=True)
    (tmp_path / "half" / "config.pbtxt").write_text('name: "half"')
    with pytest.raises(FileExistsError, match=r"one without a valid splitleak\.json; it was not touched"):
        write(model, tmp_path, replace=True)
    assert files(tmp_path) == ["half/config.pbtxt"]
