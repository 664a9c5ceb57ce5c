"""The grid that features lie on, told from their shapes."""

import pytest
import torch

from splitleak.attacker.training.layout import Layout


@pytest.mark.parametrize(
    ("shapes", "picture", "grids", "expected"),
    [
        ([(24, 56, 56)], (224, 224), (), (24, 56, 56, 0)),
        ([(56, 56, 24)], (224, 224), (), (24, 56, 56, 0)),
        ([(64, 6, 80)], (48, 320), (), (64, 6, 80, 0)),
        ([(8, 6, 5)], (62, 47), (), (8, 6, 5, 0)),
        ([(768, 196)], (224, 224), (), (768, 14, 14, 0)),
        ([(8, 16, 14, 14)], (224, 224), (), (128, 14, 14, 0)),
        ([(197, 768)], (224, 224), (), (768, 14, 14, 768)),
        ([(3, 120)], (48, 320), (), (120, 1, 3, 0)),
        ([(3, 120)], (320, 48), (), (120, 3, 1, 0)),
        ([(60, 120)], (48, 320), (), (120, 3, 20, 0)),
        ([(40, 120)], (48, 320), [(1, 40)], (120, 1, 40, 0)),
        ([(120, 480)], (48, 320), [(6, 80)], (120, 6, 80, 0)),
        ([(1280,)], (96, 96), (), (1280, 1, 1, 0)),
        ([(8, 4, 4), (5,), (2, 8, 8)], (16, 16), (), (15, 8, 8, 0)),
    ],
)
def test_a_layout_is_told_from_the_shapes(shapes, picture, grids, expected):
    layout = Layout(shapes, picture, grids)
    assert (layout.channels, layout.height, layout.width, layout.extra) == expected


def test_each_value_of_several_tensors_lands_in_its_place():
    layout = Layout([(2, 2, 2), (5, 3)], (4, 4))
    grid, extra = layout(torch.arange(23.0)[None])
    assert grid.shape == (1, 5, 2, 2)
    assert grid[0, :, 0, 1].tolist() == [1, 5, 14, 15, 16]
    assert extra.tolist() == [[8, 9, 10]]


def test_tokens_that_come_last_land_where_those_that_come_first_do():
    tokens = torch.randn(2, 16, 7)
    first, last = Layout([(16, 7)], (8, 8)), Layout([(7, 16)], (8, 8))
    assert torch.equal(last(tokens.transpose(1, 2))[0], first(tokens)[0])


def test_a_long_vector_is_sketched_so_that_inner_products_are_kept():
    layout = Layout([(100_000,)], (16, 16))
    vectors = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    vectors[1] += vectors[0]
    sketched = layout(vectors)[0].flatten(1)
    assert sketched.shape == (2, 8192)
    assert float(sketched[0] @ sketched[1]) == pytest.approx(float(vectors[0] @ vectors[1]), rel=0.05)
