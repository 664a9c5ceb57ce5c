import pytest

from splitleak.artifacts import write_json
from splitleak.eval.report.report import write_report
from splitleak.eval.report.results import Results
from splitleak.eval.report.target_measures import TargetMeasures, measure_sheets

PLACES = [
    {"measure": "target", "target": target, "seed": seed, "output": f"besides/target-{target}{seed}.json"}
    for target in ("none", "LoR")
    for seed in (0, 1)
]
TIMES = [
    {"measure": "training time", "target": target, "seed": seed, "output": f"besides/time{seed}.json"}
    for target in ("none", "LoR")
    for seed in (0, 1)
]
STUDENTS = [
    {"measure": "extraction", "target": "none", "seed": 0, "of": "PPA", "output": "besides/extraction.json"},
    {"measure": "backdoor", "target": "none", "seed": 0, "of": "badnets 5 %", "output": "besides/backdoor.json"},
]


@pytest.fixture
def besides(tmp_path):
    def make(places=(*PLACES, *TIMES, *STUDENTS), left_out=()):
        documents = {"besides/extraction.json": {"share": 0.25}}
        shares = {"clean_accuracy": 0.8, "success_others": 0.9, "others_without_trigger": 0.02}
        documents["besides/backdoor.json"] = {name: {"share": share} for name, share in shares.items()}
        for seed in (0, 1):
            ratios = {"none": {"ratio": 1.0}, "LoR": {"ratio": 1.1 + seed}}
            documents[f"besides/time{seed}.json"] = {"targets": ratios}
            for target in ("none", "LoR"):
                parts = {part: {"accuracy": 0.8 + 0.1 * seed, "confidence": 0.9} for part in ("train", "test")}
                documents[f"besides/target-{target}{seed}.json"] = {**parts, "parameters": {"all": 10, "trained": 7}}
        for output, document in documents.items():
            if output not in left_out:
                write_json(tmp_path / output, document)
        plan = {"name": "fake", "config": {"kind": "classes", "figures": []}, "cells": [], "provenance": {}}
        write_json(tmp_path / "campaign.json", plan | ({"besides": list(places)} if places else {}))
        return TargetMeasures.of(Results.load(tmp_path))

    return make


def test_a_campaign_that_measures_nothing_beside_has_no_table(besides):
    assert measure_sheets(besides(())) == []
    assert list(besides(()).csv_rows()) == []


def test_figures_are_spread_over_seeds_and_what_lacks_is_a_dash(besides):
    targets, backdoors = measure_sheets(besides(left_out=("besides/target-LoR1.json",)))
    shown = {str(row[0]): [str(text) for text in row[1:]] for row in targets.rows}
    names = [" ".join(column).strip() for column in targets.columns[1:]]
    none, low_rank = (dict(zip(names, shown[target], strict=True)) for target in ("none", "LoR"))
    assert none["accuracy % test"] == "85.0 ± 7.1"
    assert none["knowledge extraction % PPA"] == "25.0 [1]"
    assert none["parameters trained"] == "7 ± 0"
    assert low_rank["accuracy % test"] == "80.0 [1]"
    assert low_rank["training time ratio"] == "1.60 ± 0.71"
    assert low_rank["knowledge extraction % PPA"] == "-"
    assert [str(text) for text in backdoors.rows[0]] == ["none", "80.0 [1]", "90.0 [1]", "2.0 [1]"]
    assert backdoors.headings[1] == ("BadNets 5 %", 3)


def test_only_what_is_planned_has_a_column(besides):
    [sheet] = measure_sheets(besides(PLACES))
    assert [name for _, name in sheet.columns] == ["target", "train", "test", "train", "test", "trained"]


def test_the_csv_has_a_row_a_target_and_seed(besides):
    rows = list(besides().csv_rows())
    assert [(row["target"], row["seed"]) for row in rows] == [("none", 0), ("none", 1), ("LoR", 0), ("LoR", 1)]
    assert rows[3]["training time ratio"] == 2.1
    assert rows[1]["knowledge extraction % PPA"] is None


def test_a_document_of_several_targets_is_one_line(besides):
    lines = [line for line in besides().lines() if line["measure"] == "training time"]
    assert [(line["seed"], line["of_targets"]) for line in lines] == [(0, ["none", "LoR"]), (1, ["none", "LoR"])]
    assert besides(left_out=("besides/time1.json",)).counted().endswith("of 10 measures")


def test_recorded_measures_are_read_back_from_the_report(besides, tmp_path, undrawn):
    measured = besides()
    write_report(tmp_path, tmp_path / "report")
    again = TargetMeasures.of(Results.load(tmp_path / "report"))
    assert again.places == measured.places
    assert measure_sheets(again) == measure_sheets(measured)
    assert list(again.csv_rows()) == list(measured.csv_rows())
    assert again.counted() == "10 of 10 measures"
