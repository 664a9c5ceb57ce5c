import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from splitleak.models.grids import (
    Crop,
    Resample,
    ToGrid,
    TokenMap,
    VectorMap,
    channels_last,
    check_parts,
    grid,
    spacing_of,
    to_map,
    token_grid,
    unpacked,
)

COLOUR = (3, 224, 224)


def weights(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("tokens", "image", "found"),
    [
        (196, COLOUR, (0, (14, 14))),
        (197, COLOUR, (1, (14, 14))),
        (198, COLOUR, (2, (14, 14))),
        (201, COLOUR, (5, (14, 14))),
        (50, COLOUR, (1, (7, 7))),
        (141, (3, 224, 160), (1, (14, 10))),
        (240, (3, 48, 320), (0, (6, 40))),
        (13, (3, 20, 28), (1, (3, 4))),
        (4, (3, 8, 8), (0, (2, 2))),
        (23, (3, 32, 32), None),
    ],
)
def test_tokens_lie_as_the_picture_does_behind_their_extra_ones(tokens, image, found):
    assert token_grid(tokens, image) == found


def test_tokens_keep_their_places_and_the_class_token_reaches_all_of_them():
    tokens = torch.randn(2, 5, 3)
    laid = TokenMap((5, 3), (1, 8, 8))
    assert laid.map_shape == (6, 2, 2)
    assert torch.equal(laid(tokens)[:, :3], tokens[:, 1:].transpose(1, 2).reshape(2, 3, 2, 2))
    assert torch.equal(laid(tokens)[:, 3:], tokens[:, 0, :, None, None].expand(2, 3, 2, 2))
    assert torch.equal(TokenMap((4, 3), (1, 8, 8))(tokens[:, :4])[0, :, 1, 0], tokens[0, 2])


def test_tokens_that_lie_on_no_grid_are_mapped_to_one():
    learned = TokenMap((23, 6), (3, 32, 32))
    assert learned.map_shape == (6, 4, 4)
    assert learned(torch.randn(2, 23, 6)).shape == (2, 6, 4, 4)


@pytest.mark.parametrize("values", [1, 37, 512, 4096, 150_528])
@pytest.mark.parametrize("image", [COLOUR, (1, 16, 16), (3, 20, 28), (3, 48, 320)])
def test_a_vector_is_spread_over_a_small_grid_by_few_weights(values, image):
    spread = VectorMap(values, image, 128)
    assert spread.map_shape[1] * spread.map_shape[2] <= 64
    assert weights(spread) <= 4_050_000
    assert spread(torch.randn(2, values)).shape == (2, *spread.map_shape)


@pytest.mark.parametrize(
    ("shape", "image", "last"),
    [
        ((56, 56, 96), COLOUR, True),
        ((96, 56, 56), COLOUR, False),
        ((56, 56, 64), COLOUR, True),
        ((8, 8, 10), (3, 32, 32), True),
        ((8, 8, 8), (3, 32, 32), False),
        ((10, 8, 8), (3, 32, 32), False),
        ((6, 80, 64), (3, 48, 320), True),
        ((64, 6, 80), (3, 48, 320), False),
        ((512, 1, 26), (1, 32, 100), False),
        ((8, 6, 5), (3, 62, 47), False),
        ((6, 5, 32), (3, 62, 47), True),
        ((8, 7, 5), (3, 20, 28), False),
        ((2, 3, 4), (3, 48, 320), False),
    ],
)
def test_where_a_maps_channels_are_is_told_from_the_picture(shape, image, last):
    assert channels_last(shape, image[1:]) is last
    made = to_map(shape, image, 8)
    features = torch.randn(2, *shape)
    assert torch.equal(made(features), features.permute(0, 3, 1, 2) if last else features)
    assert made(features).shape == (2, *made.map_shape)


def test_tokens_of_which_the_last_axis_alone_is_a_grid_are_turned():
    tokens = torch.randn(2, 7, 16)
    turned, as_they_are = TokenMap((7, 16), (1, 8, 8)), TokenMap((16, 7), (1, 8, 8))
    assert turned.map_shape == (7, 4, 4)
    assert torch.equal(turned(tokens), as_they_are(tokens.transpose(1, 2)))
    assert TokenMap((16, 4), (1, 8, 8)).map_shape == (4, 4, 4)
    assert TokenMap((23, 6), (3, 32, 32)).map_shape == (6, 4, 4)


def test_axes_before_a_map_are_channels():
    features = torch.randn(2, 3, 2, 4, 5)
    folded = to_map((3, 2, 4, 5), (1, 8, 10), 8)
    assert folded.map_shape == (6, 4, 5)
    assert torch.equal(folded(features), features.reshape(2, 6, 4, 5))


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 1, 6), (3, 2, 1, 1), (1, 6)])
def test_what_lies_at_a_single_place_is_a_vector(shape):
    torch.manual_seed(0)
    made = to_map(shape, (1, 8, 10), 8)
    torch.manual_seed(0)
    vector = to_map((6,), (1, 8, 10), 8)
    features = torch.randn(4, 6)
    assert torch.equal(made(features.view(4, *shape)), vector(features))
    assert made(features.view(4, *shape)).shape == (4, *made.map_shape)


@pytest.mark.parametrize("shape", [(), (1, 0, 3, 4), (0,), (3, 0), (3, 0, 2)])
def test_features_without_axes_or_values_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected features \(c, h, w\), \(n, d\) or \(d,\), got \("):
        to_map(shape, COLOUR, 8)


@pytest.mark.parametrize(
    ("shape", "image", "spacing", "doubled"),
    [
        ((64, 56, 56), COLOUR, 4, 4),
        ((64, 57, 55), COLOUR, 4, 4),
        ((8, 7, 5), (3, 20, 28), 4, 4),
        ((8, 6, 40), (3, 48, 320), 8, 8),
        ((3, 400, 300), COLOUR, 1, 1),
        ((9, 1, 1), (1, 32, 32), 32, 32),
        ((9, 4, 4), (3, 56, 56), 14, 16),
        ((9, 4, 8), (3, 20, 40), 5, 4),
        ((9, 4, 4), (3, 20, 24), 4, 4),
        ((9, 2, 2), (3, 74, 74), 32, 32),
    ],
)
def test_positions_are_as_far_apart_as_those_of_the_map(shape, image, spacing, doubled):
    assert spacing_of(shape, image) == spacing
    assert spacing_of(shape, image, doubled=True) == doubled


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    image=st.tuples(st.just(1), st.integers(1, 40), st.integers(1, 40)),
    spacing=st.integers(1, 16),
)
def test_any_map_is_brought_to_any_grid_and_a_constant_stays_one(shape, image, spacing):
    resample = Resample(shape, image, spacing)
    constant = resample(torch.full((2, *shape), 0.7))
    assert constant.shape == (2, *resample.map_shape)
    assert resample.map_shape[1:] == grid(image, spacing)
    torch.testing.assert_close(constant, torch.full_like(constant, 0.7))


def test_a_map_that_fits_is_as_it_was_and_one_twice_as_fine_becomes_channels():
    features = torch.randn(2, 3, 8, 12)
    assert Resample((3, 8, 12), (3, 16, 24), 2)(features) is features
    folded = Resample((3, 8, 12), (3, 16, 24), 4)(features)
    assert torch.equal(folded, nn.functional.pixel_unshuffle(features, 2))


def test_a_finer_map_loses_nothing():
    shape, features = (1, 11, 9), torch.eye(99).reshape(99, 1, 11, 9)
    seen = Resample(shape, (3, 16, 16), 2)(features).flatten(1)
    assert torch.linalg.matrix_rank(seen) == 99


def test_places_are_those_in_the_picture():
    ramp = (torch.arange(12) + 0.5) / 12
    rows = Resample((1, 12, 1), (1, 50, 1), 4)(ramp.view(1, 1, 12, 1)).flatten()
    torch.testing.assert_close(rows[1:-1], ((torch.arange(13) + 0.5) * 4 / 50)[1:-1])


def test_several_tensors_come_to_one_grid_side_by_side():
    parts = ((4, 5, 7), (24,), (13, 6), (3, 10, 14))
    to_grid = ToGrid(parts, (3, 20, 28), width=5)
    tensors = [torch.randn(2, *shape) for shape in parts]
    packed = torch.cat([tensor.flatten(1) for tensor in tensors], 1)
    assert all(map(torch.equal, unpacked(packed, parts), tensors))
    together = to_grid(packed)
    assert together.shape == (2, *to_grid.map_shape)
    assert to_grid.map_shape == (4 + 5 + 2 * 6 + 3, *grid((3, 20, 28), to_grid.spacing))
    check_parts((packed.shape[1],), parts)
    with pytest.raises(ValueError, match=r"expected features \(662,\), which pack .*, got \(9,\)"):
        check_parts((9,), parts)


def test_a_picture_is_cut_at_the_bottom_and_the_right():
    pictures = torch.randn(2, 3, 8, 9)
    assert torch.equal(Crop((3, 7, 5))(pictures), pictures[:, :, :7, :5])
