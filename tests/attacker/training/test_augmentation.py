import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.attacker.training.augmentation import CropsConfig, random_crops


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


def test_gradients_reach_the_pixels():
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    random_crops(images, CropsConfig(), draw()).sum().backward()
    assert (images.grad > 0).any()


def test_a_least_share_above_the_greatest_is_refused():
    with pytest.raises(ValueError, match="expected the least share to be at most the greatest"):
        CropsConfig(least=0.9, most=0.5)
