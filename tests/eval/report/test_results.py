import numpy as np
import pytest

from splitleak.artifacts import write_json
from splitleak.eval.report.features_results import Spread
from splitleak.eval.report.figures_results import METRICS, OF_CLASSES, OF_SERVICE, OF_VICTIMS, PredictionResults

CLASSES = {"kind": "classes", "attack": "mi-face"}


def test_a_claim_may_be_about_every_metric_and_no_other():
    assert set(METRICS) == {*OF_SERVICE, *OF_VICTIMS, *OF_CLASSES}


def test_figures_over_seeds_are_those_of_the_records(fake_predictions):
    results = PredictionResults.load(fake_predictions())
    assert [(figure.name, figure.rows) for figure in results.figures] == [("truncation", ("m = 1", "m = 3"))]
    assert results.seeds == (0, 1)
    assert results.by_seed("truncation", "m = 3", "mse") == {0: 0.02, 1: 0.021}
    assert results.spread("truncation", "m = 3", "mse") == Spread(
        pytest.approx(0.0205), pytest.approx(0.000707, rel=1e-3), 2
    )
    expected = {
        "accuracy": 90,
        "service_accuracy": 88,
        "distortion": 0.125,
        "reclassified": 70,
        "ssim": 0.5,
        "psnr": 17,
    }
    for metric, value in expected.items():
        assert results.spread("truncation", "m = 1", metric).mean == pytest.approx(value)
    assert results.spread("truncation", "m = 1", "recognised") is None
    assert results.spread("truncation", "no such row", "mse") is None


def test_pictures_of_classes_have_figures_of_their_own(fake_predictions):
    results = PredictionResults.load(fake_predictions({"f": {"five": {**CLASSES, "classes": 5}, "all": CLASSES}}))
    [cell, *_] = results.of("f", "five")
    found = {name: cell.measure(name) for name in ("recognised", "nearest_mean", "target_confidence", "chance", "ssim")}
    assert found == {"recognised": 40, "nearest_mean": 90, "target_confidence": 0.999, "chance": 20, "ssim": None}
    assert results.of("f", "all")[0].measure("chance") == 10


def test_one_record_in_two_figures_is_in_the_place_of_each(fake_predictions):
    rows = {"m = 1": {"share": 1}}
    results = PredictionResults.load(fake_predictions({"a": rows, "b": {"other": {"id": "m = 1", "share": 1}}}))
    assert results.by_seed("a", "m = 1", "mse") == results.by_seed("b", "other", "mse") != {}
    assert [record["cell"]["row"] for cell, record in results.measured if cell.figure == "b"] == ["other", "other"]


def test_the_best_constant_is_the_mean_of_the_true_pictures(fake_predictions):
    folder = fake_predictions(seeds=(0,))
    with np.load(folder / "cells" / "m = 1-0" / "score" / "pictures.npz") as file:
        truth = file["truth"].astype(float) / 255
    errors = [((truth - constant) ** 2).mean() for constant in (truth.mean(0), truth.mean(0) + 0.01, truth[0], 0.5)]
    measured = PredictionResults.load(folder).by_seed("truncation", "m = 1", "constant_mse")[0]
    assert measured == pytest.approx(errors[0])
    assert measured == pytest.approx(min(errors))


def test_a_cell_without_pictures_has_no_constant(fake_predictions):
    folder = fake_predictions(seeds=(0,))
    (folder / "cells" / "m = 1-0" / "score" / "pictures.npz").unlink()
    assert PredictionResults.load(folder).by_seed("truncation", "m = 1", "constant_mse") == {}


@pytest.mark.parametrize(
    ("given", "ignores"),
    [
        ({**CLASSES, "policy": {"top": 1}}, True),
        ({**CLASSES, "purify": {}}, True),
        (CLASSES, False),
        ({"policy": {"top": 1}}, False),
    ],
)
def test_an_attack_that_runs_the_model_ignores_a_policy(fake_predictions, given, ignores):
    [cell, *_] = PredictionResults.load(fake_predictions({"f": {"row": given}})).cells
    assert cell.ignores_policy == ignores


def test_cells_and_failures_of_another_plan_are_not_looked_at(fake_predictions):
    folder = fake_predictions(change=lambda record: record["cell"]["row"] == "m = 1")
    write_json(folder / "cells" / "stray" / "score" / "record.json", {"strange": True})
    for job in ("cell-m = 3-0", "cell-old"):
        write_json(folder / "failures" / f"{job}.json", {"job": job})
    results = PredictionResults.load(folder)
    assert [cell.id for cell, _ in results.measured] == ["m = 1-0", "m = 1-1"]
    assert results.failures == ({"job": "cell-m = 3-0"},)


def test_a_folder_that_is_no_campaigns_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="campaign run"):
        PredictionResults.load(tmp_path)


@pytest.mark.parametrize(
    ("hits", "expected"),
    [
        ({"values": [1, 0, 0, 1]}, 28.87),
        ({"values": [1, 0.5], "images": [[1, 1], [0, 1]]}, 25),
        ({"values": [1]}, None),
    ],
)
def test_a_share_has_its_standard_error_with_one_picture_a_class_too(hits, expected):
    assert OF_CLASSES["recognised_error"]({"score": {"recognised": hits}}) == pytest.approx(expected, abs=0.01)
