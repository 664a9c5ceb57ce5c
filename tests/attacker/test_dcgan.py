import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from splitleak.artifacts import save_tensors
from splitleak.attacker.dcgan import import_dcgan, read_dcgan
from splitleak.attacker.prior import Prior
from splitleak.cli import app
from splitleak.datasets.images import fitted_pixels
from splitleak.models.generator import Generator

CPU = torch.device("cpu")


class Tutorial(nn.Module):
    """The generator of PyTorch's tutorial, as its users write it: 16 × 16, with statistics of its own."""

    def __init__(self, channels=3):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(6, 8, 4, 1, 0, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(True),
            nn.ConvTranspose2d(4, channels, 4, 2, 1, bias=False),
            nn.Tanh(),
        )
        for layer in self.main:
            if isinstance(layer, nn.BatchNorm2d):
                for value in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                    value.copy_(0.5 + torch.rand(value.shape))
            elif isinstance(layer, nn.ConvTranspose2d):
                layer.weight.data.normal_(std=0.3)

    def forward(self, latents):
        return self.main(latents[:, :, None, None])


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.Conv2d(8, 1, 4, 1, 0, bias=False))


@pytest.fixture
def tutorial():
    torch.manual_seed(0)
    return Tutorial().eval()


@pytest.fixture
def checkpoint(tutorial, tmp_path):
    state = {"epoch": 3, "netD_state_dict": Critic().state_dict(), "netG_state_dict": tutorial.state_dict()}
    torch.save(state, tmp_path / "weights.tar")
    return tmp_path / "weights.tar"


@torch.no_grad()
def test_it_draws_what_the_tutorials_generator_draws(tutorial, checkpoint, tmp_path):
    latents, expected = torch.randn(5, 6), None
    save_tensors(tmp_path / "alone.safetensors", tutorial.state_dict())
    expected = (tutorial(latents) + 1) / 2
    for path in (checkpoint, tmp_path / "alone.safetensors"):
        generator = read_dcgan(path)
        assert generator.config.image_shape == (3, 16, 16)
        torch.testing.assert_close(generator(latents), expected)


@torch.no_grad()
def test_a_prior_of_its_own_shape_has_blocks_and_any_other_is_resampled_as_images_are(checkpoint, tmp_path):
    latents, generator = torch.randn(5, 6), read_dcgan(checkpoint)
    own = import_dcgan(checkpoint, 16, 3, tmp_path / "own")
    assert isinstance(own.generator, Generator)
    assert torch.equal(own.generator(latents), generator(latents))
    images = (255 * generator(latents)).round().byte()
    for size, channels in ((8, 1), (24, 3), (32, 1)):
        made = import_dcgan(checkpoint, size, channels, tmp_path / f"{size}")
        assert made.image_shape == (channels, size, size)
        drawn = made.generator(latents)
        fitted = fitted_pixels(images, (size, size), channels).float() / 255
        torch.testing.assert_close(drawn, fitted, atol=2 / 255, rtol=0)
        assert Prior.load(tmp_path / f"{size}", CPU).digest == made.digest


def test_gradients_reach_the_latents_through_the_resampling(checkpoint, tmp_path):
    latents = torch.randn(2, 6, requires_grad=True)
    import_dcgan(checkpoint, 8, 1, tmp_path / "prior").generator(latents).sum().backward()
    assert bool((latents.grad != 0).all())


def test_what_is_no_such_generator_is_refused(tutorial, tmp_path):
    biased = {**tutorial.state_dict(), "main.0.bias": torch.zeros(8)}
    broken = {**tutorial.state_dict(), "main.0.weight": torch.full((6, 8, 4, 4), torch.nan)}
    wide = {**tutorial.state_dict(), "main.0.weight": torch.zeros(6, 12, 4, 4)}
    cases = (
        ({"netD": Critic().state_dict()}, "of grey or colour images, but there are no weights of one"),
        (biased, r"expected a DCGAN's generator .*0\.bias"),
        (
            {**tutorial.state_dict(), "main.0.weight": torch.zeros(1).expand(10**5, 10**5, 4, 4)},
            "its weights are views",
        ),
        ({**tutorial.state_dict(), "main.0.weight": 3}, "expected a DCGAN's generator"),
        (broken, "expected finite weights"),
        (wide, "expected a DCGAN's generator .* size mismatch"),
    )
    for place, (state, said) in enumerate(cases):
        torch.save(state, tmp_path / f"{place}.pt")
        with pytest.raises(ValueError, match=said):
            read_dcgan(tmp_path / f"{place}.pt")


def test_a_size_that_no_generator_has_and_another_prior_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="expected a side of 4 to 7 times a power of two, got 36"):
        import_dcgan(checkpoint, 36, 1, tmp_path / "prior")
    import_dcgan(checkpoint, 8, 1, tmp_path / "prior")
    import_dcgan(checkpoint, 8, 1, tmp_path / "prior")
    with pytest.raises(FileExistsError, match="import-prior"):
        import_dcgan(checkpoint, 16, 1, tmp_path / "prior")
    assert import_dcgan(checkpoint, 16, 1, tmp_path / "prior", force=True).image_shape == (1, 16, 16)


def test_the_command_takes_a_file_or_the_packages_weights_without_its_code(checkpoint, tmp_path, monkeypatch):
    def run(*arguments):
        given = ("--size", "8", "--channels", "1", "--out", str(tmp_path / "prior"), "--json")
        return CliRunner().invoke(app, ["import-prior", *arguments, *given])

    told = json.loads(run(str(checkpoint)).output)
    assert told["image_shape"] == [1, 8, 8]
    monkeypatch.setattr("splitleak.attacker.dcgan._PACKAGE", "splitleak_no_such_package")
    assert "splitleak[faces]" in str(run().exception)
    package = tmp_path / "site" / "strangers_faces"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('code of a stranger is run')")
    checkpoint.rename(package / "weights.tar")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr("splitleak.attacker.dcgan._PACKAGE", "strangers_faces")
    assert json.loads(run().output) == told
