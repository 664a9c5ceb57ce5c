import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.measures.diversity import prdc


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_a_line_of_points_computed_by_hand():
    """Private 0, 1, 3 have balls (k = 1) of radius 1, 1, 2; rebuilt 1.5, 2, 9 have 0.5, 0.5, 7."""
    found = prdc(column(1.5, 2, 9), column(0, 1, 3), 1)
    assert found.precision == pytest.approx(2 / 3)  # all but 9
    assert found.recall == pytest.approx(2 / 3)  # 1 is 0.5 from 1.5, 3 is 6 from 9; 0 is in none
    assert found.density == pytest.approx(4 / 3)  # 1.5 and 2 are each in the balls of 1 and 3
    assert found.coverage == pytest.approx(2 / 3)  # nothing is in the ball of 0


def by_definition(rebuilt, private, k):
    """Each of the four as a sum over pairs, written from the formulas."""

    def distance(a, b):
        return float((a - b).square().sum().sqrt())

    def radius(of, index):
        others = [distance(of[index], each) for place, each in enumerate(of) if place != index]
        return sorted(others)[k - 1]

    balls = [(x, radius(private, i)) for i, x in enumerate(private)]
    their = [(y, radius(rebuilt, j)) for j, y in enumerate(rebuilt)]
    inside = [[distance(x, y) <= r for x, r in balls] for y in rebuilt]
    precision = sum(any(row) for row in inside) / len(rebuilt)
    recall = sum(any(distance(x, y) <= r for y, r in their) for x in private) / len(private)
    density = sum(sum(row) for row in inside) / (k * len(rebuilt))
    coverage = sum(any(row[i] for row in inside) for i in range(len(private))) / len(private)
    return precision, recall, density, coverage


@settings(max_examples=40)
@given(st.integers(4, 9), st.integers(4, 9), st.integers(1, 3), st.integers(0, 2**32))
def test_it_equals_the_formulas(m, n, k, seed):
    draw = torch.Generator().manual_seed(seed)
    rebuilt, private = (torch.randn(count, 2, generator=draw, dtype=torch.float64) for count in (m, n))
    found = prdc(rebuilt, private, k)
    expected = by_definition(rebuilt, private, k)
    assert tuple(found.document().values()) == pytest.approx(expected)


def test_the_same_images_are_precise_and_cover_everything():
    images = torch.rand(30, 5)
    found = prdc(images, images, 3)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density >= 1


def test_images_of_another_kind_are_neither():
    assert set(prdc(torch.rand(9, 2) + 10, torch.rand(9, 2), 2).document().values()) == {0}


def test_one_image_over_and_over_is_precise_and_covers_little():
    private = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    found = prdc(private[:1].expand(20, 3), private, 1)
    assert found.precision == 1
    assert found.recall == pytest.approx(1 / 40)
    assert found.coverage <= 0.1


@pytest.mark.parametrize(("m", "n", "k"), [(3, 9, 3), (9, 3, 3), (9, 9, 0)])
def test_too_few_images_for_the_neighbour_are_refused(m, n, k):
    with pytest.raises(ValueError, match=f"expected more than k = {k} images of each set, got {m} and {n}"):
        prdc(torch.rand(m, 2), torch.rand(n, 2), k)


def test_features_of_two_spaces_are_refused():
    with pytest.raises(ValueError, match="expected features"):
        prdc(torch.rand(5, 2), torch.rand(5, 3), 1)
