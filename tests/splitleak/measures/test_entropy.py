import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.measures.entropy import entropy_power, mixture_entropy, mixture_information, sampled_information


def mixture():
    return torch.tensor([0.5, 0.5]).double(), torch.tensor([0.04, 0.01]).double()[:, None].expand(2, 4)


def test_the_bound_has_the_published_values():
    weights, variances = mixture()
    assert float(mixture_information(weights, variances, 0.0025)) == pytest.approx(5.135798, abs=5e-7)
    single = mixture_information(torch.ones(1).double(), torch.full((1, 512), 0.03).double(), 0.1**2)
    assert float(single) == pytest.approx(354.8914, abs=5e-5)
    assert float(single) == pytest.approx(256 * math.log(4), rel=1e-7)


@given(
    counts=st.lists(st.integers(1, 100), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    noise=st.floats(1e-4, 1),
)
def test_the_bound_is_the_formula_with_full_determinants(counts, seed, noise):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.tensor(counts).double() / sum(counts)
    variances = torch.rand(len(counts), 2, 3, generator=draw).double()
    disturbance = noise + torch.rand(2, 3, generator=draw).double()
    expected = sum(
        pi * (-pi.log() + 0.5 * (torch.logdet(torch.diag((v + s).flatten())) - torch.logdet(torch.diag(s.flatten()))))
        for pi, v, s in zip(weights, variances, [disturbance] * len(counts), strict=True)
    )
    assert float(mixture_information(weights, variances, disturbance)) == pytest.approx(float(expected))


def test_information_falls_with_noise_and_rises_with_variance():
    weights, variances = mixture()
    by_noise = [float(mixture_information(weights, variances, s**2)) for s in (0.01, 0.05, 0.1, 0.5)]
    assert by_noise == sorted(by_noise, reverse=True)
    by_spread = [float(mixture_information(weights, factor * variances, 0.01)) for factor in (0.1, 1, 2)]
    assert by_spread == sorted(by_spread)


def test_the_information_of_point_masses_is_their_entropy():
    weights, variances = torch.tensor([0.2, 0.8, 0.0]), torch.zeros(3, 4)
    expected = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert float(mixture_information(weights, variances, 0.01)) == pytest.approx(expected, rel=1e-6)


def test_the_gradient_in_the_variances_is_half_the_weight_over_the_sum():
    weights, variances = mixture()
    variances = variances.clone().requires_grad_()
    mixture_information(weights, variances, 0.0025).backward()
    expected = weights[:, None] / (2 * (variances.detach() + 0.0025))
    torch.testing.assert_close(variances.grad, expected)


@pytest.mark.parametrize(
    ("weights", "variances", "noise", "message"),
    [
        (torch.ones(1), torch.ones(1, 4), 0.0, "expected noise variances above 0, got 0.0"),
        (torch.ones(1), torch.ones(1, 2), torch.tensor([0.1, -0.1]), "expected noise variances above 0"),
        (torch.ones(2), torch.ones(1, 4), 0.1, r"expected weights \(k,\) and variances \(k, ...\)"),
        (torch.ones(4), torch.ones(4), 0.1, r"expected weights \(k,\) and variances \(k, ...\)"),
        (torch.ones(1), torch.ones(1, 4), torch.ones(3), r"expected one noise variance or \(4,\), got \(3,\)"),
    ],
)
def test_a_mixture_without_a_bound_is_refused(weights, variances, noise, message):
    with pytest.raises(ValueError, match=message):
        mixture_information(weights, variances, noise)


@given(variance=st.floats(1e-4, 1), dimensions=st.integers(1, 3072))
def test_a_gaussian_with_one_variance_reaches_the_bound(variance, dimensions):
    nats = 0.5 * dimensions * math.log(2 * math.pi * math.e * variance)
    assert entropy_power(nats, dimensions) == pytest.approx(variance)


def test_no_estimate_on_a_gaussian_channel_beats_the_bound_that_the_information_gives():
    dimensions, signal, noise = 8, 0.09, 0.04
    draw = torch.Generator().manual_seed(0)
    images = signal**0.5 * torch.randn(20_000, dimensions, generator=draw)
    sent = images + noise**0.5 * torch.randn(images.shape, generator=draw)
    told = float(mixture_information(torch.ones(1), torch.full((1, dimensions), signal), noise))
    entropy_before = 0.5 * dimensions * math.log(2 * math.pi * math.e * signal)
    bound = entropy_power(entropy_before - told, dimensions)
    assert bound == pytest.approx(signal * noise / (signal + noise), rel=1e-6)
    best = signal / (signal + noise)
    for factor in (0.0, 0.3, 0.6, 0.8, 1.0):
        assert float((factor * sent - images).square().mean()) > bound
    assert float((best * sent - images).square().mean()) == pytest.approx(bound, rel=0.01)


@given(count=st.integers(3, 30), dimensions=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_the_entropy_of_one_cluster_is_its_gaussians_with_eigenvalues_raised(count, dimensions, seed):
    values = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = mixture_entropy(values, torch.zeros(count).long(), smallest_variance=1e-3)
    covariance = values.T.cov().reshape(dimensions, dimensions)
    raised = torch.linalg.eigvalsh(covariance).clamp(min=1e-3)
    expected = 0.5 * (dimensions * math.log(2 * math.pi * math.e) + raised.log().sum())
    assert found == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


def test_the_entropy_of_a_mixture_is_that_within_its_clusters():
    draw = torch.Generator().manual_seed(0)
    assigned = torch.randint(3, (4000,), generator=draw)
    values = 50.0 * torch.eye(3, 4)[assigned] + 0.2 * torch.randn(4000, 4, generator=draw)
    found = mixture_entropy(values, assigned, smallest_variance=1e-6)
    assert found == pytest.approx(2 * math.log(2 * math.pi * math.e * 0.04), abs=0.1)
    assert mixture_entropy(values, torch.zeros(4000).long(), smallest_variance=1e-6) > found + 5


def test_the_bound_of_samples_is_the_posterior_variance_of_their_channel():
    signal, noise = 0.01, 0.0025
    draw = torch.Generator().manual_seed(0)
    images = 0.5 + signal**0.5 * torch.randn(8000, 32, generator=draw)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=draw)).Q
    features, one = images @ turn, torch.zeros(8000).long()
    before = mixture_entropy(images, one, smallest_variance=1e-9)
    for sigma in (noise**0.5, 0.2, 1.0):
        told = float(mixture_information(torch.ones(1), features.var(0)[None], sigma**2))
        posterior = signal * sigma**2 / (signal + sigma**2)
        assert entropy_power(before - told, 32) == pytest.approx(posterior, rel=0.02)


@pytest.mark.parametrize("members", [2, 4, 40])
def test_of_few_samples_the_information_is_not_told_too_low(members):
    components, dimensions, noise = 4000 // members, 64, 0.01
    assigned = torch.arange(components).repeat_interleave(members)
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(components, dimensions, generator=draw)[assigned]
    values = values + torch.randn(values.shape, generator=draw)
    weights, variances = torch.full((components,), 1 / components), torch.ones(components, dimensions)
    truth = float(mixture_information(weights, variances, noise)) / dimensions
    assert truth - 0.01 < sampled_information(values, assigned, noise) / dimensions < truth + 0.1


def test_a_component_of_one_value_has_the_variance_within_the_others():
    assigned = torch.tensor([*[0] * 500, 1])
    values = torch.randn(501, 16, generator=torch.Generator().manual_seed(0))
    alone = sampled_information(values[:500], assigned[:500], 0.01)
    index = math.log(501) / 501 + 500 / 501 * math.log(501 / 500)  # the entropy of which component it is
    assert sampled_information(values, assigned, 0.01) == pytest.approx(alone + index, rel=1e-3)
    with pytest.raises(ValueError, match="expected more values than components, got 2 values"):
        sampled_information(values[:2], torch.tensor([0, 1]), 0.01)


@pytest.mark.parametrize(("count", "smallest"), [(1, 1e-6), (5, 0.0)])
def test_values_without_an_entropy_are_refused(count, smallest):
    with pytest.raises(ValueError, match="expected more values than clusters and a smallest variance above 0"):
        mixture_entropy(torch.rand(count, 3), torch.zeros(count).long(), smallest_variance=smallest)


def test_no_dimension_has_no_bound():
    with pytest.raises(ValueError, match="expected at least 1 dimension, got 0"):
        entropy_power(1.0, 0)
