import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

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
    with pytest.raises(ValueError, match=r"expected a generator of images \(3, 16, 16\), got \(1, 16, 16\)"):
        ImportedGenerator(exported(upsampling(), tmp_path), CONFIG.model_copy(update={"channels": 3}))


def test_an_operation_that_is_not_known_is_refused_by_name(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6]) for name in ("latents", "images")]
    graph = helper.make_graph([helper.make_node("Det", ["latents"], ["images"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph), tmp_path / "generator.onnx")
    with pytest.raises(ValueError, match=r"generator\.onnx: expected operations of Abs, .*, got Det \(1\)"):
        ImportedGenerator(tmp_path / "generator.onnx", CONFIG)


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08"])
def test_a_file_that_is_no_generator_is_refused_by_name(content, tmp_path):
    path = tmp_path / "generator.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"generator\.onnx: expected"):
        ImportedGenerator(path, CONFIG)
