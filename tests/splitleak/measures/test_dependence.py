import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.measures.dependence import (
    coco,
    distance_correlation,
    gaussian_kernel,
    hsic,
    label_kernel,
    normalised_hsic,
)

LINE = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).double()
ALTERNATING = torch.tensor([[0.0], [1.0], [0.0], [1.0]]).double()


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), count=st.integers(3, 9), power=st.sampled_from([1, 2]))
def test_it_agrees_with_the_definition(seed, count, power):
    x, y = drawn(seed, count, 2, 3), drawn(seed + 1, count, 4)
    expected = slow(x, y, power)
    assert float(distance_correlation(x, y, squared=power == 2)) == pytest.approx(expected, rel=1e-9)
    single = distance_correlation(x.float(), y.float(), squared=power == 2)
    assert float(single) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_it_is_invariant_to_shifts_scales_and_orthogonal_maps(seed, scale, shift):
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
def test_a_constant_batch_has_dependence_zero_and_no_gradient(count):
    x, y = torch.full((count, 3), 0.1, requires_grad=True), drawn(0, count, 2).float().requires_grad_()
    value = distance_correlation(x, y)
    value.backward()
    assert float(value.detach()) == 0
    assert not x.grad.any()
    assert not y.grad.any()


def test_batches_of_different_length_are_refused():
    with pytest.raises(ValueError, match="expected batches of equal length, got 4 and 3"):
        distance_correlation(LINE, LINE[:3])


PAIRED, CROSSED = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
UNITS = {n: torch.eye(n, dtype=torch.float64) for n in (2, 3, 4, 10)}
RAMP = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
APART = gaussian_kernel(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))


def frobenius(a, b):
    return coco(a, b, "frobenius")


MEASURES = (hsic, normalised_hsic, coco, frobenius)


@pytest.mark.parametrize(
    ("measure", "a", "b", "expected"),
    [
        *((hsic, UNITS[n], UNITS[n], 1 / (n - 1)) for n in (2, 3, 4)),
        (hsic, label_kernel(PAIRED), label_kernel(PAIRED), 4 / 9),
        (hsic, label_kernel(PAIRED), label_kernel(CROSSED), 0),
        (hsic, RAMP @ RAMP.T, RAMP @ RAMP.T, 1),
        (hsic, APART, UNITS[2], 0.2211992),
        (normalised_hsic, UNITS[2], UNITS[2], 0.99996),
        (normalised_hsic, UNITS[4], UNITS[4], 2.99976),
        (normalised_hsic, UNITS[10], UNITS[10], 8.99820027),
        (normalised_hsic, label_kernel(PAIRED), label_kernel(PAIRED), 0.99996),
        *((coco, UNITS[n], UNITS[n], 1 / n) for n in (2, 3, 4)),
        (coco, label_kernel(PAIRED), label_kernel(PAIRED), 0.5),
        (coco, RAMP @ RAMP.T, RAMP @ RAMP.T, 2 / 3),
        (coco, APART, UNITS[2], 0.2351591),
        (frobenius, UNITS[3], UNITS[3], 0.3964024),
        (frobenius, UNITS[4], UNITS[4], 0.3290185),
    ],
)
def test_measures_of_kernels_have_the_values_worked_out_by_hand(measure, a, b, expected):
    assert float(measure(a, b)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_constant_kernel_has_dependence_zero_and_a_finite_gradient(measure):
    same = torch.ones(5, 3, requires_grad=True)
    found = measure(gaussian_kernel(same), label_kernel(torch.tensor([0, 0, 1, 1, 2])))
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-9)
    assert bool(same.grad.isfinite().all())


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), count=st.integers(3, 9))
def test_measures_of_kernels_agree_with_their_definitions(seed, count):
    x, y = drawn(seed, count, 2, 3), drawn(seed + 1, count, 4)
    kernels = []
    for rows in (x.flatten(1), y):
        spread = 2 * 25 * rows.shape[1]
        kernels.append(np.array([[math.exp(-(math.dist(a, b) ** 2) / spread) for b in rows] for a in rows]))
    h = np.eye(count) - 1 / count
    a, b = (h @ kernel @ h for kernel in kernels)
    ridge = 1e-5 * count * np.eye(count)
    one_sided = [kernel @ h @ np.linalg.inv(kernel @ h + ridge) for kernel in kernels]
    expected = {
        hsic: np.trace(kernels[0] @ h @ kernels[1] @ h) / (count - 1) ** 2,
        normalised_hsic: np.trace(one_sided[0] @ one_sided[1]),
        coco: math.sqrt(np.linalg.svd(a @ b).S[0]) / count,
        frobenius: math.sqrt(np.linalg.norm(a @ b)) / count,
    }
    for measure, value in expected.items():
        found = measure(gaussian_kernel(x), gaussian_kernel(y))
        assert float(found) == pytest.approx(value, rel=1e-6, abs=1e-12), measure


def test_centring_a_kernel_on_one_side_as_published_code_does_gives_the_same_trace():
    kernels = [gaussian_kernel(drawn(0, 9, 4), 0.5), label_kernel(torch.arange(9) % 3)]
    one_sided = [kernel - kernel.mean(1, keepdim=True) for kernel in kernels]
    ridge = 9e-5 * torch.eye(9, dtype=torch.float64)
    first, second = (kernel @ torch.linalg.inv(kernel + ridge) for kernel in one_sided)
    assert float(normalised_hsic(*kernels)) == pytest.approx(float((first @ second).trace()), abs=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_gradient_of_a_measure_of_kernels_is_that_of_its_value(measure):
    x, labels = drawn(0, 6, 4).requires_grad_(), label_kernel(torch.tensor([0, 0, 1, 1, 2, 2]))
    assert torch.autograd.gradcheck(lambda rows: measure(gaussian_kernel(rows, 0.5), labels), (x,))


def test_single_precision_images_lose_no_digits_in_the_centring():
    images = drawn(0, 16, 1, 28, 28)
    labels = label_kernel(torch.arange(16) % 4)
    for measure in (hsic, normalised_hsic):
        exact = float(measure(gaussian_kernel(images), labels))
        assert float(measure(gaussian_kernel(images.float()), labels)) == pytest.approx(exact, rel=1e-4)
