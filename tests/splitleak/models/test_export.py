import numpy as np
import pytest
import torch
from torch import nn

from splitleak.models.export import OneByOne, OnnxModule, check_parity, export_onnx
from splitleak.models.split import ModelConfig, build


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build(ModelConfig(architecture="cnn", width=0.5, channels=1, size=16, classes=10))
    model(torch.rand(64, 1, 16, 16))  # running statistics that are not 0 and 1
    return model.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    export_onnx(model.encoder, (1, 16, 16), path)
    return path


@pytest.mark.parametrize("rows", [1, 2, 37])
def test_any_number_of_rows_gives_what_torch_gives(model, exported, rows):
    images = np.random.default_rng(0).random((rows, 1, 16, 16), dtype=np.float32)
    encoder = model.encoder.eval()
    assert check_parity(encoder, OnnxModule(exported, threads=1), images) < 1e-5
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(OnnxModule(exported, threads=1)(images), expected, atol=1e-5)


def test_exporting_changes_nothing_in_the_module(model, tmp_path):
    model.head.train()
    before = {name: value.clone() for name, value in model.head.state_dict().items()}
    export_onnx(model.head, model.feature_shape, tmp_path / "head.onnx")
    assert model.head.training
    assert all(torch.equal(value, before[name]) for name, value in model.head.state_dict().items())


def test_one_file_holds_it_all(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["encoder.onnx"]


def test_a_module_that_is_not_the_exported_one_is_refused(model, exported):
    images = np.random.default_rng(0).random((3, 1, 16, 16), dtype=np.float32)
    other = nn.Sequential(model.encoder, nn.Sigmoid()).eval()
    with pytest.raises(RuntimeError, match="expected values within"):
        check_parity(other, OnnxModule(exported, threads=1), images)
    with pytest.raises(RuntimeError, match="as torch gives"):
        check_parity(nn.Flatten(), OnnxModule(exported, threads=1), images)


def test_one_row_at_a_time_is_normalised_by_the_running_statistics_in_training_too():
    """Those of one image are not those of a batch, and of one vector there are none."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4))
    statistics = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    images = torch.rand(5, 1, 3, 3)
    trained = OneByOne(network).train()
    torch.testing.assert_close(trained(images), network.eval()(images))
    trained(images).sum().backward()
    assert trained.training
    assert all(parameter.grad is not None for parameter in trained.parameters())
    assert all(torch.equal(network.state_dict()[key], value) for key, value in statistics.items())
