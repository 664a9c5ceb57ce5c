import pytest
import torch

from defenses.stack import DefenseConfig
from defenses.training import TargetConfig
from eval.cost import COLUMNS, from_artifact, from_config, measure, published, rows
from splitleak.models.split import ModelConfig


def design(*defenses, **model):
    configs = tuple(DefenseConfig.model_validate({"name": name}) for name in defenses)
    wanted = {"channels": 3, "size": 32, "classes": 10, **model}
    return from_config(TargetConfig(model=ModelConfig(**wanted), defenses=configs), "design")


@pytest.fixture(scope="module")
def paper():
    return measure(design("bottleneck", "gaussian-noise"), batch=4, repeats=3)


def test_the_papers_network_counts_as_in_table_s6(paper):
    counts = paper["counts"]
    assert counts["edge"]["macs"] == {"parameters": 85_256, "macs": 21_233_664}
    assert counts["cloud"]["macs"] == {"parameters": 9_689_738, "macs": 133_239_808}
    assert counts["whole"]["macs"]["parameters"] == 9_774_994
    assert counts["decoder"]["macs"] == {"parameters": 711_539, "macs": 54_281_216}
    by_ptflops = {part: round(counted["ptflops"]["macs"] / 1000) for part, counted in counts.items()}
    assert by_ptflops == {"edge": 21_922, "cloud": 133_571, "whole": 155_493, "decoder": 55_275}
    assert paper["wire_bytes"] == 2048


def test_its_figures_are_printed_as_the_paper_rounds_them(paper):
    shown = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows(paper)}
    assert shown["edge"]["parameters"] == "85,256"
    assert shown["edge"]["M MACs (ptflops)"] == "21.922"
    assert shown["cloud"]["parameters"] == "9,689,738"
    assert shown["decoder"]["parameters"] == "711,539"
    assert shown["decoder"]["torch ms"] == "-"


def test_both_halves_are_timed_in_torch_and_onnx_which_agree(paper):
    for half in ("edge", "cloud"):
        assert paper["times"][half]["torch_ms"] > 0
        assert paper["times"][half]["onnx_ms"] > 0
        assert paper["times"][half]["ratio"] > 0
        assert paper["parity"][half] < 1e-4
    assert (paper["batch"], paper["repeats"], paper["threads"]) == (4, 3, torch.get_num_threads())


def test_an_artifact_costs_what_its_config_says(artifact):
    small = {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16}
    made, planned = (measure(each, batch=2, repeats=1) for each in (from_artifact(artifact), design(**small)))
    assert made["counts"] == planned["counts"]
    assert (made["name"], planned["name"]) == ("toy", "design")


def test_a_cut_that_no_residual_decoder_fits_has_no_decoder():
    found = measure(design(architecture="cnn", width=0.1, channels=1, size=20, cut=3), batch=2, repeats=1)
    assert found["counts"]["decoder"] is None
    assert rows(found)[-1] == ("decoder", *["-"] * (len(COLUMNS) - 1))


def test_the_published_table_stands_as_printed_with_its_odd_figures_explained():
    table, notes = published()
    assert ("others", "edge", "0.085 M", "21.9 M", "55.16 ms") in table
    assert ("PATROL", "cloud", "9.78 M†", "136.38 M†", "175.92 ms") in table
    explained = "\n".join(notes)
    assert "9,782,962 is the whole model" in explained
    assert "unpruned encoder" in explained
