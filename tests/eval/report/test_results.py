import json
import shutil
from pathlib import Path

import pytest

from splitleak.artifacts import write_json
from splitleak.config import read_document
from splitleak.eval.campaign.classes.config import STRONGEST
from splitleak.eval.record.schema import FeaturesPlace, FigurePlace
from splitleak.eval.report.report import write_report
from splitleak.eval.report.results import Results, Row, Spread
from tests.eval.conftest import gan_where_less_leaks

RECORDED = sorted((Path(__file__).parents[3] / "eval" / "results").glob("*/campaign.json"))
TABLE = "builtin, vgg"
CLASSES = {"kind": "classes", "attack": "mi-face"}
SHARES = {
    (figure, row, seed): share
    for figure, row, share in (
        ("GMI", "none", 0.8),
        ("PPA", "none", 0.7),
        ("GMI", "defended", 0.1),
        ("PPA", "defended", 0.2),
        ("GMI - other people", "none", 1.0),
        ("GMI - other people", "defended", 1.0),
    )
    for seed in (0, 1)
}


def test_a_spread_of_one_has_no_deviation_and_of_none_is_none():
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert Spread.of([5.0]) == Spread(5.0, None, 1)
    assert Spread.of([]) is None


def test_features_over_seeds_are_those_of_the_records(fake_campaign):
    results = Results.load(fake_campaign())
    [table] = results.tables
    assert (table.name, table.title, table.note) == (TABLE, TABLE, "")
    assert table.rows[:2] == (Row("Bottleneck"), Row("Bottleneck", "CEM"))
    assert results.pairs(TABLE)[0] == table.rows[:2]
    assert (results.attacks(TABLE), results.seeds) == (("decoder", "gan"), (0, 1))
    assert (results.kind, results.name, results.title) == ("features", "fake", "A <fake> campaign")
    found = results.by_seed(TABLE, Row("PATROL", "CEM"), "mse", "gan")
    assert found == {0: pytest.approx(0.042), 1: pytest.approx(0.0421)}
    assert results.spread(TABLE, Row("PATROL", "CEM"), "accuracy") == Spread(pytest.approx(89.7), 0.0, 2)
    assert results.spread("other, vgg", Row("PATROL", "CEM"), "mse", "gan") is None


def test_differences_are_of_seeds_that_have_both(fake_campaign):
    results = Results.load(fake_campaign(lambda cell, _: cell["id"] != "PATROLCEM1-gan"))
    pair = (Row("PATROL"), Row("PATROL", "CEM"))
    assert results.differences(TABLE, pair, "mse", "gan") == {0: pytest.approx(0.002)}
    assert set(results.differences(TABLE, pair, "mse", "decoder")) == {0, 1}


def test_the_strongest_attack_is_the_one_closest_to_the_victims(fake_campaign):
    def weaker_gan(cell, figures):
        if cell["attack"] == "gan":
            figures |= {"mse": 0.2, "ssim": 0.9}

    results = Results.load(fake_campaign(weaker_gan))
    assert results.closest(TABLE, Row("PATROL"), "mse").mean == pytest.approx(0.04005)
    assert results.closest(TABLE, Row("PATROL"), "ssim").mean == pytest.approx(0.9)
    assert results.closest(TABLE, Row("Rabbit"), "ssim") is None


def test_the_strongest_attack_is_chosen_in_each_seed(fake_campaign):
    closest = Results.load(fake_campaign(gan_where_less_leaks)).closest(TABLE, Row("PATROL"), "mse")
    assert (closest.mean, closest.n) == (pytest.approx((0.01 + 0.04) / 2), 2)


def test_cells_of_another_plan_are_not_looked_at(fake_campaign):
    folder = fake_campaign()
    write_json(folder / "cells" / "stray" / "score" / "record.json", {"strange": True})
    assert len(Results.load(folder).measured) == 40


def test_a_row_is_named_as_in_the_paper():
    assert (Row("ResSFL").label, Row("ResSFL", "CEM").label) == ("ResSFL", "ResSFL + CEM")


def test_figures_over_seeds_are_those_of_the_records(fake_predictions):
    results = Results.load(fake_predictions())
    assert [(figure.name, figure.rows) for figure in results.tables] == [("truncation", (Row("m = 1"), Row("m = 3")))]
    assert results.seeds == (0, 1)
    assert results.by_seed("truncation", Row("m = 3"), "mse") == {0: 0.02, 1: 0.021}
    assert results.spread("truncation", Row("m = 3"), "mse") == Spread(
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
        assert results.spread("truncation", Row("m = 1"), metric).mean == pytest.approx(value)
    assert results.spread("truncation", Row("m = 1"), "recognised") is None
    assert results.spread("truncation", Row("no such row"), "mse") is None


def test_pictures_of_classes_have_figures_of_their_own(fake_predictions):
    results = Results.load(fake_predictions({"f": {"five": {**CLASSES, "classes": 5}, "all": CLASSES}}))
    [cell, *_] = results.of("f", Row("five"))
    found = {name: cell.measure(name) for name in ("recognised", "nearest_mean", "target_confidence", "chance", "ssim")}
    assert found == {"recognised": 40, "nearest_mean": 90, "target_confidence": 0.999, "chance": 20, "ssim": None}
    assert results.of("f", Row("all"))[0].measure("chance") == 10


def test_one_record_in_two_figures_is_in_the_place_of_each(fake_predictions):
    rows = {"m = 1": {"share": 1}}
    results = Results.load(fake_predictions({"a": rows, "b": {"other": {"id": "m = 1", "share": 1}}}))
    assert results.by_seed("a", Row("m = 1"), "mse") == results.by_seed("b", Row("other"), "mse") != {}
    assert [record.cell.row for cell, record in results.measured if cell.table == "b"] == ["other", "other"]


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
    [cell, *_] = Results.load(fake_predictions({"f": {"row": given}})).cells
    assert cell.ignores_policy == ignores


def test_records_and_failures_of_another_plan_are_not_looked_at(fake_predictions):
    folder = fake_predictions(change=lambda record: record["cell"]["row"] == "m = 1")
    write_json(folder / "cells" / "stray" / "score" / "record.json", {"strange": True})
    said = {"label": "l", "command": "c", "error": "e"}
    for job in ("cell-m = 3-0", "cell-old"):
        write_json(folder / "failures" / f"{job}.json", {"job": job, **said})
    results = Results.load(folder)
    assert [cell.id for cell, _ in results.measured] == ["m = 1-0", "m = 1-1"]
    assert results.failures == ({"job": "cell-m = 3-0", **said},)


def test_the_strongest_attack_is_chosen_for_each_target_and_seed_among_those_on_the_first_setting(attacked):
    found = attacked(SHARES | {("PPA", "none", 1): 0.9})
    assert found.by_seed(STRONGEST, Row("none"), "recognised") == {0: 80, 1: 90}
    assert found.by_seed(STRONGEST, Row("defended"), "recognised") == {0: 20, 1: 20}


def test_the_strongest_may_be_looked_for_among_some(attacked):
    assert attacked(SHARES).by_seed("losses", Row("defended"), "recognised") == {0: 10, 1: 10}


def test_a_target_with_an_attack_not_measured_yet_has_no_strongest(attacked):
    found = attacked(SHARES, left_out={("GMI", "defended", 1)})
    assert found.by_seed(STRONGEST, Row("defended"), "recognised") == {0: 20}


# Loose records: those that commands left below a folder, without any plan.


@pytest.fixture
def loose(fake_record, tmp_path):
    """Two records below a folder; the second was made first."""
    about = {"dataset": "builtin", "model": "vgg", "method": "Bottleneck", "plus": None, "seed": 0, "views": 2}
    for order, name in enumerate(("b", "a")):
        record = fake_record({**about, "id": name, "attack": "decoder", "target": f"target {name}"}, 0.02)
        record.model_copy(update={"cell": None, "order": order}).write(tmp_path / "run" / name / "record.json")
    return tmp_path / "run"


def test_records_without_a_plan_come_in_the_order_in_which_they_were_made(loose):
    results = Results.load(loose)
    assert [record.order for _, record in results.records] == [0, 1]
    assert [cell.folder.name for cell, _ in results.records] == ["b", "a"]
    assert (results.kind, dict(results.config), results.name) == ("loose", {}, "run")
    assert {cell.table for cell in results.cells} == {"builtin, vgg11"}
    assert results.tables[0].rows == (Row("target b"), Row("target a"))


def test_the_place_of_a_loose_record_is_its_target_and_attack(loose):
    place = Results.load(loose).cells[0].place
    assert place == FeaturesPlace(
        dataset="builtin",
        model="vgg11",
        method="target b",
        attack="decoder",
        seed=0,
        views=2,
        target="target b",
    )


def test_no_loose_record_hides_another_of_the_same_attack_and_seed(fake_record, tmp_path):
    """A weaker run that came later stood for all in the table."""
    about = {"dataset": "builtin", "model": "vgg", "method": "Bottleneck", "plus": None, "seed": 0, "target": "t"}
    runs = ((1, 30, "a", 0.02), (16, 30, "a", 0.003), (1, 5, "a", 0.03), (1, 30, "b", 0.025))
    for order, (views, epochs, digest, mse) in enumerate(runs):
        record = fake_record({**about, "id": f"r{order}", "attack": "decoder", "views": views}, mse)
        target = record.target.model_copy(update={"digest": digest})
        attack = record.attack.model_copy(update={"config": {"epochs": epochs}})
        changed = {"cell": None, "order": order, "target": target, "attack": attack}
        record.model_copy(update=changed).write(tmp_path / "run" / f"{order}" / "record.json")
    results = Results.load(tmp_path / "run")
    shown = [(cell.row.label, cell.attack, cell.measure("mse")) for cell in results.cells]
    assert shown == [
        ("t (1)", "decoder, 1 crossing", 0.02),
        ("t (1)", "decoder, 16 crossings", 0.003),
        ("t (1)", "decoder, 1 crossing, settings 2", 0.03),
        ("t (2)", "decoder, 1 crossing", 0.025),
    ]
    [table] = results.tables
    told = [results.by_seed(table.name, Row(row), "mse", attack) for row, attack, _ in shown]
    assert told == [{0: mse} for *_, mse in shown]


def test_loose_targets_of_two_designs_under_one_name_have_rows_of_their_own(fake_record, tmp_path):
    """Else one row would have the accuracy of one, and the attack on the other."""
    about = {"dataset": "builtin", "model": "vgg", "plus": None, "seed": 0, "target": "t", "views": 1}
    for method, attack in (("Bottleneck", "decoder"), ("PATROL", "gan")):
        record = fake_record({**about, "id": attack, "method": method, "attack": attack})
        record.model_copy(update={"cell": None}).write(tmp_path / "run" / attack / "record.json")
    found = Results.load(tmp_path / "run")
    assert {(cell.row.label, cell.attack) for cell in found.cells} == {("t (1)", "decoder"), ("t (2)", "gan")}


def test_a_loose_record_of_classes_is_one_of_classes(fake_predictions, tmp_path):
    folder = fake_predictions({"f": {"r": CLASSES}}, seeds=(0,))
    shutil.copytree(folder / "cells", tmp_path / "loose")
    [cell] = Results.load(tmp_path / "loose").cells
    assert (cell.kind, cell.place.target, cell.attack) == ("classes", "t", "mi-face")
    assert cell.measure("recognised") == 40


def test_a_loose_attack_gains_nothing_over_a_baseline_on_another_target_of_that_name(fake_predictions, tmp_path):
    rows = {"attack": CLASSES, "baseline": {**CLASSES, "attack": "public-by-scores"}}
    folder = fake_predictions({"f": rows}, seeds=(0,))
    for place, path in enumerate(sorted((folder / "cells").rglob("record.json"))):
        record = read_document(path)
        record["target"]["digest"] = "alike"
        record["threat_model"]["access"] = "white box"
        write_json(tmp_path / "loose" / str(place) / "record.json", record)

    def baselines():
        found = {cell.attack: cell.baselines for cell in Results.load(tmp_path / "loose").cells}
        return [each.attack.name for each in found["mi-face"]]

    assert baselines() == ["public-by-scores"]
    for path in (tmp_path / "loose").rglob("record.json"):
        record = read_document(path)
        record["target"]["digest"] = record["attack"]["name"]
        write_json(path, record)
    assert baselines() == []


def test_the_latency_beside_loose_records_is_that_of_their_targets(loose):
    parts = {part: {"p50": 1.5, "p95": 4.5} for part in ("edge_ms", "wire_ms", "cloud_ms", "total_ms")}
    write_json(loose / "latency.json", {"targets": {"target a": parts}})
    first, second = Results.load(loose).cells
    assert (first.measure("edge_ms"), second.measure("edge_ms")) == (None, 1.5)


def test_a_latency_is_of_one_image_in_flight_with_plain_features_however_a_sweep_began(loose):
    def cell(target, batch, window, p50, codec="fp32", link="loopback"):
        parts = {part: {"p50": p50, "p95": None} for part in ("edge_ms", "wire_ms", "cloud_ms", "total_ms")}
        about = {"way": "split", "fresh_weights": False, "target": target, "batch": batch, "window": window}
        return {**about, "codec": codec, "link": link, "parts": parts}

    cells = [cell("target a", 1, 1, 90.0, link="lte"), cell("target a", 1, 1, 7.0, "uint8")]
    cells += [cell("target a", 32, 1, 40.0), cell("target a", 1, 8, 9.0)]
    cells += [cell("target a", 1, 1, 2.0), cell("target b", 1, 1, 6.0, "uint8")]
    cells += [cell("target a", 1, 1, 3.0), cell("target b", 32, 1, 50.0)]
    firsts = {each["target"]: each["parts"] for each in reversed(cells)}
    write_json(loose / "latency.json", {"targets": firsts, "cells": cells})
    of_b, of_a = Results.load(loose).cells
    assert (of_a.measure("total_ms"), of_b.measure("total_ms")) == (2.0, None)


def test_a_latency_with_plain_features_is_not_told_of_another_codec(fake_campaign):
    folder = fake_campaign(methods=("Bottleneck", "DistCorr"), seeds=(0,), codecs={"DistCorr": "uint8"})
    parts = {part: {"p50": 1.5, "p95": 4.5} for part in ("edge_ms", "wire_ms", "cloud_ms", "total_ms")}
    write_json(folder / "latency" / "s.json", {"targets": dict.fromkeys(("Bottleneck0", "DistCorr0"), parts)})
    found = {cell.row.label: cell.measure("total_ms") for cell in Results.load(folder).cells}
    assert (found["Bottleneck"], found["DistCorr"]) == (1.5, None)


def test_a_folder_with_neither_a_campaign_nor_a_record_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a campaign's folder, recorded results, or records .* none"):
        Results.load(tmp_path)


# Recorded results: what a report leaves of a run, without the run.


@pytest.mark.slow
def test_recorded_results_are_those_of_the_run(fake_campaign, tmp_path, undrawn):
    leakage = {"mse_gaussian_estimate": 0.001, "effective_dimensions": 9.0}
    folder = fake_campaign(lambda cell, _: cell["id"] != "PATROLCEM1-gan", leakage=lambda cell: leakage)
    run = Results.load(folder)
    write_report(folder, tmp_path / "report")
    recorded = Results.load(tmp_path / "report")
    assert (recorded.kind, recorded.title, recorded.seeds) == (run.kind, run.title, run.seeds)
    assert (recorded.tables, recorded.provenance) == (run.tables, run.provenance)
    for ours, theirs in zip(recorded.cells, run.cells, strict=True):
        assert (ours.id, ours.place, ours.table, ours.row) == (theirs.id, theirs.place, theirs.table, theirs.row)
        for metric in ("accuracy", "mse", "ssim_valid", "mse_gaussian_estimate", "effective_dimensions", "bytes"):
            assert ours.measure(metric) == theirs.measure(metric)
    assert all(cell.folder is None for cell in recorded.cells)
    assert recorded.doubts is not None
    assert run.doubts is None


def test_a_record_of_recorded_results_stands_in_every_place_of_the_plan(fake_predictions, tmp_path, undrawn):
    folder = fake_predictions({"a": {"m = 1": {"share": 1}}, "b": {"other": {"id": "m = 1", "share": 1}}})
    write_report(folder, tmp_path / "report")
    results = Results.load(tmp_path / "report")
    assert results.by_seed("a", Row("m = 1"), "mse") == results.by_seed("b", Row("other"), "mse") != {}
    assert {(cell.table, record.cell.figure, record.cell.row) for cell, record in results.measured} == {
        ("a", "a", "m = 1"),
        ("b", "b", "other"),
    }
    assert len(results.records) == 2


def test_a_records_place_is_that_of_the_plan_whatever_it_says_itself(fake_predictions):
    folder = fake_predictions(seeds=(0,))
    plan = read_document(folder / "campaign.json")
    plan["cells"][0] |= {"row": "renamed", "policy": {"top": 3}}
    plan["config"]["figures"][0]["rows"][0]["name"] = "renamed"
    write_json(folder / "campaign.json", plan)
    [cell, _] = Results.load(folder).cells
    assert isinstance(cell.place, FigurePlace)
    assert cell.record.cell == cell.place
    assert (cell.row, cell.place.policy, cell.policy) == (Row("renamed"), {"top": 3}, ["top"])


def test_a_plan_with_a_place_that_is_none_is_refused_by_file(fake_campaign):
    folder = fake_campaign(methods=("PATROL",), seeds=(0,))
    plan = read_document(folder / "campaign.json")
    del plan["cells"][0]["target"]
    write_json(folder / "campaign.json", plan)
    with pytest.raises(ValueError, match=r"campaign\.json"):
        Results.load(folder)


@pytest.mark.parametrize("plan", RECORDED, ids=lambda path: path.parent.name)
def test_every_record_of_recorded_results_stands_in_their_plan(plan):
    results = Results.load(plan.parent)
    lines = (plan.parent / "records.jsonl").read_text().splitlines()
    assert len(results.records) == len(lines)
    told = {json.loads(line)["cell"]["id"] for line in lines}
    assert told == {cell.id for cell, _ in results.records} <= {cell.id for cell in results.cells}
