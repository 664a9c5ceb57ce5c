"""Quantiles that the samples bear, and a real sweep with every part of every setting."""

import json

import numpy as np
import pytest

from splitleak.eval.deploy.deployments import read_latency
from splitleak.eval.latency.latency import PARTS, QUANTILES, measure, median_interval, summarise
from splitleak.eval.latency.plan import SweepConfig
from splitleak.logs import silent

FIVE = ("encode_ms", "serialise_ms", "network_ms", "queue_ms", "compute_ms")


@pytest.fixture(scope="module")
def found(artifact):
    reports = []

    def report(what, done, total, figures):
        reports.append((done, total))

    config = SweepConfig(
        artifacts=(artifact,),
        cuts=(1,),
        codecs=("fp32", "uint8+deflate"),
        windows=(1, 4),
        samples=25,
        device="cpu",
        threads=1,
        device_profile="phone",
    )
    return measure(config, report), reports


def samples(count):
    draw = np.random.default_rng(0)
    made = [dict(zip(FIVE, draw.uniform(0.1, 9, 5).tolist(), strict=True)) for _ in range(count)]
    return [{**each, "total_ms": sum(each.values()), "sent_bytes": 1.0} for each in made]


def test_quantiles_are_those_of_numpy():
    found = samples(500)
    summary = summarise(found)
    assert tuple(summary) == PARTS
    for part in (*FIVE, "total_ms"):
        for name, share in QUANTILES.items():
            assert summary[part][name] == pytest.approx(np.quantile([each[part] for each in found], share))


def test_edge_wire_and_cloud_add_up_to_the_total():
    one = summarise(samples(1))
    assert one["total_ms"]["p50"] == pytest.approx(sum(one[part]["p50"] for part in FIVE))
    assert one["total_ms"]["p50"] == pytest.approx(sum(one[part]["p50"] for part in ("edge_ms", "wire_ms", "cloud_ms")))


def test_quantiles_of_a_sum_are_not_sums_of_quantiles():
    found = samples(140)
    sums = [each["queue_ms"] + each["compute_ms"] for each in found]
    assert summarise(found)["cloud_ms"]["p95"] == pytest.approx(np.quantile(sums, 0.95))


@pytest.mark.parametrize(("count", "told"), [(99, {"p50"}), (100, {"p50", "p95"}), (499, {"p50", "p95"})])
def test_a_quantile_is_null_with_too_few_samples_beyond_it(count, told):
    total = summarise(samples(count))["total_ms"]
    assert {name for name, value in total.items() if value is not None} == told


def test_the_interval_of_a_median_holds_it_and_narrows_with_more_samples():
    totals = [each["total_ms"] for each in samples(400)]
    widths = []
    for count in (4, 40, 400):
        low, high = median_interval(totals[:count])
        assert low <= np.median(totals[:count]) <= high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.slow
def test_a_real_sweep_measures_every_part_of_whole_rounds(found):
    result, reports = found
    assert list(result["targets"]) == ["toy"]
    parts = result["targets"]["toy"]
    assert set(parts) == set(PARTS)
    for part in ("encode_ms", "wire_ms", "total_ms"):
        assert parts[part]["p50"] > 0
    assert max(parts[part]["p50"] for part in ("edge_ms", "wire_ms", "cloud_ms")) <= parts["total_ms"]["p50"]
    assert (result["samples"], result["engine"], result["codec"]) == (30, "auto", "fp32")
    assert result["provenance"]["hardware"]
    assert reports == [(turn, 3) for turn in range(4)]
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_recommendations_read_what_a_sweep_wrote(found, tmp_path):
    (tmp_path / "latency.json").write_text(json.dumps(found[0]))
    assert {cell["way"] for cell in read_latency(tmp_path / "latency.json")["cells"]} == {"split", "image", "device"}


@pytest.mark.slow
def test_a_sweep_holds_every_setting_and_both_alternatives(found):
    cells = found[0]["cells"]
    split, image, device = ([cell for cell in cells if cell["way"] == way] for way in ("split", "image", "device"))
    assert len(split) == 2 * 4  # the artifact and its other cut, two codecs, two windows
    assert {(cell["target"], cell["cut"], cell["fresh_weights"]) for cell in split} == {
        ("toy", 2, False),
        ("toy at cut 1", 1, True),
    }
    assert (len(image), len(device)) == (2 * 2, 1)
    assert all(cell["bytes_per_image"] > 16 * 16 for cell in image)
    assert device[0]["bytes_per_image"] == 0
    assert {cell["requests"] for cell in split} == {30, 48}
    assert all(cell["images_per_s"] > 0 for cell in cells)


@pytest.mark.slow
def test_the_engines_told_are_those_that_computed(found):
    cells = found[0]["cells"]
    assert {cell["edge_engine"] for cell in cells if cell["way"] == "split"} == {"onnx"}
    assert {cell["cloud_engine"] for cell in cells if cell["way"] != "device"} == {"onnx"}


@pytest.mark.slow
def test_notes_name_emulation_fresh_weights_packing_and_windows(found):
    notes = found[0]["notes"]
    assert len(notes) == 5
    assert any("deflate" in note and "built-in images" in note for note in notes)
    assert any("emulated, phone: 1.5 times" in note for note in notes)
    assert any("fresh" in note for note in notes)
    assert any("slot" in note for note in notes)


@pytest.mark.slow
def test_a_split_is_compared_with_every_alternative(found):
    told = found[0]["break_even"]
    assert {(each["codec"], each["beside"]) for each in told} == {
        (codec, beside)
        for codec in ("fp32", "uint8+deflate")
        for beside in ("image to the cloud, uint8", "image to the cloud, fp32", "all on the device")
    }


def test_a_missing_artifact_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        measure(SweepConfig(artifacts=(tmp_path / "nothing",)), silent)
