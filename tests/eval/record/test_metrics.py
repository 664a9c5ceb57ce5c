import csv
import json

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.attacker.outputs import Reconstructions
from splitleak.cli import app
from splitleak.config import read_document
from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.campaign.bench import shown_figures
from splitleak.eval.campaign.plan import KINDS
from splitleak.eval.campaign.predictions.claims import ClaimEntry
from splitleak.eval.campaign.store import Store
from splitleak.eval.record.classes import make_class_record
from splitleak.eval.record.metrics import (
    METRICS,
    Metric,
    Reading,
    headline,
    measured_victims,
    metric_named,
    metric_names,
    metrics_of,
    nearest_mean,
    not_measured,
    spread,
)
from splitleak.eval.record.schema import FeaturesPlace, FigurePlace, Score, parse_record
from splitleak.eval.record.victims import make_record
from splitleak.eval.report.report import write_report


@pytest.fixture(scope="module")
def pair():
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(6, 1, 16, 16, generator=draw)
    return (truth + 0.2 * torch.randn(truth.shape, generator=draw)).clamp(0, 1), truth


def test_mse_and_psnr_are_those_of_numpy_and_scikit_image(pair):
    rebuilt, truth = (batch.double().numpy() for batch in pair)
    errors = ((rebuilt - truth) ** 2).reshape(6, -1).mean(1)
    psnrs = [peak_signal_noise_ratio(truth[i], rebuilt[i], data_range=1.0) for i in range(6)]
    found = measured_victims(*pair)
    for name, values in (("mse", errors), ("psnr", psnrs)):
        assert found[name].mean == pytest.approx(np.mean(values), rel=1e-5)
        assert found[name].std == pytest.approx(np.std(values, ddof=1), rel=1e-4)
        assert found[name].values == pytest.approx(list(values), rel=1e-4)
    assert found["batch_psnr"].mean == pytest.approx(peak_signal_noise_ratio(truth, rebuilt, data_range=1.0), rel=1e-5)
    assert (found["batch_psnr"].std, found["batch_psnr"].values) == (None, None)


def test_ssim_is_that_of_scikit_image(pair):
    rebuilt, truth = (batch.double().numpy()[:, 0] for batch in pair)
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [structural_similarity(truth[i], rebuilt[i], **options) for i in range(6)]
    found = measured_victims(*pair)["ssim"]
    assert found.values == pytest.approx(values, abs=1e-4)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-4)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-4)


def test_every_metric_gives_one_value_an_image(pair):
    found = measured_victims(*pair)
    assert all(len(found[name].values) == 6 for name in found if name != "batch_psnr")


def test_an_exact_copy_counts_as_100_db_so_that_means_stay_finite(pair):
    found = measured_victims(pair[1], pair[1])
    assert (found["psnr"].mean, found["psnr"].std) == (100, 0)
    assert (found["mse"].mean, found["ssim"].mean) == (0, pytest.approx(1))


def test_one_image_has_no_spread():
    assert spread(np.array([0.25])) == Score(mean=0.25, std=None, values=(0.25,))


def test_brightness_and_contrast_do_not_matter_for_the_nearest_mean():
    truth = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert nearest_mean(0.3 * truth + 0.6, truth).tolist() == list(range(6))
    assert nearest_mean(torch.full((2, 1, 8, 8), 0.7), truth).tolist() == [-1, -1]


def test_a_metric_is_named_once_for_each_kind_of_what_was_rebuilt():
    for kind in ("victims", "classes"):
        names = [metric.name for metric in metrics_of(kind)]
        assert len(set(names)) == len(names)
        assert len({metric.stored for metric in metrics_of(kind) if metric.compute}) == sum(
            metric.compute is not None for metric in metrics_of(kind)
        )
    assert set(metric_names()) == {metric.name for metric in METRICS}
    assert metric_named("mse", "victims") is not metric_named("mse", "classes")
    assert metric_named("rank1", "victims") is None


def test_a_number_is_shown_in_its_own_unit_and_digits():
    share, error, estimate = (
        metric_named(*name) for name in (("top5", "classes"), ("mse", "victims"), ("mse_gaussian_estimate", "victims"))
    )
    assert (share.text(12.345), share.signed(12.345)) == ("12.3", "+12.3")
    assert (error.text(0.01234), error.signed(-0.01234)) == ("0.0123", "-0.0123")
    assert (estimate.text(0.001234), estimate.signed(0.001234)) == ("0.00123", "+0.00123")


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ({"values": [1, 0, 0, 1]}, 28.87),
        ({"values": [1, 0.5], "images": [[1, 1], [0, 1]]}, 25),
        ({"values": [1]}, None),
    ],
)
def test_a_share_has_its_standard_error_with_one_picture_a_class_too(fake_predictions, hits, expected):
    def change(record):
        record["scores"]["recognised"] = {"mean": 0.5, **hits}

    folder = fake_predictions({"f": {"r": {"kind": "classes", "attack": "gmi"}}}, change, seeds=(0,))
    record = parse_record(read_document(folder / "cells" / "r-0" / "score" / "record.json"), source="test")
    error = metric_named("recognised_error", "classes").value(Reading(record))
    assert error == pytest.approx(expected, abs=0.01)


def test_the_line_about_a_record_has_the_targets_accuracy_and_the_figures_of_its_attack(fake_record):
    place = {"id": "i", "dataset": "d", "model": "m", "method": "Bottleneck", "plus": None, "attack": "decoder"}
    record = fake_record({**place, "seed": 0, "views": 1, "target": "t"}, 0.02, ssim=0.5, accuracy=0.875)
    assert [(metric.name, value) for metric, value in headline(record)] == [
        ("accuracy", 87.5),
        ("ssim", 0.5),
        ("psnr", pytest.approx(16.99, abs=0.01)),
        ("mse", 0.02),
    ]
    assert shown_figures(record) == {
        "accuracy %": "87.50",
        "zero-padded SSIM": "0.500",
        "batch PSNR dB": "16.99",
        "MSE": "0.0200",
    }


# A metric is one entry of the table: what is plugged in below shows everywhere without a line of the product changing.

SHARPNESS = Metric(
    name="sharpness",
    label="sharpness %",
    of=("victims",),
    better="lower",
    digits=1,
    scale=100,
    heading="rebuilt victims",
    compute=lambda images, truth: (images - truth).flatten(1).abs().amax(1),
)
LIGHT = Metric(
    name="light",
    label="mean light",
    of=("classes",),
    better="higher",
    digits=3,
    heading="pictures of classes",
    compute=lambda judged: judged.rebuilt.flatten(1).mean(1),
)


@pytest.fixture
def plugged(monkeypatch):
    monkeypatch.setattr("splitleak.eval.record.metrics.METRICS", [*METRICS, SHARPNESS, LIGHT])


def campaign_of(folder, place, config):
    """What a run of a campaign of one cell leaves beside the cell's record."""
    cell = {**place.document(), "id": "one"}
    job = {"id": "cell-one", "kind": "cell", "label": "the cell", "seed": 0, "output": "cells/one/score"}
    assert job["kind"] in KINDS
    made = {"command": "splitleak campaign run", "commit": "c", "hardware": "h", "torch": "2"}
    plan = {"name": "plug", "title": "Plug", "config": config, "cells": [cell], "jobs": [job], "provenance": made}
    write_json(folder / "campaign.json", plan)


def held_to_be_everywhere(folder, metric, place, tmp_path):
    """Record, status, table, CSV and report of a campaign whose one cell is judged."""
    document = read_document(folder / "cells" / "one" / "score" / "record.json")
    score = Score.parse(document["scores"][metric.name], source="record")
    shown = metric.text(metric.scale * score.mean)
    [told] = Store(folder).status()["scores"]
    assert told["figures"][metric.name] == metric.scale * score.mean
    said = CliRunner().invoke(app, ["campaign", "status", str(folder)])
    assert said.exit_code == 0, said.output
    assert f"{metric.label} {shown}" in said.output
    write_report(folder, tmp_path / "report")
    html, markdown = ((tmp_path / "report" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert f'<th scope="col">{metric.label}</th>' in html
    assert f"<td>{shown}</td>" in html
    head, *_, row = (line for line in markdown.splitlines() if metric.label in line or line.startswith(f"| {place} |"))
    columns = [cell.strip() for cell in head.split("|")]
    [at] = [index for index, name in enumerate(columns) if name.endswith(metric.label)]
    assert row.split("|")[at].strip() == shown
    [line] = csv.DictReader((tmp_path / "report" / "table.csv").read_text().splitlines())
    assert float(line[metric.name]) == pytest.approx(metric.scale * score.mean)
    [recorded] = map(json.loads, (tmp_path / "report" / "records.jsonl").read_text().splitlines())
    assert recorded["scores"][metric.name]["mean"] == score.mean
    write_report(tmp_path / "report", tmp_path / "again")  # recorded results have it too
    assert (tmp_path / "again" / "report.md").read_text() == markdown
    claim = {"text": "t", "figure": "f", "lower": "a", "higher": "b", "metric": metric.name}
    assert ClaimEntry.parse(claim, source="a file").metric == metric.name
    return score


@pytest.mark.slow
def test_a_metric_of_victims_plugged_in_is_in_record_table_csv_report_and_status(
    plugged, artifact, materials, tmp_path, small_splits
):
    given, folder = materials("plugged"), tmp_path / "run"
    place = FeaturesPlace(dataset="builtin", model="cnn", method="none", attack="decoder", seed=0, target="toy")
    inputs = (artifact, given / "attack", given / "victims.npz", given / "ledger.json")
    record = make_record(*inputs, folder / "cells" / "one" / "score", cell=place)
    campaign_of(folder, place, {"attacks": [{"name": "decoder", "attack": "decoder"}]})
    score = held_to_be_everywhere(folder, SHARPNESS, "none", tmp_path)
    assert score == record.scores["sharpness"]
    assert len(score.values) == record.n == 40
    assert 0 < score.mean < 1
    assert "light" not in record.scores


def test_a_metric_of_classes_plugged_in_is_in_record_table_csv_report_and_status(
    plugged, artifact, tmp_path, small_splits
):
    document = {"model": {"architecture": "cnn", "width": 0.25, "channels": 1, "size": 16, "classes": 10}}
    config = TargetConfig.parse({**document, "training": {"epochs": 1}, "seed": 1}, source="test")
    save(tmp_path / "judge", "judge", train(config, small_splits, device=torch.device("cpu")))
    pictures = torch.rand(10, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    Reconstructions.of_classes(pictures).save(tmp_path / "attack" / "reconstructions.npz")
    about = {"config": {}, "seed": 0, "queries": 0, "knowledge": ["model"], "provenance": {}}
    attack = {"attack": "mi-face", "public_hashes": small_splits.public.hashes(), **about}
    write_json(tmp_path / "attack" / "attack.json", attack)
    small_splits.train.save(tmp_path / "train.npz")
    folder, about = tmp_path / "run", {"dataset": "builtin", "attack": "mi-face", "seed": 0, "target": "toy"}
    place = FigurePlace(kind="classes", figure="MI", row="none", **about)
    inputs = (artifact, tmp_path / "attack", tmp_path / "train.npz", tmp_path / "judge")
    record = make_class_record(*inputs, folder / "cells" / "one" / "score", cell=place)
    figure = {"name": "MI", "title": "MI", "rows": [{"name": "none"}]}
    campaign_of(folder, place, {"kind": "predictions", "figures": [figure]})
    score = held_to_be_everywhere(folder, LIGHT, "none", tmp_path)
    assert score == record.scores["light"]
    assert score.values == pytest.approx(pictures.flatten(2).mean(2).mean(1).tolist(), abs=1e-5)
    assert np.shape(score.images) == (10, 2)
    assert "sharpness" not in record.scores


def test_a_metric_that_cannot_be_computed_is_left_out_and_said_to_be(pair):
    assert "lpips" not in measured_victims(*pair)
    assert "at least 21 pixels" in not_measured(pair[1])["lpips"]
    large = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not_measured(large) is None
    assert measured_victims(large, large)["lpips"].values == (0, 0)


def test_pictures_smaller_than_the_window_of_ssim_are_scored_without_it():
    draw = torch.Generator().manual_seed(0)
    made, truth = (torch.rand(3, 1, 8, 10, generator=draw) for _ in range(2))
    assert set(measured_victims(made, truth)) == {"batch_psnr", "mse", "psnr"}
    left_out = not_measured(truth)
    assert {left_out[name] for name in ("ssim", "ssim_zero_padded", "ms_ssim")} == {
        "needs pictures of at least 11 pixels a side"
    }
