import base64
import io

import numpy as np
import pytest
from PIL import Image

from splitleak.eval.report.figures_gallery import draw_gallery, figure_galleries
from splitleak.eval.report.figures_results import PredictionResults

PLENTY = 10**7


def pixels(strip):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.picture.split(",")[1]))))


def galleries(folder, pictures=3, budget=PLENTY):
    return figure_galleries(PredictionResults.load(folder), pictures, budget)


def test_the_truth_is_on_top_and_every_row_shows_the_same_victims(fake_predictions):
    folder = fake_predictions()
    path = folder / "cells" / "m = 3-0" / "score" / "pictures.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["rebuilt"] = arrays["truth"] // 2
    mixed = [2, 0, 3, 1]
    np.savez(path, **{name: each[mixed] for name, each in arrays.items()})
    gallery = galleries(folder)["truncation"]
    assert [strip.row for strip in gallery.strips] == ["victims", "m = 1", "m = 3"]
    by_place = arrays["truth"][np.argsort(arrays["places"])][:3, 0]
    assert np.array_equal(pixels(gallery.strips[0]), np.concatenate(list(by_place), axis=1))
    assert np.array_equal(pixels(gallery.strips[2]), pixels(gallery.strips[0]) // 2)
    assert (gallery.title, gallery.strips[1].figures) == ("Figure truncation, seed 0", "MSE 0.0300, SSIM 0.500")


def test_rows_of_other_victims_have_a_truth_of_their_own(fake_predictions):
    rows = {"k = 3": {"classes": 3}, "k = 5": {"classes": 5}}
    shown = [strip.row for strip in galleries(fake_predictions({"classes": rows}))["classes"].strips]
    assert shown == ["victims, 3 classes", "k = 3", "victims, 5 classes", "k = 5"]


def test_pictures_of_classes_stand_below_the_means(fake_predictions):
    rows = {"mi": {"kind": "classes", "attack": "mi-face"}}
    [truth, strip] = galleries(fake_predictions({"f": rows}), pictures=12)["f"].strips
    assert (truth.row, strip.figures) == ("class means", "MSE 0.0100, recognised 40 %")
    assert len(strip.pictures) == 4


def test_the_seed_with_the_most_rows_is_shown(fake_predictions):
    folder = fake_predictions(change=lambda record: (record["cell"]["row"], record["cell"]["seed"]) != ("m = 1", 0))
    gallery = galleries(folder)["truncation"]
    assert (gallery.title, len(gallery.strips)) == ("Figure truncation, seed 1", 3)


def test_a_figure_without_records_has_no_gallery(fake_predictions, tmp_path):
    results = PredictionResults.load(fake_predictions(change=lambda record: False))
    assert figure_galleries(results, 3, PLENTY) == {}
    draw_gallery(results, results.figures[0], 3, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_fewer_pictures_are_shown_where_they_grow_too_big(fake_predictions):
    folder = fake_predictions()
    whole = galleries(folder, 4)["truncation"]
    size = sum(len(strip.picture) for strip in whole.strips)
    assert len(whole.strips[0].pictures) == 4
    assert len(galleries(folder, 4, size - 1)["truncation"].strips[0].pictures) == 2
    assert len(galleries(folder, 4, 0)["truncation"].strips[0].pictures) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_drawn_gallery_has_each_picture_enlarged_beside_its_name(fake_predictions, tmp_path, channels):
    results = PredictionResults.load(fake_predictions(channels=channels))
    draw_gallery(results, results.figures[0], 2, tmp_path / "out.png")
    page = np.asarray(Image.open(tmp_path / "out.png"))
    truth = figure_galleries(results, 2, PLENTY)["truncation"].strips[0].pictures[-1]
    shown = page[3 : 3 + 48, -3 - 48 : -3]
    expected = np.broadcast_to(truth, (3, 8, 8)).transpose(1, 2, 0)
    assert np.array_equal(shown[::6, ::6], expected)
    assert page.shape[0] == 3 * (48 + 3) + 3
    assert (page[:, :40] < 100).any()  # letters


def test_a_drawn_gallery_of_large_pictures_stays_below_300_kb(fake_predictions, tmp_path):
    results = PredictionResults.load(fake_predictions(size=96, channels=3, count=12, seeds=(0,)))
    draw_gallery(results, results.figures[0], 12, tmp_path / "out.png")
    assert 50_000 < (tmp_path / "out.png").stat().st_size < 300_000
