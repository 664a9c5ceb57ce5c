import shutil

import pytest
import torch
from torch.nn import functional

from splitleak.artifacts import write_json
from splitleak.defenses.artifact import load_whole, read_record, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.record.evaluator import Evaluator, probabilities


def trained(folder, splits, **changes):
    document = {
        "model": {"architecture": "cnn", "width": 0.25, "channels": 1, "size": splits.train.pixels.shape[2]},
        "training": {"epochs": 1},
        "seed": 1,
    }
    document["model"]["classes"] = len(splits.train.classes)
    target = train(TargetConfig.parse({**document, **changes}, source="test"), splits, device=torch.device("cpu"))
    save(folder, folder.name, target)
    return folder


@pytest.fixture(scope="module")
def another(tmp_path_factory, small_splits):
    return trained(tmp_path_factory.mktemp("judge") / "judge", small_splits)


def test_it_calls_recognised_what_it_puts_first(artifact, another, small_splits):
    judge = Evaluator.load(another, artifact)
    test = small_splits.test
    found = judge.recognised(test.floats(), test.labels)
    assert set(found.tolist()) <= {0.0, 1.0}
    assert float(found.mean()) == pytest.approx(read_record(another)["accuracy"])


def test_its_entry_in_a_record_has_its_accuracy_on_test_and_true_images(artifact, another, small_splits):
    test = small_splits.test
    judge = Evaluator.load(another, artifact).judge(test.floats(), test.labels)
    accuracy = read_record(another)["accuracy"]
    about = {"name": "judge", "accuracy": accuracy, "architecture": "cnn", "seed": 1}
    assert judge.document() == {**about, "on_truth": pytest.approx(accuracy)}


def test_the_target_itself_is_refused_under_any_name(artifact, tmp_path):
    shutil.copytree(artifact, tmp_path / "copy")
    record = read_record(artifact)
    write_json(tmp_path / "copy" / "artifact.json", {**record, "name": "somebody else"})
    for folder in (artifact, tmp_path / "copy"):
        with pytest.raises(ValueError, match="expected an evaluator of its own, got the target itself"):
            Evaluator.load(folder, artifact)


def test_a_judge_of_other_images_is_refused(artifact, tmp_path, small_splits):
    larger = type(small_splits)(
        **{part: getattr(small_splits, part).fitted(20, 1) for part in ("train", "public", "victims", "test")},
        record=small_splits.record,
    )
    with pytest.raises(ValueError, match=r"\(1, 16, 16\).*got one of .*\(1, 20, 20\)"):
        Evaluator.load(trained(tmp_path / "larger", larger), artifact)


def test_probabilities_are_those_of_the_whole_network(artifact, small_splits):
    model = load_whole(artifact, torch.device("cpu"), seed=0)
    images = small_splits.test.floats()[:5]
    with torch.no_grad():
        logits = model.cloud.head(model.edge.encoder(images))
    assert torch.allclose(probabilities(model, images), functional.softmax(logits, 1), atol=1e-5)
