"""The least leak within the budgets, the budget that binds, the nearest where nothing fits, and what is not known."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitleak.eval.deploy.deployments import Deployment
from splitleak.eval.deploy.recommend import Budgets, recommend

PLAIN = Deployment(
    design="none",
    cut=4,
    defenses=(),
    codec="fp32",
    targets=("a",),
    accuracy=90.0,
    drop=0.0,
    mse=0.002,
    ssim=0.9,
    attack="decoder",
    attacks=("decoder", "gan"),
    partly=(),
    efforts=(("decoder", "a"), ("gan", "a")),
    scored=("v",),
    knowledge=("encoder", "public"),
    white_box=True,
    seeds=3,
    victims=200,
    randomised=False,
    adaptive=False,
    bytes_per_image=8000.0,
    latency_ms=2.0,
    engine="onnx",
)
NOISE = replace(PLAIN, design="noise", targets=("b",), accuracy=88.0, drop=2.0, mse=0.006, ssim=0.8, randomised=True)
CEM = replace(NOISE, design="cem", targets=("c",), accuracy=87.0, drop=3.0, mse=0.008, latency_ms=4.0)
THREE = (PLAIN, NOISE, CEM)
SINGLE = {"way": "split", "window": 1, "batch": 1}
FIGURES = st.tuples(*(st.integers(0, 3) for _ in range(4)))


def test_without_a_budget_the_least_leak_is_recommended():
    found = recommend(THREE, Budgets(), None)
    assert (found["recommended"], found["nearest"], found["binding"]) == ("cem, cut 4, fp32", None, [])


def test_where_no_undefended_design_was_measured_it_is_said_what_a_drop_is_from():
    defended = [replace(option, defenses=("gaussian-noise",)) for option in (NOISE, CEM)]
    notes = [" ".join(recommend(options, Budgets(), None)["notes"]) for options in (defended, [PLAIN, *defended])]
    assert ["no undefended design was measured" in said for said in notes] == [True, False]


def test_the_binding_budget_is_named_with_the_candidate_it_excludes():
    found = recommend(THREE, Budgets(max_accuracy_drop=2.5, max_latency_ms=9), None)
    assert found["recommended"] == "noise, cut 4, fp32"
    assert found["binding"] == [
        "max_accuracy_drop: cem, cut 4, fp32 would leak less (MSE 0.0080), but loses 3.00 points, 0.50 too many"
    ]
    assert [each["why"] for each in found["candidates"]] == [
        "fits, but leaks more: MSE 0.0020 against 0.0060",
        "leaks least of all that fit",
        "loses 3.00 points, 0.50 too many",
    ]


@pytest.mark.parametrize("right", [700, 702])
def test_a_drop_as_large_as_the_budget_is_within_it(right):
    drop = 100 * (right / 1000) - 100 * ((right - 7) / 1000)
    lossy = replace(CEM, accuracy=100 * ((right - 7) / 1000), drop=drop)
    assert (drop > 0.7) == (right == 700)  # by rounding, as of most accuracies
    assert Budgets(max_accuracy_drop=0.7).overshoot(lossy) == {}
    assert Budgets(max_accuracy_drop=0.69).overshoot(lossy) == {"max_accuracy_drop": pytest.approx(0.01)}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"assumed": True}, "is assumed, not measured"),
        ({"accuracy": 86.0}, "is less accurate"),
        ({"latency_ms": 5.0}, "is slower"),
        ({"bytes_per_image": 9000.0}, "sends more"),
        ({}, "has a lower MSE"),
    ],
)
def test_leaks_that_agree_in_two_digits_are_equal_and_the_rest_decides(change, why):
    other = replace(CEM, design="other", mse=0.00799, **change)
    found = recommend([other, CEM], Budgets(), None)
    assert found["recommended"] == "cem, cut 4, fp32"
    assert found["candidates"][0]["why"] == f"fits and leaks as much, but {why}"
    found = recommend([replace(CEM, mse=0.00799, latency_ms=3.0), replace(CEM, design="slower")], Budgets(), None)
    assert found["recommended"] == "cem, cut 4, fp32"


def test_where_nothing_fits_the_nearest_is_named():
    found = recommend(THREE, Budgets(max_latency_ms=1.5, max_bytes=7000), None)
    assert (found["recommended"], found["nearest"]) == (None, "none, cut 4, fp32")
    assert found["candidates"][2]["why"] == "takes 4.00 ms, 2.50 too many; sends 8000 bytes, 1000 too many"


def test_an_unmeasured_latency_exceeds_every_latency_budget():
    found = recommend([replace(CEM, latency_ms=None), NOISE], Budgets(max_latency_ms=100), None)
    assert found["recommended"] == "noise, cut 4, fp32"
    assert found["candidates"][0]["why"] == "its latency was not measured"


def test_assumed_candidates_rank_after_measured_ones_and_dominate_none():
    assumed = replace(CEM, codec="uint8", bytes_per_image=600.0, assumed=True)
    found = recommend([assumed, CEM], Budgets(), None)
    assert found["recommended"] == "cem, cut 4, fp32"
    assert all(each["on_frontier"] for each in found["candidates"])
    assert not any("built-in images" in line for line in found["not_measured"])
    packed = replace(assumed, codec="uint8+deflate")
    of_bytes = [line for line in recommend([packed, CEM], Budgets(), None)["not_measured"] if "bytes" in line]
    assert of_bytes == [f"bytes of the victims' images, which are those of built-in images here, of {packed.label}"]
    found = recommend([assumed, CEM], Budgets(max_bytes=1000), None)
    assert found["recommended"] == "cem, cut 4, uint8"
    assert any("fp32's here, of cem, cut 4, uint8" in each for each in found["not_measured"])


@given(st.lists(FIGURES, min_size=1, max_size=6), FIGURES)
def test_the_recommendation_fits_and_is_pareto_optimal(figures, limits):
    made = [
        replace(PLAIN, design=str(place), accuracy=90.0 - drop, drop=float(drop), mse=mse / 100)
        for place, (drop, mse, _, _) in enumerate(figures)
    ]
    made = [
        replace(each, latency_ms=1.0 + ms, bytes_per_image=1.0 + sent)
        for each, (_, _, ms, sent) in zip(made, figures, strict=True)
    ]
    drop, _, ms, sent = limits
    budgets = Budgets(max_accuracy_drop=drop, max_latency_ms=1.0 + ms, max_bytes=1.0 + sent)
    found = recommend(made, budgets, None)
    fitting = [each for each in found["candidates"] if each["fits"]]
    if not fitting:
        assert found["nearest"] is not None
        return
    (chosen,) = (each for each in fitting if each["label"] == found["recommended"])
    assert chosen["on_frontier"]
    assert chosen["mse"] == max(each["mse"] for each in fitting)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attacks": ("decoder",)}, "attack 'gan' on none, cut 4, fp32"),
        ({"partly": ("gan",)}, "attack 'gan' on some of the targets of none, cut 4, fp32"),
        ({"efforts": (("decoder", "a"), ("gan", "b"))}, "attack 'gan' with the same queries and settings on each"),
        ({"scored": ("w",)}, "the same victims of each"),
        ({"seeds": 1}, "more than one seed of none, cut 4, fp32"),
        ({"randomised": True, "adaptive": False}, "an adaptive attack (several draws or views)"),
        ({"latency_ms": None}, "latency of none, cut 4, fp32"),
    ],
)
def test_missing_measurements_are_listed(change, told):
    base = [replace(each, adaptive=True) for each in THREE]
    assert recommend(base, Budgets(), None)["not_measured"] == []
    found = recommend([replace(base[0], **change), *base[1:]], Budgets(), None)
    assert any(line.startswith(told) for line in found["not_measured"])


def test_one_attack_without_the_weights_is_doubted():
    found = recommend([replace(each, attacks=("decoder",), white_box=False) for each in THREE], Budgets(), None)
    assert "an attack that knows the encoder's weights" in found["not_measured"]
    assert any("any other attack than 'decoder'" in line for line in found["not_measured"])


def test_a_latency_of_many_images_a_request_is_said_to_be_one():
    cells = [{"way": "split", "window": window, "batch": batch} for window, batch in ((1, 32), (1, 8), (4, 1))]
    said = [
        recommend(THREE, Budgets(), {"emulated_device": None, "cells": of})["notes"] for of in (cells, [*cells, SINGLE])
    ]
    assert ["a request of 8 images" in " ".join(notes) for notes in said] == [True, False]


def test_a_codec_whose_cost_in_accuracy_is_not_known_is_named():
    said = "the accuracy that the codec costs, which is fp32's here, of cem, cut 4, uint8"
    unknown = replace(CEM, codec="uint8", uncorrected=True)
    for option, named in ((unknown, True), (replace(unknown, uncorrected=False), False)):
        assert (said in recommend([NOISE, option], Budgets(), None)["not_measured"]) == named


def test_notes_name_on_device_inference_emulation_and_another_order_by_ssim():
    alone = {"way": "device", "target": "c", "batch": 1, "parts": {"total_ms": {"p50": 0.5}}}
    timed = {"emulated_device": {"name": "phone"}, "cells": [alone]}
    found = recommend([NOISE, replace(CEM, ssim=0.85)], Budgets(max_latency_ms=5), timed)
    assert found["notes"] == [
        "each leak is that on 200 victims' images or more",
        "by SSIM noise, cut 4, fp32 leaks less: 0.800 against 0.850",
        "the device is emulated: phone",
        "all of c on the device takes 0.50 ms, within the latency budget, and nothing is sent that could leak",
    ]


def test_pictures_too_small_for_ssim_are_recommended_by_their_mse():
    small = [replace(option, ssim=None) for option in THREE]
    assert recommend(small, Budgets(), None)["recommended"] == "cem, cut 4, fp32"
    assert recommend([CEM, *small[:2]], Budgets(), None)["notes"] == [
        "each leak is that on 200 victims' images or more"
    ]
