import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.measures import dependence as module
from splitleak.measures.dependence import distance_correlation

LINE = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).double()
ALTERNATING = torch.tensor([[0.0], [1.0], [0.0], [1.0]]).double()


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_examples_hold():
    assert doctest.testmod(module).failed == 0


def test_the_known_values_of_four_points_are_met():
    assert float(distance_correlation(LINE, LINE)) == pytest.approx(1)
    assert float(distance_correlation(LINE, ALTERNATING)) == pytest.approx(0.52664, abs=5e-6)
    assert float(distance_correlation(LINE, ALTERNATING, squared=True)) == pytest.approx(0.44721, abs=5e-6)


def slow(x, y, power):
    """The definition, entry by entry."""

    def centred(rows):
        n = len(rows)
        d = [[math.dist(a, b) ** power for b in rows] for a in rows]
        row, column = [sum(line) / n for line in d], [sum(line) / n for line in zip(*d, strict=True)]
        return [[d[i][j] - row[i] - column[j] + sum(row) / n for j in range(n)] for i in range(n)]

    a, b = (np.array(centred(t.flatten(1).tolist())) for t in (x, y))
    return math.sqrt((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(3, 9), power=st.sampled_from([1, 2]))
def test_it_agrees_with_the_definition(seed, count, power):
    x, y = drawn(seed, count, 2, 3), drawn(seed + 1, count, 4)
    expected = slow(x, y, power)
    assert float(distance_correlation(x, y, squared=power == 2)) == pytest.approx(expected, rel=1e-9)
    single = distance_correlation(x.float(), y.float(), squared=power == 2)
    assert float(single) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_shifts_scales_and_orthogonal_maps_change_nothing(seed, scale, shift):
    x, y = drawn(seed, 8, 5), drawn(seed + 1, 8, 3)
    turn, _ = torch.linalg.qr(drawn(seed + 2, 5, 5))
    expected = distance_correlation(x, y)
    torch.testing.assert_close(distance_correlation(scale * x @ turn + shift, y), expected)
    torch.testing.assert_close(distance_correlation(y, -scale * x @ turn + shift), expected)


def test_the_gradient_is_that_of_the_value():
    x, y = drawn(0, 6, 4).requires_grad_(), drawn(1, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(distance_correlation, (x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("squared", [False, True])
def test_equal_rows_have_a_finite_gradient(dtype, squared):
    x = drawn(0, 6, 50).to(dtype)
    x = torch.cat([x, x, x[:1]]).requires_grad_()
    y = drawn(1, 13, 7).to(dtype)
    y[5] = y[4]
    y.requires_grad_()
    distance_correlation(x, y, squared=squared).backward()
    for batch in (x, y):
        assert bool(batch.grad.isfinite().all())
        assert float(batch.grad.abs().max()) < 1
        assert bool(batch.grad.any())


@pytest.mark.parametrize("count", [1, 5])
def test_a_constant_batch_depends_on_nothing_and_has_no_gradient(count):
    x, y = torch.full((count, 3), 0.1, requires_grad=True), drawn(0, count, 2).float().requires_grad_()
    value = distance_correlation(x, y)
    value.backward()
    assert float(value.detach()) == 0
    assert not x.grad.any()
    assert not y.grad.any()


def test_batches_of_different_length_are_refused():
    with pytest.raises(ValueError, match="expected batches of equal length, got 4 and 3"):
        distance_correlation(LINE, LINE[:3])
