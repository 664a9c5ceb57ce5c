"""A scan of a network whose leaks are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from splitleak.eval.scan.output import judgement, table_rows, write_scan
from splitleak.eval.scan.rows import CONSTANT, NOT_FINITE
from splitleak.eval.scan.scan import ANSWER, PICTURE, ScanConfig, judged_row, plain_rows, scan
from splitleak.graphs.importing import NetworkConfig, network_of


def by_cut(document):
    return {(row["cut"], row["defense"]): row for row in document["rows"]}


def test_a_cut_that_loses_nothing_is_rebuilt_and_one_that_averages_is_not(tiny, owned, attacked):
    document, pictures = scan(tiny, owned, attacked, ScanConfig(latency=0))
    rows = by_cut(document)
    assert list(rows) == [(cut, "none") for cut in (PICTURE, "mixed", "doubled", "pooled", "flat", ANSWER)]
    assert rows["mixed", "none"]["ssim"] > 0.99
    assert rows["doubled", "none"]["psnr"] > 40
    mean = document["mean_image"]["mse"]
    assert 0.2 * mean < rows["flat", "none"]["mse"] < mean
    assert rows["flat", "none"]["mse"] == pytest.approx(rows["pooled", "none"]["mse"], rel=1e-3)
    assert rows["mixed", "none"]["shapes"] == [[16, 4, 4]]
    assert rows["mixed", "none"]["bytes"] == 4 * 16 * 16
    assert rows["mixed", "none"]["device_macs"] == 16 * 16 * 16
    assert rows[PICTURE, "none"]["device_share"] == 0
    assert rows[ANSWER, "none"]["device_share"] == 1
    assert pictures["1"].shape == pictures["truth"].shape == (6, 1, 16, 16)


def test_what_leaks_later_leaks_before(tiny, owned, attacked):
    document, _ = scan(tiny, owned, attacked, ScanConfig(latency=0))
    leaks = [row["leaks"] for row in document["rows"]]
    assert leaks == sorted(leaks, reverse=True)
    assert all(row["leaks"] >= row["ssim"] for row in document["rows"])


def test_the_same_picture_is_found_again_by_its_feature_until_noise_hides_it(tiny, owned, attacked):
    rows = by_cut(scan(tiny, owned, attacked, ScanConfig(latency=0, noise=(0.0, 50.0)))[0])
    assert rows["mixed", "none"]["refound"]["again"] == 1
    assert rows["mixed", "none"]["refound"]["brighter"] > 0.9
    assert rows["mixed", "noise 0"]["refound"]["again"] == 1
    assert rows["mixed", "noise 50"]["refound"]["again"] < 0.3


def test_noise_and_a_bottleneck_lower_what_is_rebuilt_by_who_knows_of_them(tiny, owned, attacked):
    config = ScanConfig(latency=0, noise=(0.5, 2.0), bottleneck=(2, 8, 99))
    rows = by_cut(scan(tiny, owned, attacked, config)[0])
    errors = [rows["mixed", name]["mse"] for name in ("none", "noise 0.5", "noise 2")]
    assert errors == sorted(errors)
    errors = [rows["mixed", name]["mse"] for name in ("none", "bottleneck 8", "bottleneck 2")]
    assert errors == sorted(errors)
    assert rows["mixed", "bottleneck 2"]["bytes"] == 4 * 2 * 16
    assert ("mixed", "bottleneck 99") not in rows


@pytest.mark.slow
def test_a_scan_is_the_same_under_one_seed_and_another_under_another(tiny, owned, attacked):
    def measured(seed):
        document, _ = scan(tiny, owned, attacked, ScanConfig(latency=0, noise=(0.5,), seed=seed))
        return [(row["mse"], row["refound"]) for row in document["rows"]]

    assert measured(1) == measured(1)
    assert measured(1) != measured(2)


def test_rows_that_do_not_fit_into_memory_at_once_come_in_several_passes(tiny, owned, attacked, monkeypatch):
    whole, _ = scan(tiny, owned, attacked, ScanConfig(latency=0))
    monkeypatch.setattr("splitleak.eval.scan.scan._MEMORY", 1)
    parts, _ = scan(tiny, owned, attacked, ScanConfig(latency=0))
    assert [row["mse"] for row in parts["rows"]] == pytest.approx([row["mse"] for row in whole["rows"]], rel=1e-4)


def test_cuts_are_spaced_evenly_and_the_one_that_is_judged_is_among_them(tiny, owned, attacked):
    document, _ = scan(tiny, owned, attacked, ScanConfig(latency=0, cuts=2))
    assert [row["cut"] for row in plain_rows(document)] == ["mixed", "flat"]
    assert document["cuts_there_are"] == 4
    document, _ = scan(tiny, owned, attacked, ScanConfig(latency=0, cuts=1, cut="pooled"))
    assert judged_row(document)["cut"] == "pooled"


def test_the_deepest_cut_within_the_share_of_the_device_is_judged(tiny, owned, attacked):
    document, _ = scan(tiny, owned, attacked, ScanConfig(latency=0, share=1.0))
    assert judged_row(document)["cut"] == "flat"
    document["config"]["share"] = 0.0
    assert judged_row(document)["cut"] == "mixed"


def test_both_halves_are_timed_where_asked(tiny, owned, attacked):
    rows = by_cut(scan(tiny, owned, attacked, ScanConfig(latency=2))[0])
    timed = [cut for (cut, _), row in rows.items() if row["edge_ms"] is not None and row["cloud_ms"] is not None]
    assert timed == ["mixed", "flat"]
    assert rows[PICTURE, "none"]["cloud_ms"] == rows[ANSWER, "none"]["edge_ms"] > 0


def test_pictures_of_another_size_and_unknown_cuts_are_refused(tiny, owned, attacked):
    with pytest.raises(ValueError, match=r"expected pictures \(1, 16, 16\).*got \(1, 8, 8\)"):
        scan(tiny, owned.fitted(8, 1), attacked, ScanConfig())
    with pytest.raises(ValueError, match="got 'mixd'; did you mean 'mixed'"):
        scan(tiny, owned, attacked, ScanConfig(cut="mixd"))


def made_of(nodes, answer, **weights):
    """A network of grey pictures of 16 pixels."""
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 16, 16])
    told = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", *answer])
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "made", [given], [told], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


ENDLESS = [
    helper.make_node("MaxPool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
    helper.make_node("Log", ["zero"], ["endless"]),
    helper.make_node("Mul", ["pooled", "endless"], ["wrong"]),
    helper.make_node("Relu", ["wrong"], ["zeros"]),
    helper.make_node("Flatten", ["zeros"], ["answer"]),
]


def test_a_place_that_overflows_is_not_measured_and_the_others_are(owned, attacked, tmp_path):
    network = network_of(made_of(ENDLESS, [16], zero=[0]), NetworkConfig())
    document, pictures = scan(network, owned, attacked, ScanConfig(latency=0, noise=(0.5,), cut="wrong"))
    rows = by_cut(document)
    assert rows["pooled", "none"]["unmeasured"] is None
    assert rows["pooled", "none"]["ssim"] > 0.3
    assert rows["wrong", "none"]["unmeasured"] == NOT_FINITE
    assert rows["wrong", "none"]["ssim"] is None
    assert ("wrong", "noise 0.5") not in rows
    assert "`wrong` was not measured: its features are not all finite" in document["notes"]
    assert judgement(document, 1.0)[0]
    write_scan(tmp_path / "scan", {"model": "x", **document}, pictures, settings={})
    assert len([*table_rows(document)]) == len(document["rows"])


def test_a_network_that_overflows_everywhere_is_no_network_that_leaks_nothing(owned, attacked):
    network = network_of(made_of([*ENDLESS[1:2], *OVERFLOWS], [256], zero=[0]), NetworkConfig())
    with pytest.raises(ValueError, match="expected finite values to scan, got others at every cut"):
        scan(network, owned, attacked, ScanConfig(latency=0))


OVERFLOWS = [
    helper.make_node("Div", ["image", "zero"], ["wrong"]),
    helper.make_node("Flatten", ["wrong"], ["answer"]),
]


def test_features_that_no_picture_changes_are_not_measured(owned, attacked):
    nodes = [
        helper.make_node("Floor", ["image"], ["dark"]),  # as of pictures in [0, 1] that are cast to bytes
        helper.make_node("Clip", ["dark", "", "zero"], ["black"]),
        helper.make_node("Sub", ["image", "black"], ["less"]),
        helper.make_node("Mul", ["less", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "black"], ["same"]),
        helper.make_node("Flatten", ["same"], ["answer"]),
    ]
    network = network_of(made_of(nodes, [256], zero=0.0), NetworkConfig())
    document, _ = scan(network, owned, attacked, ScanConfig(latency=0))
    rows = by_cut(document)
    assert [rows[cut, "none"]["unmeasured"] for cut in (PICTURE, "nothing+black", "same") if (cut, "none") in rows] == [
        None,
        CONSTANT,
    ]
    assert "`same` was not measured: its features are the same for all pictures" in document["notes"]


def test_one_huge_constant_makes_no_feature_the_same_for_all_pictures(owned, attacked):
    nodes = [
        helper.make_node("Conv", ["image", "mix"], ["mixed"], strides=[4, 4]),
        helper.make_node("Pad", ["mixed", "beside", "huge"], ["padded"]),
        helper.make_node("Relu", ["padded"], ["kept"]),
        helper.make_node("Flatten", ["kept"], ["answer"]),
    ]
    nodes.insert(0, helper.make_node("Constant", [], ["beside"], value_ints=[0, 0, 0, 0, 0, 1, 0, 0]))
    weights = {"mix": np.random.default_rng(0).normal(size=(16, 1, 4, 4)), "huge": 1e8}
    network = network_of(made_of(nodes, [17 * 16], **weights), NetworkConfig())
    rows = by_cut(scan(network, owned, attacked, ScanConfig(latency=0))[0])
    assert rows["mixed", "none"]["ssim"] > 0.9
    assert rows["padded", "none"]["ssim"] == pytest.approx(rows["mixed", "none"]["ssim"], rel=1e-2)
    assert rows["padded", "none"]["unmeasured"] is None


@pytest.mark.parametrize("way", ["Flatten", "Transpose", "both", "flip"])
def test_a_rearranged_map_leaks_what_the_map_leaks(owned, attacked, way):
    moved = {
        "Flatten": [helper.make_node("Flatten", ["map"], ["moved"])],
        "Transpose": [helper.make_node("Transpose", ["map"], ["moved"], perm=[0, 2, 1, 3])],
        "flip": [
            helper.make_node("Constant", [], ["last"], value_ints=[-1]),
            helper.make_node("Constant", [], ["before"], value_ints=[-99]),
            helper.make_node("Slice", ["map", "last", "before", "last", "last"], ["moved"]),
        ],
        "both": [
            helper.make_node("Transpose", ["map"], ["turned"], perm=[0, 3, 1, 2]),
            helper.make_node("Flatten", ["turned"], ["moved"]),
        ],
    }
    nodes = [
        helper.make_node("Conv", ["image", "mix"], ["map"], strides=[2, 2]),
        *moved[way],
        helper.make_node("Relu", ["moved"], ["kept"]),
        helper.make_node("Flatten", ["kept"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["answer"]),
    ]
    draw = np.random.default_rng(0)
    weights = {"mix": draw.normal(size=(6, 1, 2, 2)), "head": draw.normal(size=(6 * 64, 2))}
    network = network_of(made_of(nodes, [2], **weights), NetworkConfig())
    rows = by_cut(scan(network, owned, attacked, ScanConfig(latency=0, noise=(0.5,)))[0])
    assert rows["map", "none"]["leaks"] > 0.9
    assert rows["moved", "none"]["leaks"] == pytest.approx(rows["map", "none"]["leaks"], rel=1e-3)
    assert rows["moved", "noise 0.5"]["leaks"] == pytest.approx(rows["map", "noise 0.5"]["leaks"], rel=0.05)
    few = by_cut(scan(network, owned, attacked, ScanConfig(latency=0, cuts=1, cut="moved"))[0])
    assert few["moved", "none"]["ssim"] == pytest.approx(rows["moved", "none"]["ssim"])
    assert rows["kept", "none"]["leaks"] > 0.7  # what changes values one by one leaves them where they are


@pytest.mark.parametrize("hidden", [False, True])
def test_a_network_whose_features_depend_on_the_batch_is_refused(owned, attacked, hidden):
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "none"], ["lost"]),
        helper.make_node("GlobalAveragePool", ["lost"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["answer"]),
    ]
    network = network_of(made_of(nodes, [1], none=0.0 if hidden else 1.0), NetworkConfig())
    assert network.mixes != hidden
    with pytest.raises(ValueError, match="expected a network that computes each image alone, got one whose"):
        scan(network, owned, attacked, ScanConfig(latency=0))


def test_pictures_smaller_than_ssims_window_are_refused_at_the_start(tiny, owned, attacked):
    nodes = [helper.make_node("Relu", ["image"], ["kept"]), helper.make_node("Flatten", ["kept"], ["answer"])]
    model = made_of(nodes, [64])
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 8
    with pytest.raises(ValueError, match="expected pictures of at least 11 × 11 pixels"):
        scan(network_of(model, NetworkConfig()), owned.fitted(8, 1), attacked.fitted(8, 1), ScanConfig())


def test_few_victims_and_dark_pictures_are_pointed_out(tiny, owned, attacked):
    document, _ = scan(tiny, owned, attacked, ScanConfig(latency=0, cuts=1))
    assert document["notes"] == []
    dark = [replace(each, pixels=each.pixels // 16) for each in (owned, attacked.select(torch.arange(3)))]
    notes = scan(tiny, *dark, ScanConfig(latency=0, cuts=1))[0]["notes"]
    assert "3 victims alone" in notes[0]
    assert notes[1].startswith("all pictures lie in 0 to 15 of 0 to 255, as of 12 bits in files of 16")


@pytest.mark.parametrize("wrong", [{"noise": (float("nan"),)}, {"threshold": float("inf")}, {"share": float("nan")}])
def test_settings_are_finite(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScanConfig.parse(wrong, source="test")


def branching():
    """Grey squares, as they are and their maxima, side by side."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["coarse"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Relu", ["coarse"], ["left"]),
        helper.make_node("MaxPool", ["coarse"], ["right"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["left"], ["first"]),
        helper.make_node("Flatten", ["right"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["answer"], axis=1),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 16, 16])
    told = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 20])
    graph = helper.make_graph(nodes, "two", [given], [told])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return network_of(model, NetworkConfig())


def test_several_tensors_that_cross_at_once_are_one_feature(owned, attacked):
    config = ScanConfig(latency=1, tensors=2, noise=(1.0,), bottleneck=(1,))
    rows = by_cut(scan(branching(), owned, attacked, config)[0])
    both, alone = rows["left+right", "none"], rows["coarse", "none"]
    assert both["sent"] == [[1, 4, 4], [1, 2, 2]]
    assert both["mse"] == pytest.approx(alone["mse"], rel=0.1)
    assert rows["left+right", "noise 1"]["mse"] > both["mse"]
    assert rows["left+right", "bottleneck 1"]["sent"] == [[1, 4, 4]]


def test_a_cut_of_more_tensors_than_the_others_is_judged_where_it_is_named(owned, attacked):
    document, _ = scan(branching(), owned, attacked, ScanConfig(latency=0, cut="left+right"))
    assert [row["cut"] for row in plain_rows(document)] == ["coarse", "left+right"]
    assert judged_row(document)["cut"] == "left+right"
