import pytest
import torch

from splitleak.defenses.stack import DefenseConfig
from splitleak.defenses.training import TargetConfig
from splitleak.eval.targets.cost import COLUMNS, counts, from_artifact, from_config, measure, published, rows
from splitleak.models.split import ModelConfig


def design(*defenses, **model):
    documents = ({"name": each} if isinstance(each, str) else each for each in defenses)
    configs = tuple(DefenseConfig.model_validate(document) for document in documents)
    wanted = {"channels": 3, "size": 32, "classes": 10, **model}
    return from_config(TargetConfig(model=ModelConfig(**wanted), defenses=configs), "design")


SMALL = {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16}


@pytest.fixture(scope="module")
def small():
    return measure(design("bottleneck", "gaussian-noise", **SMALL), batch=4, repeats=3)


def test_the_papers_network_counts_as_in_table_s6():
    found = counts(design("bottleneck", "gaussian-noise"))
    assert found["edge"]["macs"] == {"parameters": 85_256, "macs": 21_233_664}
    assert found["cloud"]["macs"] == {"parameters": 9_689_738, "macs": 133_239_808}
    assert found["whole"]["macs"]["parameters"] == 9_774_994
    assert found["decoder"]["macs"] == {"parameters": 711_539, "macs": 54_281_216}
    by_ptflops = {part: round(counted["ptflops"]["macs"] / 1000) for part, counted in found.items()}
    assert by_ptflops == {"edge": 21_922, "cloud": 133_571, "whole": 155_493, "decoder": 55_275}


@pytest.mark.parametrize(("ratio", "parameters", "macs"), [(0.05, 83_723, 27_304), (0, 93_224, 30_114)])
def test_patrols_network_counts_as_published_pruned_and_whole(ratio, parameters, macs):
    found = counts(design("bottleneck", {"name": "patrol", "ratio": ratio}))
    assert found["edge"]["macs"]["parameters"] == parameters
    assert round(found["edge"]["ptflops"]["macs"] / 1000) == macs
    assert found["cloud"]["macs"]["parameters"] == 9_689_738


def test_figures_are_printed_as_the_paper_rounds_them(small):
    shown = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows(small)}
    edge = small["counts"]["edge"]
    assert shown["edge"]["parameters"] == f"{edge['macs']['parameters']:,}"
    assert shown["edge"]["M MACs (ptflops)"] == f"{edge['ptflops']['macs'] / 1e6:.3f}"
    assert shown["edge"]["torch ms"] == f"{small['times']['edge']['torch_ms']:.2f}"
    assert shown["decoder"]["torch ms"] == "-"


def test_both_halves_are_timed_in_torch_and_onnx_which_agree(small):
    for half in ("edge", "cloud"):
        assert small["times"][half]["torch_ms"] > 0
        assert small["times"][half]["onnx_ms"] > 0
        assert small["times"][half]["ratio"] > 0
        assert small["parity"][half] < 1e-4
    assert (small["batch"], small["repeats"], small["threads"]) == (4, 3, torch.get_num_threads())
    assert small["wire_bytes"] == 4 * 8 * 4 * 4


def test_an_artifact_costs_what_its_config_says(artifact):
    made = from_artifact(artifact)
    assert counts(made) == counts(design(**SMALL))
    assert (made.name, made.image_shape) == ("toy", (1, 16, 16))


def test_a_cut_of_odd_sides_has_the_decoder_of_a_grid(small):
    found = counts(design(architecture="cnn", width=0.1, channels=1, size=20, cut=3))
    assert found["decoder"]["macs"]["macs"] > 0
    assert rows({**small, "counts": found})[-1][0] == "decoder"


def test_the_published_table_stands_as_printed_with_its_odd_figures_explained():
    table, notes = published()
    assert ("others", "edge", "0.085 M", "21.9 M", "55.16 ms") in table
    assert ("PATROL", "cloud", "9.78 M†", "136.38 M†", "175.92 ms") in table
    explained = "\n".join(notes)
    assert "9,782,962 is the whole model" in explained
    assert "unpruned encoder" in explained
