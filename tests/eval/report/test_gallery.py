import base64
import io

import numpy as np
import pytest
from PIL import Image

from splitleak.eval.report.features_gallery import galleries
from splitleak.eval.report.features_results import Campaign

PLENTY = 10**7


def pixels(strip):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.picture.split(",")[1]))))


def test_each_strip_shows_the_same_victims_in_the_same_order(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",))
    [gallery] = galleries(Campaign.load(folder), 3, PLENTY)
    assert [(strip.row, strip.attack) for strip in gallery.strips] == [
        ("victims", ""),
        *((row, attack) for row in ("Bottleneck", "Bottleneck + CEM") for attack in ("decoder", "gan")),
    ]
    assert (gallery.title, gallery.count) == ("builtin, vgg, seed 0", 3)
    for strip, cell, which in ((0, "Bottleneck0-decoder", "truth"), (4, "BottleneckCEM0-gan", "rebuilt")):
        with np.load(folder / "cells" / cell / "score" / "pictures.npz") as file:
            at = [int(np.flatnonzero(file["places"] == place)[0]) for place in range(3)]
            expected = np.concatenate([file[which][index][0] for index in at], axis=1)
        assert np.array_equal(pixels(gallery.strips[strip]), expected)
    assert gallery.strips[1].figures == "MSE 0.0100, SSIM 0.760"


def test_colour_pictures_stay_in_colour(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    for path in folder.glob("cells/*/score/pictures.npz"):
        draw = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 8, 8), dtype=np.uint8)
        np.savez(path, places=np.arange(4), truth=draw[0], rebuilt=draw[1])
    [gallery] = galleries(Campaign.load(folder), 2, PLENTY)
    assert pixels(gallery.strips[0]).shape == (8, 16, 3)


def test_fewer_victims_are_shown_where_the_pictures_grow_too_big(fake_campaign):
    campaign = Campaign.load(fake_campaign())
    [whole] = galleries(campaign, 4, PLENTY)
    size = sum(len(strip.picture) for strip in whole.strips)
    [smaller] = galleries(campaign, 4, size - 1)
    assert (whole.count, smaller.count) == (4, 2)
    assert galleries(campaign, 4, 0)[0].count == 1


def test_the_first_seed_with_records_is_shown(fake_campaign):
    [gallery] = galleries(Campaign.load(fake_campaign(lambda cell, _: cell["seed"] == 1)), 2, PLENTY)
    assert gallery.title.endswith("seed 1")


@pytest.mark.parametrize("disjoint", [False, True])
def test_nothing_is_shown_of_nothing_or_of_cells_that_share_no_victim(fake_campaign, disjoint):
    folder = fake_campaign((lambda *_: None) if disjoint else (lambda *_: False), methods=("Bottleneck",), seeds=(0,))
    for index, path in enumerate(folder.glob("cells/*/score/pictures.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, "places": arrays["places"] + 10 * index})
    assert galleries(Campaign.load(folder), 2, PLENTY) == []
