import json

import pytest
import torch
from typer.testing import CliRunner

from splitleak.cli import app
from splitleak.datasets.splits import Splits
from splitleak.defenses.artifact import load_whole
from splitleak.eval.targets.backdoor import PoisonConfig, add_trigger, backdoor_success, poison

CPU = torch.device("cpu")


def test_the_checkerboard_is_in_the_lower_right_corner_and_nothing_else_changes(small_splits):
    made = add_trigger(small_splits.test, PoisonConfig())
    board = torch.tensor([[255, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    assert torch.equal(made.pixels[:, 0, 13:, 13:], board.expand(len(made), 3, 3))
    before, after = small_splits.test.pixels.clone(), made.pixels.clone()
    before[:, :, 13:, 13:] = after[:, :, 13:, 13:] = 0
    assert torch.equal(before, after)
    assert torch.equal(made.labels, small_splits.test.labels)


def test_the_corner_itself_is_white_whatever_the_side(small_splits):
    for side in (1, 2, 5):
        made = add_trigger(small_splits.test, PoisonConfig(board=side))
        assert made.pixels[0, 0, -1, -1] == 255
        assert side == 1 or made.pixels[0, 0, -1, -2] == 0


def test_the_blend_is_a_tenth_of_one_image_that_all_share(small_splits):
    images, config = small_splits.test, PoisonConfig(trigger="blended")
    made = add_trigger(images, config).floats()
    inner = (made > 0) & (made < 1)  # where nothing was clamped
    noise = (made - 0.9 * images.floats()) / 0.1
    mean = torch.where(inner, noise, torch.zeros(())).sum(0) / inner.sum(0).clamp(min=1)
    assert float((noise - mean).abs()[inner].max()) < 0.05  # the rounding to 8 bits, ten times
    seen = inner.any(0)
    assert float(mean[seen].std()) == pytest.approx(1, abs=0.35)
    assert not torch.equal(made, add_trigger(images, PoisonConfig(trigger="blended", seed=1)).floats())


def test_a_board_larger_than_the_image_is_refused(small_splits):
    with pytest.raises(ValueError, match="expected a checkerboard of at most 16 pixels, got 17"):
        add_trigger(small_splits.test, PoisonConfig(board=17))


def test_as_many_training_images_as_asked_for_are_poisoned_and_no_others(small_splits, tmp_path):
    config = PoisonConfig(fraction=0.05, target=3)
    made = poison(small_splits, config)
    changed = (made.train.pixels != small_splits.train.pixels).flatten(1).any(1)
    assert int(changed.sum()) == 30
    assert set(made.train.labels[changed].tolist()) == {3}
    assert torch.equal(made.train.labels[~changed], small_splits.train.labels[~changed])
    assert made.test is small_splits.test
    made.save(tmp_path / "poisoned")
    loaded = Splits.load(tmp_path / "poisoned")
    assert loaded.record["poison"] == config.document()
    assert torch.equal(loaded.train.pixels, made.train.pixels)
    assert "poison" not in small_splits.record


def test_there_must_be_such_a_class(small_splits):
    with pytest.raises(ValueError, match="expected a target of 10 classes, got 10"):
        poison(small_splits, PoisonConfig(target=10))


def test_a_model_that_always_predicts_the_target_has_success_rate_one(artifact, small_splits):
    model = load_whole(artifact, CPU, seed=0)
    with torch.no_grad():
        last = model.cloud.head[-1][-1]
        last.weight.zero_()
        last.bias.copy_(torch.nn.functional.one_hot(torch.tensor(4), 10))
    found = backdoor_success(model, small_splits.test, PoisonConfig(target=4))
    assert found["success_all"]["share"] == found["success_others"]["share"] == 1
    assert found["others_without_trigger"]["share"] == 1
    of_class = int((small_splits.test.labels == 4).sum())
    assert found["clean_accuracy"]["hits"] == of_class
    assert (found["success_all"]["n"], found["success_others"]["n"]) == (300, 300 - of_class)


def test_the_command_poisons_and_a_training_sees_it(small_splits, tmp_path):
    small_splits.save(tmp_path / "images")
    asked = ["poison", str(tmp_path / "images"), "--out", str(tmp_path / "poisoned"), "--set", "fraction=0.1", "--json"]
    told = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["poisoned"] == 60
    assert Splits.load(tmp_path / "poisoned").record["poison"]["fraction"] == 0.1
