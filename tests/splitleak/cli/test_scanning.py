"""`splitleak scan`, from a file to its exit status."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Grey pictures of any size: mixed without loss, then averaged to one value."""
    mix = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0].reshape(16, 1, 4, 4)
    nodes = [
        helper.make_node("Conv", ["image", "mix"], ["mixed"], strides=[4, 4]),
        helper.make_node("ReduceMean", ["mixed"], ["pooled"], axes=[1, 2, 3]),
        helper.make_node("Flatten", ["pooled"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(mix.astype(np.float32), "mix")],
    )
    path = tmp_path_factory.mktemp("scan") / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def pictures(small_splits, tmp_path):
    small_splits.public.save(tmp_path / "pictures.npz")
    return tmp_path / "pictures.npz"


QUICK = ("--input", "1x16x16", "--public", 100, "--victims", 20, "--latency", 0)


@pytest.mark.slow
def test_a_file_is_scanned_to_a_table_a_verdict_and_a_folder(call, model, pictures, tmp_path):
    out = tmp_path / "scan"
    code, said, err = call("scan", model, "--images", pictures, "--out", out, *QUICK)
    assert code == 0, err
    assert "the picture itself" in said
    assert "Up to `pooled`" in said
    assert json.loads((out / "scan.json").read_text())["rows"]
    assert call("scan", model, "--images", pictures, "--out", out, *QUICK)[0] == 0  # with the same settings
    code, _, err = call("scan", model, "--images", pictures, "--out", out, "--seed", 1, *QUICK)
    assert code == 1
    assert "--force replaces it" in err


def test_json_has_the_rows_and_the_defenses_that_were_asked_for(call, model, pictures):
    code, said, err = call(
        "scan", model, "--images", pictures, "--noise", 0.5, "--noise", 1, "--bottleneck", 2, "--json", *QUICK
    )
    assert code == 0, err
    document = json.loads(said)
    assert document["version"] == 1
    names = {row["defense"] for row in document["rows"]}
    assert names == {"none", "noise 0.5", "noise 1", "bottleneck 2"}
    assert document["verdict"].startswith("Up to `pooled`")
    assert document["provenance"]["command"]


@pytest.mark.parametrize(
    ("judged", "status"),
    [(("--fail-above", 0.9, "--share", 1), 3), (("--fail-above", 0.9, "--cut", "pooled"), 0), ((), 0)],
)
def test_the_exit_status_is_3_where_the_judged_cut_leaks_more(call, model, pictures, judged, status):
    code, said, _ = call("scan", model, "--images", pictures, "--cuts", 1, *judged, *QUICK)
    assert code == status
    assert ("FAILED: `mixed`" in said) == (status == 3)


@pytest.mark.parametrize("most", ["nan", "inf", -0.1, 1.5])
def test_what_nothing_can_be_above_or_below_is_no_limit(refusal, model, most):
    assert "expected an SSIM of 0 to 1 as --fail-above" in refusal("scan", model, "--fail-above", most, *QUICK)


def test_either_a_cut_or_a_share_says_what_is_judged(call, model):
    code, _, err = call("scan", model, "--fail-above", 0.9, "--share", 0.2, "--cut", "pooled", *QUICK)
    assert (code, "expected --cut or --share" in err) == (2, True)


def test_a_verdict_for_ci_needs_victims(refusal, model, pictures, call):
    few = ("scan", model, "--images", pictures, "--input", "1x16x16", "--latency", 0, "--victims", 3)
    assert "at least 8 different victims for --fail-above, got 3" in refusal(*few, "--fail-above", 0.9)
    code, said, _ = call(*few)
    assert code == 0
    assert "note: 3 victims alone" in said


def test_a_share_of_no_multiply_accumulates_chooses_no_cut(refusal, pictures, tmp_path):
    nodes = [helper.make_node("Relu", ["image"], ["kept"]), helper.make_node("ReduceMean", ["kept"], ["answer"])]
    nodes[1].attribute.append(helper.make_attribute("axes", [2, 3]))
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 16, 16])
    made = helper.make_tensor_value_info("answer", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "none", [given], [made]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, tmp_path / "none.onnx")
    arguments = ("scan", tmp_path / "none.onnx", "--images", pictures, "--latency", 0, "--victims", 20)
    assert "name the cut to be judged by --cut" in refusal(*arguments, "--fail-above", 0.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.onnx",), "expected an ONNX file at nowhere.onnx"),
        (("MODEL",), r"expected input 'image' as an image"),
        (("MODEL", "--input", "1x16"), "expected a shape such as 3x224x224"),
        (("MODEL", "--input", "1x16x16", "--images", "nothing"), "expected one of builtin"),
        (("MODEL", "--input", "1x16x16", "--images", "PICTURES", "--cut", "mixd"), "did you mean 'mixed'"),
        (("MODEL", "--input", "1x16x16", "--images", "PICTURES", "--out", "PICTURES"), "it was not touched"),
    ],
)
def test_bad_input_is_one_line(refusal, model, pictures, arguments, said):
    known = {"MODEL": model, "PICTURES": pictures}
    assert said in refusal("scan", *(known.get(argument, argument) for argument in arguments))


def test_an_artifact_tells_its_input_itself(refusal, train, tmp_path):
    train()
    assert "an ONNX file alone" in refusal("scan", tmp_path / "toy", "--input", "1x16x16")
