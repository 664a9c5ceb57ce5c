import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from splitleak.artifacts import load_tensors, save_tensors
from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.if_gmi import IFGMI, IFGMIConfig
from splitleak.attacker.class_inversion.ppa import PPA, PPAConfig
from splitleak.attacker.prior import Prior, PriorConfig, train_prior
from splitleak.cli import app, main
from splitleak.models.export import export_onnx

CPU = torch.device("cpu")
QUICK = {"width": 2, "batch_size": 8, "iterations": 30}


def test_a_prior_draws_images_more_like_the_public_ones_than_untrained(tiny_prior, small_splits):
    public = small_splits.public.floats().mean(0)
    latents = torch.randn(64, tiny_prior.document.generator.latent, generator=torch.Generator().manual_seed(0))
    untrained = train_prior(PriorConfig(width=8, iterations=1), small_splits.public, Run())

    def error(prior):
        return float((prior.generator(latents).mean(0) - public).square().mean())

    assert error(tiny_prior) < 0.3 * error(untrained)


@pytest.mark.parametrize("changes", [{}, {"loss": "wasserstein", "critic_steps": 2}, {"conditional": True}])
def test_what_was_saved_is_loaded_frozen_and_knows_its_public_images(changes, small_splits, tmp_path):
    prior = train_prior(PriorConfig(**QUICK, **changes), small_splits.public, Run(seed=2))
    prior.save(tmp_path / "prior")
    loaded = Prior.load(tmp_path / "prior", CPU)
    labels = torch.tensor([1, 9]) if changes.get("conditional") else None
    latents = torch.randn(2, 64)
    assert torch.equal(loaded.generator(latents, labels), prior.generator(latents, labels))
    images = loaded.generator(latents, labels)
    assert torch.equal(loaded.critic(images, labels), prior.critic(images, labels))
    assert loaded.document.public_hashes == tuple(small_splits.public.hashes())
    assert loaded.digest == prior.digest
    assert loaded.image_shape == (1, 16, 16)
    assert not loaded.generator.training
    assert loaded.document.about["config"]["iterations"] == 30
    assert loaded.document.about["seed"] == 2


@pytest.mark.slow
def test_one_seed_gives_the_same_prior(small_splits):
    first, second, other = (
        train_prior(PriorConfig(**QUICK), small_splits.public, Run(seed=s)).digest for s in (0, 0, 1)
    )
    assert first == second != other


def test_a_generator_of_ones_own_needs_no_critic_and_no_public_images(tiny_prior, tmp_path):
    document = {"format": 1, "generator": tiny_prior.document.generator.document()}
    (tmp_path / "prior.json").write_text(json.dumps(document))
    save_tensors(tmp_path / "generator.safetensors", tiny_prior.generator.state_dict())
    loaded = Prior.load(tmp_path, CPU)
    assert loaded.critic is None
    assert loaded.document.public_hashes == ()


def test_a_generator_of_any_architecture_comes_as_onnx(tmp_path):
    layers = (
        nn.Linear(6, 4 * 64),
        nn.Unflatten(1, (4, 8, 8)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(4, 1, 3, padding=1),
    )
    own = nn.Sequential(*layers, nn.Tanh()).eval()
    document = {"format": 1, "generator": {"channels": 1, "size": 16, "latent": 6}, "signed": True}
    (tmp_path / "prior.json").write_text(json.dumps(document))
    export_onnx(own, (6,), tmp_path / "generator.onnx")
    loaded, latents = Prior.load(tmp_path, CPU), torch.randn(3, 6)
    assert torch.allclose(loaded.generator(latents), (own(latents) + 1) / 2, atol=1e-6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).requires_grad_(False)
    known = ClassKnowledge((1, 16, 16), model=model, prior=loaded)
    assert PPA(PPAConfig(candidates=8, restarts=2, images=1, steps=1))(known).shape == (3, 1, 1, 16, 16)
    with pytest.raises(ValueError, match="'if-gmi': expected a generator with blocks"):
        IFGMI(IFGMIConfig(candidates=8, restarts=2, images=1, steps=1))(known)
    with pytest.raises(ValueError, match="got an imported one"):
        loaded.save(tmp_path / "copy")


def test_weights_of_another_generator_are_refused_by_file(tiny_prior, tmp_path):
    tiny_prior.save(tmp_path / "prior")
    path = tmp_path / "prior" / "generator.safetensors"
    tensors, _ = load_tensors(path)
    save_tensors(path, {name: value for name, value in tensors.items() if "blocks.0" not in name})
    with pytest.raises(ValueError, match=r"generator\.safetensors: expected the weights of a Generator"):
        Prior.load(tmp_path / "prior", CPU)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_those_of_ours(kind, tiny_prior, tmp_path):
    tiny_prior.save(tmp_path / "prior")
    for name in ("generator", "critic"):
        path = tmp_path / "prior" / f"{name}.safetensors"
        tensors, _ = load_tensors(path)
        save_tensors(path, {key: x.to(kind) if x.is_floating_point() else x for key, x in tensors.items()})
    loaded, latents = Prior.load(tmp_path / "prior", CPU), torch.randn(2, tiny_prior.document.generator.latent)
    images = loaded.generator(latents)
    assert torch.allclose(images, tiny_prior.generator(latents), atol=0.02)
    assert loaded.critic(images).dtype == torch.float32


def test_a_document_of_a_generator_of_terabytes_takes_none_of_them(tiny_prior, tmp_path):
    tiny_prior.save(tmp_path / "prior")
    path = tmp_path / "prior" / "prior.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"generator": document["generator"] | {"width": 2**20, "latent": 2**20}}))
    with pytest.raises(ValueError, match=r"\A[^\n]*generator\.safetensors: expected the weights of a Generator"):
        Prior.load(tmp_path / "prior", CPU)


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a graph at all"])
def test_a_strangers_broken_graph_is_one_line_of_the_command(content, tmp_path, capsys, monkeypatch):
    document = {"format": 1, "generator": {"channels": 1, "size": 16, "latent": 6}}
    (tmp_path / "prior.json").write_text(json.dumps(document))
    (tmp_path / "generator.onnx").write_bytes(content)
    monkeypatch.setattr("sys.argv", ["splitleak", "invert", "--attack", "gmi", "--prior", str(tmp_path)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit, match="1"):
        main()
    said = capsys.readouterr().err
    assert said.startswith(f"splitleak: {tmp_path}/generator.onnx: expected")
    assert said.count("\n") == 1


@pytest.mark.parametrize("change", [lambda them: them[1:], lambda them: [], lambda them: [*them, "0" * 24]])
def test_a_list_of_public_images_that_is_not_the_trainings_is_refused(change, tiny_prior, tmp_path):
    tiny_prior.save(tmp_path / "prior")
    path = tmp_path / "prior" / "prior.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"public_hashes": change(document["public_hashes"])}))
    with pytest.raises(ValueError, match=r"prior\.json: expected the hashes of all images that it was trained on"):
        Prior.load(tmp_path / "prior", CPU)


def test_a_folder_that_holds_no_prior_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a prior"):
        Prior.load(tmp_path, CPU)
    (tmp_path / "prior.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"prior\.json: expected a PriorDocument"):
        Prior.load(tmp_path, CPU)


def test_no_images_make_no_prior(small_splits):
    with pytest.raises(ValueError, match="expected at least one public image, got none"):
        train_prior(PriorConfig(**QUICK), small_splits.public.select(torch.zeros(0, dtype=torch.int64)), Run())


def test_the_published_settings_are_gmis():
    published = PriorConfig.paper()
    assert (published.loss, published.penalty, published.critic_steps) == ("wasserstein", 10, 5)
    assert (published.latent, published.width, published.kernel, published.learning_rate) == (100, 64, 5, 2e-4)


@pytest.mark.slow
def test_the_command_trains_once_and_reuses_what_fits(small_splits, tmp_path):
    small_splits.public.save(tmp_path / "public.npz")
    out = tmp_path / "prior"

    def told(*more):
        asked = ("prior", tmp_path / "public.npz", "--out", out, "--set", "iterations=2", "--set", "width=2", "--json")
        result = CliRunner().invoke(app, [*map(str, (*asked, *more))], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    first = told()
    assert (first["images"], first["reused"]) == (300, False)
    assert told() == {**first, "reused": True}
    assert told("--force")["reused"] is False
    with pytest.raises(FileExistsError, match=r"it has about\.seed 0 and not 1; --force replaces it"):
        told("--seed", 1)
    other = told("--seed", 1, "--force")
    assert other["reused"] is False
    assert other["digest"] != first["digest"]
    assert Prior.load(out, CPU).digest == other["digest"]
    (out / "generator.safetensors").write_bytes(b"broken")
    assert told("--seed", 1) == other
    assert Prior.load(out, CPU).digest == other["digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prior", "public.npz"]
