import pytest
import torch
from torch.nn import functional

from splitleak.config import PRESETS
from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, split
from splitleak.defenses.features.cem import reference_weight
from splitleak.defenses.training import (
    AugmentConfig,
    TargetConfig,
    TrainingConfig,
    assemble,
    augmented,
    train,
    training_step,
)
from splitleak.models.split import ModelConfig

CPU = torch.device("cpu")
WHOLE_STACK = ("bottleneck", "gaussian-noise", {"name": "cem", "weight": 1})


def weights(target):
    return {**target.model.state_dict(), **{f"stack.{key}": t for key, t in target.stack.state_dict().items()}}


def same(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[key], others[key]) for key in some)


@pytest.mark.slow
def test_a_target_learns_far_beyond_chance(small_target, small_splits):
    target = train(small_target("bottleneck", "gaussian-noise", "cem", epochs=10), small_splits, device=CPU)
    chance = 1 / len(small_splits.train.classes)
    assert target.record["accuracy"] > 5 * chance
    assert target.record["history"][-1]["loss"] < target.record["history"][0]["loss"] / 2
    assert not target.model.training
    assert not target.stack.training


@pytest.mark.slow
def test_one_seed_gives_one_set_of_weights_and_another_seed_others(small_target, small_splits):
    first, again, other = (
        weights(train(small_target(*WHOLE_STACK, seed=seed), small_splits, device=CPU)) for seed in (3, 3, 4)
    )
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"milestones": (1,)}, r"expected milestones of the schedule 'steps' alone, got \[1\] of 'cosine'"),
        ({"factor": 0.5}, "expected a factor of the schedule 'steps' alone, got one of 'cosine'"),
        (
            TrainingConfig.paper().model_copy(update={"epochs": 100}).document(),
            r"up to epoch 99, got \[120, 180, 210\]",
        ),
    ],
)
def test_steps_that_the_learning_rate_does_not_take_are_refused(small_target, small_splits, settings, message):
    """A shortened recipe of the paper would be trained at its first rate to the end."""
    with pytest.raises(ValueError, match=message):
        train(small_target(**settings), small_splits, device=CPU)


def test_a_training_leaves_torchs_own_randomness_alone(small_target, small_splits):
    before = torch.get_rng_state()
    train(small_target(*WHOLE_STACK, "dropout", epochs=1), small_splits, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(
    small_target, small_splits, tmp_path, killed
):
    config = small_target(*WHOLE_STACK, "dropout", epochs=4)
    checkpoint = tmp_path / "checkpoint"
    for epoch in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train(config, small_splits, device=CPU, checkpoint=checkpoint, report=killed(epoch))
    heard = []
    resumed = train(config, small_splits, device=CPU, checkpoint=checkpoint, report=lambda *said: heard.append(said[1]))
    assert heard == [3, 4]
    assert not checkpoint.exists()
    whole = train(config, small_splits, device=CPU)
    assert same(weights(resumed), weights(whole))
    assert resumed.record == whole.record


def test_a_network_with_dropout_resumes_bit_for_bit(tmp_path, killed):
    counts = SplitConfig(train=96, public=10, victims=10, test=20)
    splits = split(load("builtin").fitted(32, 1), counts)
    model = ModelConfig(architecture="vgg11", width=1 / 16, channels=1, size=32, classes=10)  # it has dropout
    config = TargetConfig(model=model, training=TrainingConfig(epochs=2, batch_size=32))
    with pytest.raises(KeyboardInterrupt):
        train(config, splits, device=CPU, checkpoint=tmp_path / "c", report=killed(2))
    torch.rand(7)
    resumed = train(config, splits, device=CPU, checkpoint=tmp_path / "c")
    assert same(weights(resumed), weights(train(config, splits, device=CPU)))


def test_the_checkpoint_of_another_config_is_not_taken_up(small_target, small_splits, tmp_path, killed):
    with pytest.raises(KeyboardInterrupt):
        train(small_target(), small_splits, device=CPU, checkpoint=tmp_path / "c", report=killed(2))
    other = small_target(seed=1)
    resumed = train(other, small_splits, device=CPU, checkpoint=tmp_path / "c")
    assert same(weights(resumed), weights(train(other, small_splits, device=CPU)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 32}, r"expected images \(1, 32, 32\), got \(1, 16, 16\)"),
        ({"channels": 3}, r"expected images \(3, 16, 16\), got \(1, 16, 16\)"),
        ({"classes": 7}, r"expected 7 classes, got \d+"),
    ],
)
def test_images_that_do_not_fit_the_model_are_refused(small_target, small_splits, change, message):
    config = small_target()
    config = config.model_copy(update={"model": config.model.model_copy(update=change)})
    with pytest.raises(ValueError, match=message):
        train(config, small_splits, device=CPU)


def test_a_loss_that_explodes_is_an_error(small_target, small_splits):
    with pytest.raises(FloatingPointError, match=r"expected a finite loss, got .* in epoch"):
        train(small_target(learning_rate=1e30, epochs=1), small_splits, device=CPU)


def test_a_defense_changes_no_initial_weight_of_the_network_it_protects(small_target):
    plain, _ = assemble(small_target(), "builtin")
    protected, _ = assemble(small_target("bottleneck", "gaussian-noise", "cem"), "builtin")
    assert same(plain.encoder.state_dict(), protected.encoder[0].state_dict())
    assert same(plain.head.state_dict(), protected.head[-1].state_dict())


def test_the_paper_schedule_has_the_published_rates_and_cems_weights_at_them():
    paper = TrainingConfig.paper()
    spans = ((2, 60), (60, 120), (120, 180), (180, 210), (210, 240))
    published = ((0.05, 0.32), (0.01, 1.6), (0.002, 8), (4e-4, 16), (8e-5, 16))
    for (start, end), (rate, weight) in zip(spans, published, strict=True):
        found = [paper.rate(epoch) for epoch in (start, end - 0.01)]
        assert found == pytest.approx([rate, rate])
        assert [reference_weight(16, each) for each in found] == pytest.approx([weight, weight])


def test_the_cosine_schedule_warms_up_falls_and_is_never_zero():
    config = TrainingConfig(epochs=12, warmup_epochs=2, learning_rate=0.1)
    assert [config.rate(progress) for progress in (0.5, 1, 2, 7)] == pytest.approx([0.025, 0.05, 0.1, 0.05])
    rates = [config.rate(2 + step / 10) for step in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert min(config.rate(0), rates[-1]) > 0


def test_the_short_recipe_is_one_cycle_of_the_learning_rate():
    fast = TrainingConfig.fast()
    rates = [fast.rate(step / 10) for step in range(10 * fast.epochs + 1)]
    top = 10 * fast.warmup_epochs
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[top] == fast.learning_rate
    assert 0 < rates[-1] < fast.learning_rate / 500
    assert fast.rate((fast.epochs + fast.warmup_epochs) / 2) == pytest.approx(fast.learning_rate / 2)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_a_training_no_longer_than_its_warm_up_rises_in_its_first_half_and_falls_in_the_other(schedule):
    short = TrainingConfig(epochs=5, warmup_epochs=5, schedule=schedule)
    assert short.rate(2.5) == short.learning_rate
    assert [short.rate(1.25), short.rate(3.75)] == pytest.approx([short.learning_rate / 2] * 2)
    assert 0 < short.rate(5) < short.learning_rate / 500


def test_a_preset_is_a_training_and_any_other_name_the_default():
    presets = {name: TrainingConfig.of_preset(name) for name in PRESETS}
    assert presets == {"cpu": TrainingConfig(), "paper": TrainingConfig.paper(), "fast": TrainingConfig.fast()}


def test_settings_that_came_later_are_in_a_document_only_where_they_are_used():
    assert not {"label_smoothing", "precision"} & set(TrainingConfig().document())
    fast = TrainingConfig.fast().document()
    assert (fast["label_smoothing"], fast["precision"]) == (0.1, "bfloat16")
    assert TrainingConfig.parse(fast, source="test") == TrainingConfig.fast()


def test_labels_are_smoothed_and_a_cpu_built_for_it_computes_in_bfloat16_where_that_is_asked(small_target, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    model, stack = assemble(small_target(), "builtin")
    model.eval()
    images, labels = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    seen, losses = [], []
    model.encoder.register_forward_hook(lambda module, given, features: seen.append(features.dtype))
    for settings in ({}, {"label_smoothing": 0.4}, {"precision": "bfloat16"}):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        given = {"epoch": 0, "rate": 0.0, "config": TrainingConfig(**settings)}
        losses.append(training_step(model, stack, optimizer, images, labels, **given)[0])
    assert seen == [torch.float32, torch.float32, torch.bfloat16]
    logits = model(images)
    expected = [functional.cross_entropy(logits, labels, label_smoothing=smoothing) for smoothing in (0, 0.4)]
    torch.testing.assert_close(torch.stack(losses[:2]), torch.stack(expected).detach())
    torch.testing.assert_close(losses[2], losses[0], rtol=0.02, atol=0)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(64, 3, 9, 7, generator=drawn(1))


def test_augmentation_that_is_switched_off_changes_nothing():
    assert torch.equal(augmented(IMAGES, AugmentConfig(flip=False), drawn()), IMAGES)


def test_a_flip_mirrors_about_every_other_image_and_no_more():
    flipped = augmented(IMAGES, AugmentConfig(), drawn())
    mirrored = [torch.equal(after, before.flip(2)) for after, before in zip(flipped, IMAGES, strict=True)]
    kept = [torch.equal(after, before) for after, before in zip(flipped, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_a_crop_is_a_window_of_the_padded_image_and_all_windows_occur():
    images = torch.rand(400, 1, 5, 4, generator=drawn(1))
    cropped = augmented(images, AugmentConfig(flip=False, crop_padding=1), drawn())
    found = set()
    for after, before in zip(cropped, images, strict=True):
        padded = functional.pad(before, [1] * 4)
        windows = {(y, x): padded[:, y : y + 5, x : x + 4] for y in range(3) for x in range(3)}
        (place,) = (place for place, window in windows.items() if torch.equal(window, after))
        found.add(place)
    assert len(found) == 9


def rotated_slowly(image, angle):
    """Bilinear sampling at the rotated place of every pixel, zeros outside, pixel by pixel."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = row - (height - 1) / 2, column - (width - 1) / 2
            source_x = angle.cos() * x - angle.sin() * y + (width - 1) / 2
            source_y = angle.sin() * x + angle.cos() * y + (height - 1) / 2
            for near_y in (int(source_y.floor()), int(source_y.floor()) + 1):
                for near_x in (int(source_x.floor()), int(source_x.floor()) + 1):
                    if 0 <= near_y < height and 0 <= near_x < width:
                        share = (1 - (source_y - near_y).abs()) * (1 - (source_x - near_x).abs())
                        result[:, row, column] += share * image[:, near_y, near_x]
    return result


@pytest.mark.parametrize("sides", [(7, 7), (5, 12)])
def test_a_rotation_turns_each_image_by_an_angle_of_its_own_within_the_range(sides):
    images = torch.rand(4, 2, *sides, generator=drawn(1))
    rotated = augmented(images, AugmentConfig(flip=False, rotation_degrees=30), drawn())
    angles = (2 * torch.rand(4, generator=drawn()) - 1) * torch.pi / 6
    assert len(set(angles.tolist())) == 4
    for after, before, angle in zip(rotated, images, angles, strict=True):
        torch.testing.assert_close(after, rotated_slowly(before, angle), rtol=1e-4, atol=1e-5)


def test_augmented_images_stay_in_range_and_repeat_under_one_seed():
    config = AugmentConfig(crop_padding=2, rotation_degrees=15)
    first = augmented(IMAGES, config, drawn(5))
    assert torch.equal(first, augmented(IMAGES, config, drawn(5)))
    assert not torch.equal(first, augmented(IMAGES, config, drawn(6)))
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_noise_on_the_labels_costs_accuracy_and_is_in_no_document_without(small_target, small_splits):
    clean, noisy = (
        train(small_target(epochs=3, label_noise=share), small_splits, device=CPU).record for share in (0, 0.9)
    )
    assert noisy["accuracy"] < clean["accuracy"] - 0.2
    assert "label_noise" not in TrainingConfig().document()
    assert TrainingConfig(label_noise=0.1).document()["label_noise"] == 0.1
