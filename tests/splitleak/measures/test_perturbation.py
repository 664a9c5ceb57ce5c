import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from splitleak.measures.perturbation import bim, fgsm, one_pixel, pgd

EPSILON = 8 / 255


@pytest.fixture(scope="module")
def trained(small_splits):
    """A softmax regression on small images, and some of them."""
    torch.manual_seed(0)
    images, labels = small_splits.train.floats(), small_splits.train.labels
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval(), images[:60], labels[:60]


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def error(model, images, labels):
    return float((model(images).argmax(1) != labels).float().mean())


@settings(max_examples=25)
@given(st.floats(0, 0.5), st.floats(1e-3, 0.5), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
def test_images_stay_near_and_in_range(epsilon, step, steps, targeted, seed):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = torch.rand(4, 3, 2, 2, generator=draw(seed))
    labels = torch.tensor([0, 1, 2, 0])
    for found in (
        fgsm(model, images, labels, epsilon, targeted=targeted),
        bim(model, images, labels, epsilon, step=step, steps=steps, targeted=targeted),
        pgd(model, images, labels, epsilon, step=step, steps=steps, targeted=targeted, draw=draw(seed)),
    ):
        assert float((found - images).abs().max()) <= epsilon + 1e-6
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert not found.requires_grad


def test_one_step_of_all_of_epsilon_is_the_fast_gradient_sign(trained):
    model, images, labels = trained
    once = bim(model, images, labels, EPSILON, step=EPSILON, steps=1)
    assert torch.equal(once, fgsm(model, images, labels, EPSILON))
    moved = images.clone().requires_grad_()
    functional.cross_entropy(model(moved), labels).backward()
    torch.testing.assert_close(once, (images + EPSILON * moved.grad.sign()).clamp(0, 1))


def test_epsilon_zero_changes_nothing(trained):
    model, images, labels = trained
    assert torch.equal(pgd(model, images, labels, 0, step=0.01, steps=3, draw=draw()), images)


def test_more_steps_make_more_errors_and_targets_are_reached(trained):
    model, images, labels = trained
    settings = {"step": 2 / 255, "steps": 10}
    errors = [
        error(model, images, labels),
        error(model, fgsm(model, images, labels, EPSILON), labels),
        error(model, pgd(model, images, labels, EPSILON, draw=draw(), **settings), labels),
    ]
    assert errors[0] < 0.4
    assert errors[1] > errors[0] + 0.1
    assert errors[2] >= errors[1] - 0.05
    wanted = (labels + 1) % 10
    before = 1 - error(model, images, wanted)
    after = 1 - error(model, bim(model, images, wanted, 4 * EPSILON, step=EPSILON, steps=10, targeted=True), wanted)
    assert after > before + 0.3


def test_one_pixel_is_changed_and_the_image_is_never_easier(trained):
    model, images, labels = trained
    found = one_pixel(model, images, labels, population=10, generations=10, draw=draw())
    changed = (found != images).any(1).flatten(1).sum(1)
    assert int(changed.max()) == 1
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    with torch.no_grad():
        before, after = (functional.cross_entropy(model(each), labels, reduction="none") for each in (images, found))
    assert float((after > before).float().mean()) > 0.95


class Sensitive(nn.Module):
    """Class 1 where the pixel at (2, 1) is red enough, class 0 elsewhere."""

    def forward(self, images):
        return torch.stack([torch.full((len(images),), 0.5), images[:, 0, 2, 1]], 1)


def test_evolution_finds_the_pixel_that_matters():
    images, labels = torch.zeros(8, 3, 4, 4), torch.zeros(8, dtype=torch.int64)
    found = one_pixel(Sensitive(), images, labels, population=30, generations=30, draw=draw())
    assert float((Sensitive()(found).argmax(1) == 1).float().mean()) > 0.8
    towards = one_pixel(Sensitive(), images, labels + 1, population=30, generations=30, draw=draw(), targeted=True)
    assert torch.equal(towards, found)


def test_the_search_repeats_under_one_seed(trained):
    model, images, labels = trained
    made = [one_pixel(model, images, labels, population=5, generations=2, draw=draw(seed)) for seed in (3, 3, 4)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_three_others_are_needed(trained):
    with pytest.raises(ValueError, match="expected a population of at least 4, got 3"):
        one_pixel(*trained, population=3, generations=1, draw=draw())
