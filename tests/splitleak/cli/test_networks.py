"""`cuts` and `import`, and what the commands for artifacts make of an imported one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from splitleak.datasets.splits import Splits
from splitleak.models.export import OnnxModule

INPUT = "1x16x16"
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 6))

    def forward(self, images):
        return self.head(self.stem(images))
"""


IMPORT = ("import", "--torch", "their_net:Net", "--input", INPUT, "--cut")


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_net.py").write_text(CODE)
    monkeypatch.delitem(__import__("sys").modules, "their_net", raising=False)
    return "their_net:Net"


def done(call, *arguments):
    status, out, err = call(*arguments)
    assert status == 0, err
    return out


@pytest.mark.slow
def test_cuts_lists_every_place_and_import_writes_an_artifact_of_one(call, code, tmp_path):
    listed = json.loads(done(call, "cuts", "--torch", code, "--input", INPUT, "--json"))
    assert [cut["after"] for cut in listed["cuts"]] == ["Conv", "BatchNormalization", "Relu", "Flatten"]
    shown = done(call, "cuts", "--torch", code, "--input", INPUT)
    assert "4 cuts; images 1×16×16, 6 outputs" in shown
    made = json.loads(
        done(call, "import", "--torch", code, "--input", INPUT, "--cut", "stem", "--out", "mine", "--json")
    )
    assert made["cut"]["shapes"] == [[4, 8, 8]]
    assert made["difference"] < 1e-5
    (tmp_path / "their_net.py").unlink()
    inspected = done(call, "inspect", "mine")
    assert f"{4 * 9 * 8 * 8 / 1e6:.3f} M MACs" in inspected
    assert "(4, 8, 8)" in inspected


@pytest.mark.slow
def test_code_that_takes_channels_last_is_cut_at_a_submodule(call, code, tmp_path):
    turned = CODE.replace("stem(images)", "stem(images.permute(0, 3, 1, 2))").replace("Conv2d(1,", "Conv2d(3,")
    (tmp_path / "their_net.py").write_text(turned.replace("4 * 8 * 8", "4 * 8 * 6"))
    given = ("--input", "3x16x12", "--set", "preprocessing.layout=hwc", "--set", "preprocessing.mean=[0.1,0.2,0.3]")
    made = json.loads(done(call, "import", "--torch", code, *given, "--cut", "stem", "--out", "mine", "--json"))
    assert made["cut"]["shapes"] == [[4, 8, 6]]


def test_a_cut_of_several_tensors_is_imported_from_a_file_by_its_name(call, code, tmp_path):
    from splitleak.graphs.user_module import export_module, load_user_module

    onnx.save(export_module(load_user_module(code), {"image": (1, 16, 16)}), tmp_path / "net.onnx")
    name = json.loads(done(call, "cuts", "net.onnx", "--json"))["cuts"][2]["tensors"][0]
    done(call, "import", "--onnx", "net.onnx", "--cut", name, "--out", "mine", "--name", "net")
    half = json.loads((tmp_path / "mine" / "edge" / "half.json").read_text())
    assert half["name"] == "net"
    assert half["target"]["training"] is None
    assert half["target"]["model"]["source"] == "net.onnx"


def test_accuracy_is_that_of_the_labels_where_there_are_as_many_classes(call, code, images, tmp_path):
    classes = len(Splits.load(images).train.classes)
    (tmp_path / "their_net.py").write_text(CODE.replace("8, 6)", f"8, {classes})"))
    arguments = ("import", "--torch", code, "--input", INPUT, "--cut", "stem", "--images", images)
    made = json.loads(done(call, *arguments, "--out", "mine", "--json"))
    assert made["right_answer"] == "labels"
    assert 0 <= made["accuracy"] < 0.6
    (tmp_path / "their_net.py").write_text(CODE)
    __import__("sys").modules.pop("their_net")
    made = json.loads(done(call, *arguments, "--out", "other", "--json"))
    assert (made["right_answer"], made["accuracy"]) == ("the whole network's own answer", 1.0)


@pytest.mark.slow
def test_an_imported_network_is_fine_tuned_under_defenses(call, code, images):
    done(call, "import", "--torch", code, "--input", INPUT, "--cut", "stem", "--out", "mine")
    defenses = ("--defense", "bottleneck", "--set", "bottleneck.channels=2", "--defense", "gaussian-noise")
    short = ("--set", "training.epochs=2", "--set", "gaussian-noise.sigma=0.01")
    made = json.loads(
        done(call, "train", "--model", "mine", "--images", images, *defenses, *short, "--out", "mine2", "--json")
    )
    assert made["accuracy"] > 0.4  # of the answers that it gave before, which are six
    assert "(2, 8, 8) after gaussian-noise" in done(call, "inspect", "mine2")
    assert "expected what `splitleak import` wrote" in call("train", "--model", "mine2", "--images", images)[2]


def test_another_network_replaces_an_artifact_with_force_alone(call, code):
    arguments = ("import", "--torch", code, "--input", INPUT, "--out", "mine")
    done(call, *arguments, "--cut", "stem")
    done(call, *arguments, "--cut", "stem")
    status, _, err = call(*arguments, "--cut", "head.0")
    assert (status, err.count("\n")) == (1, 1)
    assert "--force replaces it" in err
    done(call, *arguments, "--cut", "head.0", "--force")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cuts",), "got neither"),
        (("cuts", "a.onnx", "--torch", "their_net:Net"), "got both"),
        (("cuts", "a.onnx"), "a.onnx"),
        (("cuts", "--torch", "their_net:Net"), "--input CxHxW"),
        (("cuts", "--torch", "their_net:Net", "--input", "1x32"), "3x224x224"),
        pytest.param(
            ("cuts", "--torch", "their_net:Net", "--input", "1x30x30"), "cannot be multiplied", marks=pytest.mark.slow
        ),
        (
            ("import", "--torch", "their_net:Net", "--input", INPUT, "--cut", "sten", "--out", "mine"),
            "`splitleak cuts` lists",
        ),
        (
            (
                "import",
                "--torch",
                "their_net:Net",
                "--input",
                INPUT,
                "--cut",
                "stem",
                "--labels",
                "no",
                "--out",
                "m",
            ),
            "no",
        ),
    ],
)
def test_what_cannot_be_imported_is_one_line(refusal, code, arguments, said):
    assert said in refusal(*arguments)


def test_an_artifact_that_was_imported_is_encoded_as_its_file_says(call, code, tmp_path):
    import torch

    from splitleak.defenses.artifact import load_edge, load_whole
    from splitleak.graphs.user_module import load_user_module

    module = load_user_module(code)
    torch.manual_seed(0)
    torch.save(module.state_dict(), "weights.pt")
    arguments = ("import", "--torch", code, "--weights", "weights.pt", "--input", INPUT, "--cut", "stem")
    done(call, *arguments, "--out", "mine", "--set", "preprocessing.mean=[0.5]")
    pixels = np.random.default_rng(0).random((5, 1, 16, 16), dtype=np.float32)
    with torch.no_grad():
        stem, whole = (
            module.stem(torch.from_numpy(pixels - 0.5)).numpy(),
            module(torch.from_numpy(pixels - 0.5)).numpy(),
        )
    for engine in ("torch", "onnx"):
        edge = load_edge(Path("mine/edge"), torch.device("cpu"), engine=engine)
        np.testing.assert_allclose(edge.encode(pixels), stem, atol=1e-5)
        got = load_whole(Path("mine"), torch.device("cpu"), engine=engine).predict(pixels)
        np.testing.assert_allclose(got, whole, atol=1e-5)


@pytest.mark.slow
def test_training_takes_an_imported_network_as_it_is(call, code, images):
    done(call, *IMPORT, "stem", "--out", "mine")
    arguments = ("train", "--model", "mine", "--images", images, "--out", "other")
    status, _, err = call(*arguments, "--set", "model.cut=elsewhere")
    assert status != 0
    assert "expected the network of mine as it is, got settings of another" in err
    assert "expected --preset with a new network alone, got paper" in call(*arguments, "--preset", "paper")[2]
    assert not Path("other").exists()


def test_inspect_says_of_an_imported_network_where_it_is_cut_and_what_it_is_given(call, code, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\nf\n")
    told = ("--set", "preprocessing.mean=[0.5]", "--set", "preprocessing.range=255", "--labels", "names.txt")
    done(call, *IMPORT, "stem", *told, "--out", "mine")
    said = done(call, "inspect", "mine")
    assert "source: their_net:Net" in said
    assert "after: Relu" in said
    assert "crosses: [[4, 8, 8]]" in said
    assert 'labels: ["a", "b", "c", "d", "e", "f"]' in said
    assert '"mean": [0.5], "deviation": [1.0], "range": 255.0' in said
    told = json.loads(done(call, "inspect", "mine", "--json"))
    assert told["network"]["outputs"] == 6
    assert told["edge"]["parameters"] == 4 * 9 + 4 + 2 * 4
    assert f"cut: {told['network']['cut']}" in said


def test_inspect_counts_a_half_that_torch_does_not_reach(call, code, tmp_path):
    done(call, *IMPORT, "stem", "--out", "mine")
    before = json.loads(done(call, "inspect", "mine", "--json"))
    path = tmp_path / "mine" / "edge" / "network.onnx"
    model = onnx.load(path)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Det"
    onnx.save(model, path)
    after = json.loads(done(call, "inspect", "mine", "--json"))
    for key in ("parameters", "macs"):
        assert after["edge"][key] == before["edge"][key]


@pytest.mark.slow
def test_a_cloud_half_is_exported_as_it_was_imported_whatever_torch_reaches(call, code, tmp_path):
    done(call, *IMPORT, "stem.0", "--out", "mine")
    path = tmp_path / "mine" / "cloud" / "network.onnx"
    model = onnx.load(path)
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Shrink"
    onnx.save(model, path)
    done(call, "export", "mine", "--triton", "models")
    written = tmp_path / "models" / "mine" / "1" / "model.onnx"
    features = np.random.default_rng(0).random((3, 4, 8, 8), dtype=np.float32)
    answers = [OnnxModule(each, threads=1)(features) for each in (path, written)]
    np.testing.assert_array_equal(*answers)


def test_a_foreign_folder_is_refused_in_the_name_of_what_writes_artifacts(call, code, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").touch()
    err = call(*IMPORT, "stem", "--out", "other")[2]
    assert "expected a folder that `splitleak train` or `splitleak import` wrote or none at" in err


def test_a_network_that_mixes_its_batch_is_imported_with_a_note(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "centring_net.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, images):\n"
        "        return (torch.relu(images) - images.mean(0, keepdim=True)).abs().flatten(1)\n"
    )
    told = ("--torch", "centring_net:Net", "--input", INPUT)
    assert "note: an image's answer depends on the rest of its batch" in done(call, "cuts", *told)
    first = json.loads(done(call, "cuts", *told, "--json"))["cuts"][0]["tensors"]
    made = json.loads(done(call, "import", *told, "--cut", "+".join(first), "--out", "mine", "--json"))
    assert "what leaks in batches was not measured" in "".join(made["notes"])
