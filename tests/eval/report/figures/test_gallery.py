import base64
import io

import numpy as np
import pytest
from PIL import Image

from splitleak.eval.report.figures.gallery import draw_gallery, galleries
from splitleak.eval.report.results import Results

PLENTY = 10**7
TABLE = "builtin, vgg"


def pixels(strip):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.picture.split(",")[1]))))


def shown(folder, pictures=3, budget=PLENTY):
    return galleries(Results.load(folder), pictures, budget)


def test_each_strip_shows_the_same_victims_in_the_same_order(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",))
    gallery = shown(folder)[TABLE]
    assert [(strip.row, strip.attack) for strip in gallery.strips] == [
        ("victims", ""),
        *((row, attack) for row in ("Bottleneck", "Bottleneck + CEM") for attack in ("decoder", "gan")),
    ]
    assert gallery.title == "builtin, vgg, seed 0"
    assert {len(strip.pictures) for strip in gallery.strips} == {3}
    for strip, cell, which in ((0, "Bottleneck0-decoder", "truth"), (4, "BottleneckCEM0-gan", "rebuilt")):
        with np.load(folder / "cells" / cell / "score" / "pictures.npz") as file:
            at = [int(np.flatnonzero(file["places"] == place)[0]) for place in range(3)]
            expected = np.concatenate([file[which][index][0] for index in at], axis=1)
        assert np.array_equal(pixels(gallery.strips[strip]), expected)
    assert gallery.strips[1].figures == "zero-padded SSIM 0.760, MSE 0.0100"


def test_colour_pictures_stay_in_colour(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    for path in folder.glob("cells/*/score/pictures.npz"):
        draw = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 8, 8), dtype=np.uint8)
        np.savez(path, places=np.arange(4), truth=draw[0], rebuilt=draw[1])
    gallery = shown(folder, 2)[TABLE]
    assert pixels(gallery.strips[0]).shape == (8, 16, 3)


@pytest.mark.parametrize(("channels", "said"), [(2, "the mean of 2 channels"), (4, "the first three of 4 channels")])
def test_of_other_channels_the_caption_says_which_are_shown(fake_campaign, tmp_path, channels, said):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    for path in folder.glob("cells/*/score/pictures.npz"):
        draw = np.random.default_rng(0).integers(0, 256, (2, 4, channels, 8, 12), dtype=np.uint8)
        np.savez(path, places=np.arange(4), truth=draw[0], rebuilt=draw[1])
    results = Results.load(folder)
    gallery = galleries(results, 2, PLENTY)[TABLE]
    assert gallery.title == f"builtin, vgg, seed 0, {said}"
    expected = draw[0][:2].mean(1).round() if channels == 2 else draw[0][:2, :3].transpose(0, 2, 3, 1)
    assert np.array_equal(pixels(gallery.strips[0]), np.concatenate(list(expected), axis=1))
    assert draw_gallery(results, next(t for t in results.tables if t.name == TABLE), 2, tmp_path / "gallery.png")


def test_the_first_seed_with_records_is_shown(fake_campaign):
    gallery = shown(fake_campaign(lambda cell, _: cell["seed"] == 1), 2)[TABLE]
    assert gallery.title.endswith("seed 1")


@pytest.mark.parametrize("disjoint", [False, True])
def test_nothing_is_shown_of_nothing_or_of_cells_that_share_no_victim(fake_campaign, disjoint):
    folder = fake_campaign((lambda *_: None) if disjoint else (lambda *_: False), methods=("Bottleneck",), seeds=(0,))
    for index, path in enumerate(folder.glob("cells/*/score/pictures.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, "truth": arrays["truth"] // (index + 2) + index})
    assert shown(folder, 2) == {}
    results = Results.load(folder)
    assert not draw_gallery(results, results.tables[0], 2, folder / "out.png")
    assert not (folder / "out.png").exists()


def test_the_truth_is_on_top_and_every_row_shows_the_same_victims(fake_predictions):
    folder = fake_predictions()
    path = folder / "cells" / "m = 3-0" / "score" / "pictures.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["rebuilt"] = arrays["truth"] // 2
    mixed = [2, 0, 3, 1]
    np.savez(path, **{name: each[mixed] for name, each in arrays.items()})
    gallery = shown(folder)["truncation"]
    assert [strip.row for strip in gallery.strips] == ["victims", "m = 1", "m = 3"]
    by_place = arrays["truth"][np.argsort(arrays["places"])][:3, 0]
    assert np.array_equal(pixels(gallery.strips[0]), np.concatenate(list(by_place), axis=1))
    assert np.array_equal(pixels(gallery.strips[2]), pixels(gallery.strips[0]) // 2)
    assert (gallery.title, gallery.strips[1].figures) == (
        "Figure truncation, seed 0",
        "zero-padded SSIM 0.500, MSE 0.0300",
    )


def test_rows_of_other_victims_have_a_truth_of_their_own(fake_predictions):
    rows = {"k = 3": {"classes": 3}, "k = 5": {"classes": 5}}
    rows_shown = [strip.row for strip in shown(fake_predictions({"classes": rows}))["classes"].strips]
    assert rows_shown == ["victims, 3 classes", "k = 3", "victims, 5 classes", "k = 5"]


def test_pictures_of_classes_stand_below_the_means(fake_predictions):
    rows = {"mi": {"kind": "classes", "attack": "mi-face"}}
    [truth, strip] = shown(fake_predictions({"f": rows}), pictures=12)["f"].strips
    assert (truth.row, strip.figures) == ("class means", "recognised % 40.0, MSE to the mean 0.0100")
    assert len(strip.pictures) == 4


def test_the_seed_with_the_most_rows_is_shown(fake_predictions):
    folder = fake_predictions(change=lambda record: (record["cell"]["row"], record["cell"]["seed"]) != ("m = 1", 0))
    gallery = shown(folder)["truncation"]
    assert (gallery.title, len(gallery.strips)) == ("Figure truncation, seed 1", 3)


def test_a_figure_without_records_has_no_gallery(fake_predictions, tmp_path):
    results = Results.load(fake_predictions(change=lambda record: False))
    assert galleries(results, 3, PLENTY) == {}
    assert not draw_gallery(results, results.tables[0], 3, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_fewer_pictures_are_shown_where_they_grow_too_big(fake_predictions):
    folder = fake_predictions()
    whole = shown(folder, 4)["truncation"]
    size = sum(len(strip.picture) for strip in whole.strips)
    assert len(whole.strips[0].pictures) == 4
    assert len(shown(folder, 4, size - 1)["truncation"].strips[0].pictures) == 2
    assert len(shown(folder, 4, 0)["truncation"].strips[0].pictures) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_drawn_gallery_has_each_picture_enlarged_beside_its_name(fake_predictions, tmp_path, channels):
    results = Results.load(fake_predictions(channels=channels))
    draw_gallery(results, results.tables[0], 2, tmp_path / "out.png")
    page = np.asarray(Image.open(tmp_path / "out.png"))
    truth = galleries(results, 2, PLENTY)["truncation"].strips[0].pictures[-1]
    shown = page[3 : 3 + 48, -3 - 48 : -3]
    expected = np.broadcast_to(truth, (3, 8, 8)).transpose(1, 2, 0)
    assert np.array_equal(shown[::6, ::6], expected)
    assert page.shape[0] == 3 * (48 + 3) + 3
    assert (page[:, :40] < 100).any()  # letters


def test_a_drawn_gallery_of_large_pictures_stays_below_300_kb(fake_predictions, tmp_path):
    results = Results.load(fake_predictions(size=96, channels=3, count=12, seeds=(0,)))
    draw_gallery(results, results.tables[0], 12, tmp_path / "out.png")
    assert 50_000 < (tmp_path / "out.png").stat().st_size < 300_000
