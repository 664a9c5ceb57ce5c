import pytest
import torch

from splitleak.measures.linkage.refinding import VIEWS, brighter, found_again, moved, nearest, views


def pictures(count=5):
    return torch.rand(count, 2, 6, 8, generator=torch.Generator().manual_seed(0))


def test_the_views_are_pictures_of_the_same_shape_and_range():
    images = pictures()
    shown = views(images)
    assert tuple(shown) == VIEWS
    assert all(view.shape == images.shape and view.min() >= 0 and view.max() <= 1 for view in shown.values())
    torch.testing.assert_close(shown["same"], images)
    torch.testing.assert_close(shown["mirrored"].flip(-1), images)
    torch.testing.assert_close(shown["brighter"], (images * 1.1).clamp(0, 1))
    torch.testing.assert_close(shown["moved"][..., 1:], images[..., :-1])


@pytest.mark.parametrize(("right", "down"), [(2, 0), (-2, 0), (0, 1), (0, -1), (1, -2), (0, 0)])
def test_a_picture_moves_as_it_is_told_and_its_border_is_repeated(right, down):
    images = pictures()
    found = moved(images, right, down)
    for row in range(6):
        for column in range(8):
            before = images[:, :, min(max(row - down, 0), 5), min(max(column - right, 0), 7)]
            assert torch.equal(found[:, :, row, column], before)


def test_brighter_pixels_stay_in_range():
    assert brighter(torch.tensor([0.5, 0.95]), 1.1).tolist() == pytest.approx([0.55, 1])


def test_the_nearest_is_that_of_all_distances():
    draw = torch.Generator().manual_seed(1)
    probes, gallery = torch.rand(40, 3, 2, generator=draw), torch.rand(60, 3, 2, generator=draw)
    apart = (probes.flatten(1)[:, None] - gallery.flatten(1)).square().sum(2)
    assert torch.equal(nearest(probes, gallery), apart.argmin(1))


def test_a_feature_of_the_picture_finds_it_and_noise_finds_it_by_chance():
    draw = torch.Generator().manual_seed(2)
    gallery = 100 + torch.rand(400, 20, generator=draw)
    assert found_again(gallery, gallery).all()
    assert found_again(gallery + 0.001 * torch.randn(400, 20, generator=draw), gallery).all()
    chance = found_again(torch.rand(400, 20, generator=draw) + 100, gallery)
    assert chance.double().mean() < 0.02


def test_features_that_are_alike_for_all_find_nobody():
    assert not found_again(torch.ones(5, 3), torch.ones(5, 3)).any()
