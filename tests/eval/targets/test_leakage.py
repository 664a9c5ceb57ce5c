import json
import math
import shutil

import pytest
import torch
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.cli import app
from splitleak.config import read_document
from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.record.schema import Leakage
from splitleak.eval.targets.leakage import ASSUMPTIONS, QUANTISATION_VARIANCE, LeakageConfig, measure

CPU = torch.device("cpu")
BOTTLENECK = {"name": "bottleneck"}
QUICK = LeakageConfig(samples=300, n_images=2, clusters=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory, small_splits):
    folder = tmp_path_factory.mktemp("images")
    small_splits.save(folder)
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory, small_splits):
    """``target(defense...)``: the artifact of a narrow network trained for an epoch under them."""

    def make(*defenses):
        document = {
            "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
            "defenses": list(defenses),
            "training": {"epochs": 1},
        }
        folder = tmp_path_factory.mktemp("target") / "toy"
        save(folder, "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
        return folder

    return make


@pytest.fixture(scope="module")
def measured(images, target):
    """``measured(defense...)``: the leakage of such a target."""

    def make(*defenses, config=QUICK, on=images):
        return measure(target(*defenses), on, config, CPU)

    return make


def noise(sigma):
    return {"name": "gaussian-noise", "sigma": sigma}


def test_more_noise_leaks_less_by_every_measure(measured):
    # Strong noise also changes what is learnt, so the noises are far apart.
    found = [measured(BOTTLENECK, noise(sigma)) for sigma in (0.01, 0.3)]
    assert found[0]["noise_variance"] == pytest.approx(1e-4)
    assert found[0]["information_nats"] > 2 * found[1]["information_nats"] > 0
    assert found[0]["fsinfo_nats_per_pixel"] > 2 * found[1]["fsinfo_nats_per_pixel"] > 0
    assert 0 < found[0]["mse_gaussian_estimate"] < found[1]["mse_gaussian_estimate"]
    assert found[0]["image_entropy_nats"] == found[1]["image_entropy_nats"]


def test_what_is_rounded_after_noise_tells_no_more_than_the_noisy_features(images, target):
    noisy, rounded = (target(BOTTLENECK, noise(0.2), *more) for more in ((), ({"name": "quantisation", "levels": 2},)))
    shutil.copy(noisy / "edge" / "weights.safetensors", rounded / "edge")  # of one network
    found = [measure(folder, images, QUICK, CPU) for folder in (noisy, rounded)]
    assert found[1]["information_nats"] <= found[0]["information_nats"]
    assert found[1]["mse_gaussian_estimate"] >= found[0]["mse_gaussian_estimate"]


def test_the_gaussian_estimate_is_the_formula_and_below_the_error_of_the_mean_image(measured, small_splits):
    found = measured(BOTTLENECK, noise(0.1))
    left = (found["image_entropy_nats"] - found["information_nats"]) / found["image_dimensions"]
    assert found["mse_gaussian_estimate"] == pytest.approx(math.exp(2 * left) / (2 * math.pi * math.e))
    assert found["mse_gaussian_estimate"] < float(small_splits.train.floats().var(0).mean())
    assert (found["image_dimensions"], found["samples"]) == (256, QUICK.samples)
    assert 0 < found["effective_dimensions"] <= min(found["feature_dimensions"], 256)
    assert tuple(found["assumptions"]) == ASSUMPTIONS
    assert found["provenance"]["torch"] == torch.__version__


def test_without_noise_the_estimate_is_0_and_the_directions_are_still_counted(measured):
    found = measured(BOTTLENECK)
    assert (found["mse_gaussian_estimate"], found["information_nats"], found["fsinfo_nats_per_pixel"]) == (
        0,
        None,
        None,
    )
    assert found["effective_dimensions"] > 0
    json.dumps(found, allow_nan=False)


def test_dropout_is_not_counted(measured):
    with_it = measured(BOTTLENECK, noise(0.1), {"name": "dropout", "rate": 0.5})
    assert with_it["noise_variance"] == pytest.approx(0.01)
    assert measured(BOTTLENECK, {"name": "dropout", "rate": 0.5})["mse_gaussian_estimate"] == 0


def test_laplace_noise_counts_by_its_variance(measured):
    assert measured({"name": "laplace-noise", "scale": 0.1})["noise_variance"] == pytest.approx(0.02)


def test_one_seed_gives_the_same_numbers(measured):
    once, again, other = (
        measured(BOTTLENECK, noise(0.1), config=QUICK.model_copy(update={"seed": seed})) for seed in (0, 0, 1)
    )
    keys = ("mse_gaussian_estimate", "information_nats", "fsinfo_nats_per_pixel", "effective_dimensions")
    assert [once[key] for key in keys] == [again[key] for key in keys]
    assert once["mse_gaussian_estimate"] != other["mse_gaussian_estimate"]


def test_images_of_another_training_are_refused(measured, small_splits, tmp_path):
    small_splits.save(tmp_path)
    document = read_document(tmp_path / "splits.json")
    (tmp_path / "splits.json").write_text(json.dumps({**document, "dataset": "another"}))
    with pytest.raises(ValueError, match=r"expected the images that .* was trained on, got others"):
        measured(BOTTLENECK, on=tmp_path)


def test_rounding_to_256_levels_has_that_variance():
    values = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = (values * 255).round() / 255
    assert float((rounded - values).square().mean()) == pytest.approx(QUANTISATION_VARIANCE, rel=0.02)


def test_the_command_prints_and_writes_the_document(images, target, tmp_path):
    artifact = str(target(BOTTLENECK, noise(0.1)))
    options = ("--images", str(images), "--samples", "100", "--n-images", "1", "--out", str(tmp_path / "leakage.json"))
    result = CliRunner().invoke(app, ["leakage", artifact, *options, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == read_document(tmp_path / "leakage.json")
    spoken = CliRunner().invoke(app, ["leakage", artifact, *options])
    assert "MSE at least" in spoken.output
    assert "of 100 images, an estimate" in spoken.output


def test_what_is_too_large_for_a_jacobian_has_an_estimate_all_the_same(images, target, tmp_path, monkeypatch):
    """As pictures of 224 x 224: each target of a campaign on them had a job that failed."""
    monkeypatch.setattr("splitleak.measures.fisher._LARGEST_SIDE", 15)
    artifact = target(BOTTLENECK, noise(0.1))
    found = measure(artifact, images, QUICK, torch.device("cpu"))
    assert found["mse_gaussian_estimate"] > 0
    assert (found["fsinfo_nats_per_pixel"], found["effective_dimensions"]) == (None, None)
    assert "a Jacobian of 15²" in found["not_measured"]["fsinfo_nats_per_pixel"]
    write_json(tmp_path / "leakage.json", found)
    assert Leakage.read(tmp_path / "leakage.json").fsinfo_nats_per_pixel is None
    spoken = CliRunner().invoke(app, ["leakage", str(artifact), "--images", str(images), "--samples", "100"])
    assert "FSInfo and effective dimensions not measured: expected features" in spoken.output
