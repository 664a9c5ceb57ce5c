import pytest
import torch

from splitleak.attacker.outputs import Reconstructions
from splitleak.eval.targets.knowledge_extraction import ExtractionConfig, knowledge_extraction, measure_extraction

CPU = torch.device("cpu")
QUICK = ExtractionConfig(epochs=20, width=0.5)


def of_every_class(images, each):
    floats = images.floats()
    return torch.stack([floats[images.labels == label][:each] for label in range(10)])


def extracted(by_class, private, config=QUICK):
    return knowledge_extraction(by_class, private, "builtin", config, device=CPU)


@pytest.mark.slow
def test_a_student_learns_from_real_images_not_from_noise_or_wrong_labels(small_splits):
    private = small_splits.train
    real = of_every_class(small_splits.public, 15)
    taught = extracted(real, private)
    assert taught["share"] > 0.5
    assert taught["n"] == len(private)
    assert taught["low"] <= taught["share"] <= taught["high"]
    assert (taught["chance"], taught["images_per_class"]) == (0.1, 15)
    assert extracted(real.roll(1, 0), private)["share"] < 0.15
    assert extracted(torch.rand(real.shape), private)["share"] < 0.35


def test_the_score_repeats_under_one_seed(small_splits):
    by_class, brief = of_every_class(small_splits.public, 5), ExtractionConfig(epochs=2, width=0.25)
    first = extracted(by_class, small_splits.test, brief)
    assert extracted(by_class, small_splits.test, brief) == first
    other = extracted(by_class, small_splits.test, brief.model_copy(update={"seed": 1}))
    assert other["train_accuracy"] != first["train_accuracy"] or other["share"] != first["share"]


@pytest.mark.parametrize("shape", [(9, 2, 1, 16, 16), (10, 2, 1, 20, 20), (10, 0, 1, 16, 16)])
def test_anything_but_images_of_every_class_is_refused(small_splits, shape):
    with pytest.raises(ValueError, match=r"expected images \(10, R, \*\(1, 16, 16\)\) of every class"):
        extracted(torch.rand(shape), small_splits.train)


def test_from_an_attacks_folder_it_is_of_the_images_that_the_target_was_trained_on(tmp_path, artifact, small_splits):
    brief = ExtractionConfig(epochs=1, width=0.25)
    rebuilt = of_every_class(small_splits.public, 2)
    Reconstructions.of_classes(rebuilt).save(tmp_path / "attack" / "reconstructions.npz")
    small_splits.save(tmp_path / "images")
    given = (artifact, tmp_path / "attack")
    found = measure_extraction(*given, tmp_path / "images" / "train.npz", brief, CPU)
    plain = extracted(rebuilt, small_splits.train, brief)
    assert {name: found[name] for name in plain} == plain
    with pytest.raises(ValueError, match="expected the images that 'toy' was trained on, got others"):
        measure_extraction(*given, tmp_path / "images" / "test.npz", brief, CPU)
