import shutil
from dataclasses import replace

import pytest
import torch

from splitleak.artifacts import write_json
from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, split
from splitleak.defenses.artifact import read_record, save
from splitleak.defenses.importing import OWN_ANSWER
from splitleak.defenses.predictions.purifier import PurifierConfig, train_purifier
from splitleak.defenses.predictions.train_purifier import dispersion, purification_cost, train_target_purifier
from splitleak.defenses.training import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, small_target, small_splits):
    folder = tmp_path_factory.mktemp("purifying") / "a"
    save(folder, "small", train(small_target(epochs=4), small_splits, device=CPU))
    return folder


def test_dispersion_is_the_distance_from_the_mean_of_ones_own_label():
    vectors = torch.tensor([[0.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    assert dispersion(vectors, torch.tensor([0, 0, 1])) == pytest.approx((2 / 3) ** 0.5)
    assert dispersion(vectors, torch.tensor([0, 1, 2])) == 0


def test_the_cost_is_what_one_counts_by_hand():
    scores = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    becomes = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.6, 0.4]])
    found = purification_cost(lambda given: becomes, scores, torch.tensor([0, 1, 1]))
    assert found["accuracy"] == {"before": pytest.approx(2 / 3), "after": pytest.approx(1 / 3)}
    assert found["same_label"] == pytest.approx(2 / 3)
    assert found["confidence_distortion"] == pytest.approx((0.2 + 0.2 + 0.8) / 3)
    assert found["images"] == 3


def test_a_purifier_lessens_the_dispersion_of_entropy_and_logs_and_keeps_the_accuracy():
    def drawn(seed):
        draw = torch.Generator().manual_seed(seed)
        labels = torch.randint(6, (800,), generator=draw)
        logits = 2 * torch.randn(800, 6, generator=draw)
        logits[torch.arange(800), labels] += 7
        return logits.softmax(1), labels

    (reference, _), (scores, labels) = drawn(0), drawn(1)
    found = purification_cost(train_purifier(reference, PurifierConfig(epochs=25), 0), scores, labels)
    before, after = found["dispersion"]["before"], found["dispersion"]["after"]
    assert after["entropy"] < 0.9 * before["entropy"]
    assert after["log_scores"] < 0.7 * before["log_scores"]
    assert found["accuracy"]["after"] > found["accuracy"]["before"] - 0.03
    assert found["confidence_distortion"] < 0.2


def test_of_a_split_from_the_test_pool_the_reference_has_no_picture_of_victims_or_attacker(
    artifact, small_splits, monkeypatch
):
    test = small_splits.test
    shared = replace(small_splits, public=test.select(torch.arange(60)), victims=test.select(torch.arange(60, 100)))
    seen = []

    def trained(scores, config, seed, *, images, **_):
        seen.extend(replace(test, pixels=(images * 255).round().byte(), labels=test.labels[: len(images)]).hashes())
        return train_purifier(scores, config, seed, images=images)

    monkeypatch.setattr("splitleak.defenses.predictions.train_purifier.train_purifier", trained)
    config = PurifierConfig(epochs=1, reference="test", reference_images=300)
    _, record = train_target_purifier(artifact, shared, config, 0, device=CPU)
    assert len(seen) == record["cost"]["images"] == 100
    assert not set(seen) & {*shared.public.hashes(), *shared.victims.hashes()}


@pytest.mark.parametrize(("reference", "judged"), [("train", 300), ("test", 150)])
def test_neither_the_attackers_nor_the_victims_images_are_used(artifact, small_splits, reference, judged):
    config = PurifierConfig(epochs=1, reference=reference, reference_images=120)
    purifier, record = train_target_purifier(artifact, small_splits, config, 0, device=CPU)
    assert record["reference"] == {"set": reference, "images": 120, "seen_in_training": reference == "train"}
    assert record["cost"]["images"] == judged
    blank = replace(small_splits.test, pixels=torch.zeros_like(small_splits.test.pixels))
    without = replace(small_splits, public=blank, victims=blank)
    again, same_record = train_target_purifier(artifact, without, config, 0, device=CPU)
    assert same_record == record
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in purifier.state_dict().items())


def test_the_accuracy_before_is_that_of_the_target(artifact, small_splits):
    _, record = train_target_purifier(artifact, small_splits, PurifierConfig(epochs=1), 0, device=CPU)
    assert record["cost"]["accuracy"]["before"] == pytest.approx(record["target"]["accuracy"])


def test_other_images_than_the_targets_are_refused(artifact):
    others = split(load("builtin").fitted(16, 1), SplitConfig(seed=1, train=50, public=10, victims=10, test=50))
    with pytest.raises(ValueError, match="images that it was trained on"):
        train_target_purifier(artifact, others, PurifierConfig(), 0, device=CPU)


def test_labels_that_are_not_the_outputs_tell_no_accuracy(artifact, small_splits, tmp_path):
    other = shutil.copytree(artifact, tmp_path / "other")
    write_json(other / "artifact.json", {**read_record(artifact), "right_answer": OWN_ANSWER})
    with pytest.raises(ValueError, match="trained for the images' labels"):
        train_target_purifier(other, small_splits, PurifierConfig(), 0, device=CPU)
