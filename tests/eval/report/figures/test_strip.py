import numpy as np
import pytest

from splitleak.eval.report.figures.strip import compare
from splitleak.eval.report.results import Results


@pytest.fixture
def of(fake_campaign):
    """``of(errors)``: the comparison of a campaign whose victims were rebuilt with these errors."""

    def make(errors, **kept):
        folder = fake_campaign(methods=("Bottleneck",), seeds=(0,), **kept)
        truth = np.random.default_rng(0).integers(60, 200, (len(errors), 1, 12, 12), dtype=np.uint8)
        for path in folder.glob("cells/*/score/pictures.npz"):
            rebuilt = truth + np.array(errors, np.uint8)[:, None, None, None]
            np.savez(path, places=np.arange(len(errors)), truth=truth, rebuilt=rebuilt)
        return truth, compare(Results.load(folder))

    return make


def test_columns_run_from_the_worst_over_the_median_to_the_best_and_are_the_same_in_each_row(of):
    errors = [3, 1, 40, 7, 5, 30, 9, 2, 20]
    truth, shown = of(errors)
    assert shown.captions == ("worst", "", "", "median", "", "", "best")
    order = np.argsort(errors)[::-1]
    chosen = [order[index] for index in (0, 1, 3, 4, 5, 7, 8)]
    assert np.array_equal(shown.strips[0].pictures, truth[chosen])
    for strip in shown.strips[1:]:
        assert np.array_equal(
            strip.pictures - truth[chosen],
            np.broadcast_to(np.array(errors, np.uint8)[chosen][:, None, None, None], truth[chosen].shape),
        )
    assert "7 of 9 victims" in shown.rule
    assert "mean squared error" in shown.rule  # the fake records have no values of single images


def test_each_row_is_the_strongest_attack_on_its_target(of):
    def gan_is_better(cell, figures):
        figures["ssim"] = 0.9 if cell["attack"] == "gan" else 0.1
        figures["mse"] = 0.1 if cell["attack"] == "gan" else 0.01

    _, shown = of([1, 2, 3], change=gan_is_better)
    assert "the strongest by zero-padded SSIM" in shown.rule  # by the MSE, as in the verdict, it may be another
    assert [(strip.row, strip.attack) for strip in shown.strips] == [
        ("victims", ""),
        ("Bottleneck", "gan"),
        ("Bottleneck + CEM", "gan"),
    ]
    assert shown.captions == ("", "", "")


def test_targets_with_victims_of_their_own_are_not_compared(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    for index, path in enumerate(sorted(folder.glob("cells/*/score/pictures.npz"))):
        truth = np.full((2, 1, 12, 12), index, np.uint8)
        np.savez(path, places=np.arange(2), truth=truth, rebuilt=truth)
    assert compare(Results.load(folder)) is None


def test_without_pictures_there_is_nothing_to_compare(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck",), seeds=(0,))
    for path in folder.glob("cells/*/score/pictures.npz"):
        path.unlink()
    assert compare(Results.load(folder)) is None


def test_of_classes_each_row_is_the_strongest_of_all_attacks_and_never_what_was_only_picked(fake_predictions):
    kinds = {"public by scores": "public-by-scores", "GMI": "gmi", "LOMMA": "lomma-gmi"}
    shares = {"public by scores": 0.9, "GMI": 0.3, "LOMMA": 0.6}

    def change(record):
        hits = {"mean": shares[record["cell"]["figure"]], "images": [[0, 1], [1, 1]]}
        record["scores"]["recognised"] = hits

    figures = {
        name: {row: {"kind": "classes", "attack": attack, "id": f"{name}-{row}"} for row in ("none", "BiDO")}
        for name, attack in kinds.items()
    }
    attacks = [{"name": name, "attack": attack} for name, attack in kinds.items() if name in ("GMI", "LOMMA")]
    folder = fake_predictions(figures, change, seeds=(0,), config={"kind": "classes", "attacks": attacks})
    told = [("class means", ""), ("none", "LOMMA"), ("BiDO", "LOMMA")]
    assert [(strip.row, strip.attack) for strip in compare(Results.load(folder)).strips] == told
    alone = fake_predictions({"public by scores": figures["public by scores"]}, change, seeds=(0,))
    assert compare(Results.load(alone)) is None


def test_of_pictures_too_small_for_ssim_the_strongest_has_the_least_error(of):
    def gan_is_better(cell, figures):
        figures |= {"ssim": None, "mse": 0.01 if cell["attack"] == "gan" else 0.1}

    _, shown = of([1, 2, 3], change=gan_is_better)
    assert "the strongest by MSE" in shown.rule
    assert {strip.attack for strip in shown.strips[1:]} == {"gan"}
