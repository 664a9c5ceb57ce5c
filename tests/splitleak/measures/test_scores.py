"""Truncated scores are those of the paper, with ties and odd rows settled."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitleak.measures.scores import check_scores, log_rescale, truncate

ROW = torch.tensor([[0.6, 0.05, 0.06, 0.2, 0.09]])
SCORES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.integers(1, 7)),
    elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 3.0]),
)


@pytest.mark.parametrize(
    ("m", "kept"),
    [(1, [0.6, 0, 0, 0, 0]), (2, [0.6, 0, 0, 0.2, 0]), (5, [0.6, 0.05, 0.06, 0.2, 0.09])],
)
def test_the_papers_example(m, kept):
    assert torch.equal(truncate(ROW, m), torch.tensor([kept]))


@given(SCORES, st.data())
def test_each_row_keeps_what_a_stable_sort_puts_first(scores, data):
    m = data.draw(st.integers(1, scores.shape[1]))
    expected = np.zeros_like(scores)
    for row, found in zip(scores, expected, strict=True):
        for place in sorted(range(len(row)), key=lambda place: (-row[place], place))[:m]:
            found[place] = row[place]
    got = truncate(torch.from_numpy(scores), m)
    np.testing.assert_array_equal(got, expected)
    assert torch.equal(truncate(got, m), got)


def test_of_equal_scores_the_lower_indices_are_kept():
    assert truncate(torch.full((1, 4), 0.25), 2).tolist() == [[0.25, 0.25, 0, 0]]


def test_rows_need_not_sum_to_one_and_zeros_stay():
    rows = torch.tensor([[0.6, 0.6, 0.1], [2.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    assert torch.equal(truncate(rows, 2), torch.tensor([[0.6, 0.6, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("m", [0, -1, 6])
def test_m_below_one_or_above_the_classes_is_an_error(m):
    with pytest.raises(ValueError, match=f"expected to keep 1 to 5 scores of a row, got {m}"):
        truncate(ROW, m)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
def test_invalid_scores_are_an_error(value):
    with pytest.raises(ValueError, match="expected finite scores of at least zero, got 1 others"):
        truncate(torch.tensor([[0.5, value]]), 1)


@pytest.mark.parametrize("scores", [torch.zeros(3), torch.zeros(2, 0), torch.zeros(2, 3, dtype=torch.int64)])
def test_scores_of_another_shape_or_dtype_are_an_error(scores):
    with pytest.raises(ValueError, match="expected floating-point scores"):
        check_scores(scores)


def test_the_published_encoding_of_the_papers_example():
    two = torch.tensor([[0.6, 0, 0, 0.2, 0]], dtype=torch.float64)
    expected = torch.tensor([[49.489174, 0, 0, 48.390562, 0]], dtype=torch.float64)
    torch.testing.assert_close(log_rescale(two, 50), expected, rtol=0, atol=1e-6)
    assert torch.equal(log_rescale(torch.eye(4), 50), 50 * torch.eye(4))


def test_a_row_with_a_negative_result_is_raised_until_it_is_zero():
    tiny = torch.tensor([[0.6, 1e-310, 0], [0.5, 0.5, 0]], dtype=torch.float64)
    expected = [[math.log(0.6) + 50 + 650, 0, 0], [50 + math.log(0.5)] * 2 + [0]]
    torch.testing.assert_close(
        log_rescale(tiny, 50, -700), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6
    )
    assert log_rescale(torch.full((1, 1), 0.5), 0).item() == 0


@given(SCORES, st.floats(0, 60))
def test_zero_stays_unknown_and_the_order_of_the_others_is_kept(scores, c):
    rescaled = log_rescale(torch.from_numpy(scores), c)
    assert (rescaled[torch.from_numpy(scores == 0)] == 0).all()
    assert (rescaled >= 0).all()
    for row, found in zip(scores, rescaled.numpy(), strict=True):
        kept = row > 0
        differences = np.log(row[kept])[:, None] - np.log(row[kept])
        np.testing.assert_allclose(found[kept][:, None] - found[kept], differences, atol=1e-4)


def test_the_constant_has_a_gradient():
    c = torch.tensor(3.0, requires_grad=True)
    log_rescale(truncate(ROW, 2), c).sum().backward()
    assert c.grad == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
def test_invalid_scores_are_not_rescaled(value):
    with pytest.raises(ValueError, match="expected finite scores of at least zero"):
        log_rescale(torch.tensor([[0.5, value]]), 50)
