import pytest
import torch

from splitleak.measures.linkage.refinding import (
    VIEWS,
    aligned,
    brighter,
    found_again,
    moved,
    nearest,
    unordered,
    views,
)


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
    assert (found_again(gallery, gallery) == 1).all()
    assert (found_again(gallery + 0.001 * torch.randn(400, 20, generator=draw), gallery) == 1).all()
    chance = found_again(torch.rand(400, 20, generator=draw) + 100, gallery)
    assert chance.double().mean() < 0.02


def test_features_that_are_alike_for_all_find_their_picture_by_chance():
    assert found_again(torch.ones(5, 3), torch.ones(5, 3)).tolist() == pytest.approx([1 / 5] * 5)


def test_of_entries_that_are_equally_near_one_is_guessed():
    draw = torch.Generator().manual_seed(3)
    pairs = (100 * torch.rand(40, 30, generator=draw)).repeat_interleave(2, 0)
    assert found_again(pairs, pairs).tolist() == [1 / 2] * 80
    bits = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    probes = torch.tensor([[0.0, 0], [0.5, 1], [0.5, 0.5], [0, 0]])  # exact, one of two, one of four, another's
    assert found_again(probes, bits).tolist() == [1, 1 / 2, 1 / 4, 0]


def test_pictures_that_differ_little_beside_others_are_not_taken_for_ties():
    gallery = torch.tensor([[0.0, 0], [0, 1], [1e4, 0]])
    assert found_again(gallery, gallery).tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [(60, 16, 5, 5), (60, 16, 25), (60, 16)])
def test_channels_are_put_back_where_their_means_are(shape):
    draw = torch.Generator().manual_seed(4)
    gallery = torch.rand(shape, generator=draw) + 3 * torch.rand(shape[1:], generator=draw)
    order = torch.randperm(16, generator=draw)
    assert torch.equal(aligned(gallery[:, order], gallery), gallery)
    assert torch.equal(aligned(gallery, gallery), gallery)


def test_channels_are_matched_through_noise_that_breaks_sorting_over_them():
    draw = torch.Generator().manual_seed(5)
    clean = torch.sigmoid(1.5 * torch.randn(150, 8, 4, 4, generator=draw) + torch.randn(8, 4, 4, generator=draw))

    def session():
        noisy = clean + 0.2 * torch.randn(clean.shape, generator=draw)
        return noisy[:, torch.randperm(8, generator=draw)]

    gallery, probes = session(), session()
    by_order = float(found_again(unordered(probes), unordered(gallery)).mean())
    assert float(found_again(probes, gallery).mean()) < 0.1
    assert float(found_again(aligned(probes, gallery), gallery).mean()) > max(0.9, by_order + 0.2)


def test_a_number_that_is_sent_along_is_not_matched_with_a_channel():
    draw = torch.Generator().manual_seed(6)
    features = torch.rand(30, 4, 3, 3, generator=draw) + torch.rand(4, 3, 3, generator=draw)
    gallery, probes = (torch.cat([features, torch.full((30, 1, 3, 3), number)], 1) for number in (0.0, 1.0))
    assert torch.equal(aligned(probes, gallery)[:, :-1], features)
