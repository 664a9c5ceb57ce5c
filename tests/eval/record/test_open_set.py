import dataclasses

import pytest
import torch

from splitleak.datasets.images import Images
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.record.open_set import open_set, open_splits


def others(each=50):
    pixels = torch.randint(256, (2 * each, 1, 16, 16), generator=torch.Generator().manual_seed(1)).byte()
    return Images(pixels, torch.arange(2).repeat_interleave(each), ("a", "b"))


@pytest.fixture(scope="module")
def opened(small_splits):
    return open_splits(dataclasses.replace(small_splits, generic=others()))


@pytest.fixture(scope="module")
def judge(opened, tmp_path_factory):
    """An open-set judge and the folder of what it was trained on."""
    folder = tmp_path_factory.mktemp("open")
    opened.save(folder / "images")
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 12},
        "training": {"epochs": 2},
    }
    target = TargetConfig.parse(document, source="test")
    save(folder / "judge", "judge", train(target, Splits.load(folder / "images"), device=torch.device("cpu")))
    return folder / "judge", folder / "images"


def test_other_classes_follow_the_targets_and_one_image_in_five_of_each_is_held_out(small_splits, opened):
    own, test = len(small_splits.train), len(small_splits.test)
    assert opened.train.classes == (*small_splits.train.classes, "other: a", "other: b")
    assert opened.train.labels[own:].bincount().tolist() == [0] * 10 + [40, 40]
    assert opened.test.labels[test:].bincount().tolist() == [0] * 10 + [10, 10]
    assert torch.equal(opened.train.pixels[:own], small_splits.train.pixels)
    assert opened.record["open_set"] == 10
    assert not set(opened.train.hashes()) & set(opened.test.hashes())


def test_without_other_classes_there_is_no_open_set(small_splits):
    with pytest.raises(ValueError, match="expected images of other classes"):
        open_splits(dataclasses.replace(small_splits, generic=None))


def test_what_is_of_the_priors_people_is_told_so(judge, small_splits):
    noise = others().floats()[:10].unsqueeze(1)  # of the other classes, given as pictures of the target's
    answers = open_set(*judge, noise)
    assert answers.others > 0.8
    assert answers.right.mean <= 0.1
    assert (answers.classes, len(answers.right.hits)) == (12, 10)
    assert 0 < answers.accuracy_own <= 1
    own = torch.stack([small_splits.train.floats()[small_splits.train.labels == label][:2] for label in range(10)])
    assert open_set(*judge, own).right.mean > answers.right.mean


def test_a_judge_of_another_set_is_refused(judge):
    with pytest.raises(ValueError, match="expected images of 9 classes and others, got 10"):
        open_set(*judge, torch.zeros(9, 1, 1, 16, 16))
