import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.attacker.training.augmentation import CropsConfig, DifferentiableConfig, augmented, random_crops


def draw():
    return torch.Generator().manual_seed(0)


def test_a_view_of_the_whole_area_is_the_image():
    images = torch.rand(3, 1, 8, 8)
    assert torch.allclose(random_crops(images, CropsConfig(least=1), draw()), images, atol=1e-6)


def test_a_mirrored_view_of_the_whole_area_is_the_image_or_its_mirror():
    images = torch.rand(1, 1, 8, 8).expand(16, -1, -1, -1)
    views = random_crops(images, CropsConfig(least=1, mirror=True), draw())
    kinds = [
        torch.allclose(view, images[0], atol=1e-6) + 2 * torch.allclose(view, images[0].flip(2), atol=1e-6)
        for view in views
    ]
    assert set(kinds) == {1, 2}


@given(least=st.floats(0.1, 1), ratio=st.floats(1, 2), mirror=st.booleans(), size=st.integers(4, 12))
def test_no_view_has_a_value_that_its_image_has_not(least, ratio, mirror, size):
    images = torch.rand(4, 3, size, size + 1)
    views = random_crops(images, CropsConfig(least=least, ratio=ratio, mirror=mirror), draw())
    assert views.shape == images.shape
    assert (views.flatten(1).amin(1) >= images.flatten(1).amin(1) - 1e-6).all()
    assert (views.flatten(1).amax(1) <= images.flatten(1).amax(1) + 1e-6).all()


def test_a_quarter_of_the_area_is_half_of_each_side():
    ramp = torch.arange(16.0).expand(64, 1, 16, 16)
    views = random_crops(ramp, CropsConfig(least=0.25, most=0.25), draw())
    spans = (views.amax(3) - views.amin(3)).flatten()
    assert ((spans - 7.5).abs() < 0.51).all()  # half a pixel where a view touches the edge
    assert views[:, 0, 0, 0].std() > 1


@pytest.mark.parametrize("width", [33, 101])
def test_a_rotated_view_is_the_image_turned_by_no_more_than_the_angle(width):
    shades = torch.zeros(64, 1, 33, width)
    shades[:, :, 16, width // 2 + 1 : width // 2 + 17] = 1.0  # a ray to the right
    views = random_crops(shades, CropsConfig(least=1, rotation=30), draw())
    high, wide = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(float(width)) - width // 2, indexing="ij")
    weights = views[:, 0] / views[:, 0].sum((1, 2), keepdim=True)
    angles = torch.atan2((weights * high).sum((1, 2)), (weights * wide).sum((1, 2))).rad2deg()
    assert angles.abs().max() < 31
    assert angles.std() == pytest.approx(30 / 3**0.5, rel=0.2)
    assert torch.allclose(random_crops(shades, CropsConfig(least=1), draw()), shades, atol=1e-6)


def test_jitter_changes_brightness_and_contrast_of_every_other_view():
    images = 0.3 + 0.2 * torch.rand(400, 3, 4, 4)
    views = random_crops(images, CropsConfig(least=1, jitter=0.2), draw())
    changed = ~torch.isclose(views, images, atol=1e-5).flatten(1).all(1)
    assert changed.float().mean() == pytest.approx(0.5, abs=0.1)
    brighter, wider = (of(views) / of(images) for of in (lambda x: x.mean((1, 2, 3)), lambda x: x.std((1, 2, 3))))
    assert 0.79 < brighter.min() < 0.83
    assert 1.17 < brighter.max() < 1.21
    contrast = wider / brighter
    assert 0.79 < contrast.min() < 0.83
    assert 1.17 < contrast.max() < 1.21
    extreme = random_crops(torch.rand(8, 1, 4, 4).round(), CropsConfig(jitter=0.9), draw())
    assert extreme.min() >= 0
    assert extreme.max() <= 1


def test_settings_that_came_later_are_in_no_document_that_does_not_use_them():
    assert set(CropsConfig().document()) == {"count", "least", "most", "ratio", "mirror"}
    assert CropsConfig(rotation=5).document()["rotation"] == 5


def test_gradients_reach_the_pixels():
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    random_crops(images, CropsConfig(), draw()).sum().backward()
    assert (images.grad > 0).any()


def test_a_least_share_above_the_greatest_is_refused():
    with pytest.raises(ValueError, match="expected the least share to be at most the greatest"):
        CropsConfig(least=0.9, most=0.5)


def test_what_a_critic_sees_is_changed_anew_and_has_a_gradient():
    images = torch.rand(8, 1, 16, 16, requires_grad=True)
    stream = draw()
    first, second = (augmented(images, DifferentiableConfig(), stream) for _ in range(2))
    assert first.shape == images.shape
    assert not torch.equal(first, second)
    assert torch.equal(augmented(images, DifferentiableConfig(), draw()), first)
    (slope,) = torch.autograd.grad(first.sum(), images)
    assert (slope != 0).flatten(1).any(1).all()


def test_without_any_change_a_critic_sees_the_image():
    images, none = torch.rand(4, 3, 8, 8), DifferentiableConfig(shift=0, cut=0, brightness=0, contrast=0)
    assert torch.allclose(augmented(images, none, draw()), images, atol=1e-6)


def test_a_cut_blanks_a_square_and_a_shift_moves_by_whole_pixels():
    images, still = torch.rand(16, 1, 8, 8) + 0.5, {"shift": 0, "cut": 0, "brightness": 0, "contrast": 0}
    cut = augmented(images, DifferentiableConfig(**{**still, "cut": 0.5}), draw())
    assert (cut[cut != 0] == images[cut != 0]).all()
    assert ((cut == 0).flatten(1).sum(1) <= 16).all()
    moved = augmented(images, DifferentiableConfig(**{**still, "shift": 0.25}), draw())
    assert torch.isin(moved[moved != 0], images).all()
