import logging

import numpy as np
import pytest
import torch
from torch import nn

from splitleak.defenses.features.dropout import Dropout, DropoutConfig
from splitleak.defenses.features.noise import GaussianNoise, GaussianNoiseConfig, LaplaceNoise, LaplaceNoiseConfig
from splitleak.defenses.stack import Stack
from splitleak.models import ARCHITECTURES
from splitleak.models.engine import choose_engine, feature_probes, fused, image_probes, torch_engine
from splitleak.models.export import TOLERANCE
from splitleak.models.generator import Generator, GeneratorConfig
from splitleak.models.split import ModelConfig, build

CPU, LAST = torch.device("cpu"), torch.channels_last


def used(architecture="cnn", **config):
    """A network whose running statistics are not those of a new one, as a service has it."""
    torch.manual_seed(0)
    model = build(ModelConfig(**{"architecture": architecture, "width": 0.125, "channels": 3, "size": 32, **config}))
    model(torch.rand(32, *model.image_shape))
    return model.to(memory_format=LAST).eval()


@pytest.fixture(autouse=True)
def _as_services_compute():
    with torch.inference_mode():
        yield


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["onnx", "fused"])
def test_every_engine_computes_either_half_of_every_network_in_any_batch(architecture, name):
    model, draw = used(architecture, classes=7), torch.Generator().manual_seed(1)
    halves = ((model.encoder, image_probes(model.image_shape), LAST),)
    halves += ((model.head, feature_probes(model.feature_shape), torch.preserve_format),)
    for module, probes, layout in halves:
        engine = choose_engine(name, module, CPU, probes, layout)
        assert engine.name == name
        for count in (1, 2, 17):
            rows = torch.rand(count, *probes[0].shape[1:], generator=draw)
            assert relative(engine(rows.numpy()), module(rows)) < TOLERANCE


def test_the_torch_engine_is_the_module_bit_for_bit():
    model = used(classes=7)
    images = image_probes(model.image_shape)[1]
    expected = model.encoder(torch.from_numpy(images).contiguous(memory_format=LAST))
    engine = choose_engine("torch", model.encoder, CPU, [], LAST)
    assert torch.equal(engine(images), expected)
    assert engine.name == torch_engine(model.encoder, CPU).name == "torch"


@pytest.mark.parametrize("name", ["onnx", "fused", "auto"])
@pytest.mark.parametrize(
    "defense",
    [
        GaussianNoise(GaussianNoiseConfig(sigma=2.0)),
        LaplaceNoise(LaplaceNoiseConfig(scale=2.0)),
        Dropout(DropoutConfig(rate=0.5)),
    ],
    ids=lambda defense: defense.name,
)
@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1])
def test_a_defense_draws_the_same_noise_at_the_same_place_behind_any_engine(name, defense, cut, rows):
    model, stack = used(classes=7, cut=cut), Stack([defense])
    probes = image_probes(model.image_shape)
    sent = []
    for engine in (
        torch_engine(model.encoder, CPU, layout=LAST),
        choose_engine(name, model.encoder, CPU, probes, LAST),
    ):
        stack.seed(5, CPU)
        sent += [stack(engine(probes[rows]))]
    assert relative(sent[1], sent[0]) < TOLERANCE


class Noisy(nn.Module):
    """Another result at each call: no other run of it can be right."""

    def forward(self, rows):
        return rows + torch.rand_like(rows)


class Opaque(nn.Module):
    """What cannot be copied, let alone exported."""

    def forward(self, rows):
        return rows

    def __deepcopy__(self, memo):
        raise NotImplementedError("no copies")


@pytest.mark.parametrize(("module", "why"), [(Noisy(), "expected values within 0.0001"), (Opaque(), "no copies")])
def test_where_the_check_fails_auto_takes_torch_and_says_why_and_the_others_are_refused(module, why, caplog):
    probes = image_probes((1, 4, 4))
    with caplog.at_level(logging.WARNING):
        assert choose_engine("auto", module, CPU, probes).name == "torch"
    assert [record.args[0] for record in caplog.records] == ["onnx", "fused"]
    assert why in caplog.text
    for name in ("onnx", "fused"):
        with pytest.raises(RuntimeError, match=f"expected a half that engine '{name}' can compute, but .*{why}"):
            choose_engine(name, module, CPU, probes)


class Rounded(nn.Module):
    """What torch can fuse and ONNX has no word for."""

    def forward(self, rows):
        return torch.frexp(rows).mantissa


def test_auto_takes_fused_torch_where_there_is_no_export():
    assert choose_engine("auto", nn.Sequential(Rounded()), CPU, image_probes((1, 4, 4))).name == "fused"


def test_other_devices_have_torch_unless_another_engine_is_asked_for():
    elsewhere = torch.device("meta")
    assert choose_engine("auto", nn.Identity(), elsewhere, image_probes((1, 4, 4))).name == "torch"
    with pytest.raises(RuntimeError, match="computes on the CPU alone here, not on meta"):
        choose_engine("onnx", nn.Identity(), elsewhere, image_probes((1, 4, 4)))


def test_fusing_leaves_no_normalisation_and_the_module_as_it_was():
    model = used("resnet20", classes=7)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused(model.encoder).modules())
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


def test_probes_are_one_row_and_three_in_the_range_of_the_half_and_always_the_same():
    images, features = image_probes((3, 4, 4)), feature_probes((8, 2, 2))
    assert [rows.shape for rows in images] == [(1, 3, 4, 4), (3, 3, 4, 4)]
    assert [rows.shape for rows in features] == [(1, 8, 2, 2), (3, 8, 2, 2)] * 2
    assert all(rows.min() >= 0 and rows.max() <= 1 for rows in images)
    assert all(rows.min() < 0 < rows.max() for rows in features[:2])
    assert not any(rows.any() for rows in features[2:])
    np.testing.assert_array_equal(images[1], image_probes((3, 4, 4))[1])


def test_a_fused_generator_draws_the_same_images():
    generator = Generator(GeneratorConfig(channels=1, size=16, width=4, classes=3)).train()
    latents, labels = torch.randn(6, generator.config.latent), torch.arange(6) % 3
    generator(latents, labels)  # moves the statistics away from where they start
    lighter = fused(generator)
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in lighter.modules())
    torch.testing.assert_close(lighter(latents, labels), generator.eval()(latents, labels))
