import pytest
import torch
from torch import nn

from splitleak.defenses.base import EpochEnd, Step
from splitleak.defenses.features.cem import CEM, CEMConfig, nearest, reference_loss
from splitleak.defenses.features.noise import GaussianNoise, GaussianNoiseConfig
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import train
from splitleak.measures.entropy import mixture_information
from splitleak.models.split import SplitModel

CPU = torch.device("cpu")
SHAPE = (3, 2, 2)
CLASSES = 3


def prepared(sigma=0.1, **config):
    defense = CEM(CEMConfig(**config))
    stack = Stack([GaussianNoise(GaussianNoiseConfig(sigma=sigma)), defense])
    stack.prepare(SplitModel(nn.Identity(), nn.Identity(), SHAPE), CLASSES)
    return defense


def clumps(seed=0, samples=120):
    """Features in four clumps a class, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % CLASSES
    centres = torch.rand(CLASSES, 4, *SHAPE, generator=draw)
    picked = torch.randint(4, (samples,), generator=draw)
    return centres[labels, picked] + 0.05 * torch.randn(samples, *SHAPE, generator=draw), labels


def after_an_epoch(defense, seed=0, epoch=0):
    features, labels = clumps(seed)
    defense.on_epoch(EpochEnd(epoch, 10, lambda: (features, labels)))
    return features, labels


def penalty(defense, features, labels, rate=1e-3):
    nothing = torch.empty(0)
    return defense.penalty(Step(nothing, labels, features, features, nothing, 1, rate))


def published(features, labels, means, variances, counts, sigma=0.025):
    return reference_loss(
        features,
        labels,
        means=means,
        variances=variances,
        counts=counts,
        class_size=5004.8,
        noise_variance=sigma**2,
        threshold=0.125,
        gamma=0.01,
    )


def test_the_reference_loss_of_one_cluster_is_the_published_codes():
    features = torch.full((2, 512), 0.3).double().requires_grad_()
    zeros = torch.zeros(1, 1, 512).double()
    loss = published(features, torch.zeros(2).long(), zeros, torch.tensor([[0.04]]), torch.tensor([[1.0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.605644, abs=1e-6)
    torch.testing.assert_close(features.grad, torch.full_like(features, 4.66436e-5), rtol=1e-5, atol=0)


def test_the_reference_loss_of_two_clusters_is_the_published_codes():
    features = torch.tensor([0.2, 0.2, 0.2, 0.9]).double()[:, None].repeat(1, 512).requires_grad_()
    means = torch.tensor([0.0, 1.0]).double()[None, :, None].repeat(1, 1, 512)
    loss = published(features, torch.zeros(4).long(), means, torch.tensor([[0.04, 0.02]]), torch.tensor([[3.0, 1.0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.473282, abs=1e-6)
    expected = torch.tensor([3.12200e-5] * 3 + [-2.60862e-5]).double()[:, None].expand(4, 512)
    torch.testing.assert_close(features.grad, expected, rtol=1e-5, atol=0)


def test_the_reference_loss_is_exactly_zero_where_all_variances_are_below_the_threshold():
    features = torch.full((4, 16), 0.01).requires_grad_()
    loss = published(
        features,
        torch.zeros(4).long(),
        torch.zeros(1, 1, 16),
        torch.tensor([[0.002]]),
        torch.tensor([[1.0]]),
        sigma=0.15,
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert not features.grad.any()


@pytest.mark.parametrize("statistic", ["variances", "counts"])
def test_statistics_of_a_class_matter_exactly_when_it_is_in_the_batch(statistic):
    draw = torch.Generator().manual_seed(0)
    known = {
        "means": torch.rand(4, 2, 8, generator=draw),
        "variances": torch.rand(4, 2, generator=draw),
        "counts": torch.tensor([[30.0, 20.0]]).repeat(4, 1),
    }
    labels = torch.tensor([3, 1, 3, 1, 1, 3])
    features = known["means"][labels, torch.tensor([0, 0, 1, 1, 0, 1])] + 0.1
    before = published(features, labels, **known)
    for label in range(4):
        changed = known[statistic].clone()
        changed[label] *= torch.tensor([2.0, 1.5])
        after = published(features, labels, **{**known, statistic: changed})
        assert bool(after != before) == (label in (1, 3)), label


def test_the_reference_mode_is_its_loss_times_the_weight_at_that_rate():
    defense = prepared(mode="reference", weight=16, clusters=2, sigma=0.025)
    features, labels = after_an_epoch(defense)
    loss = reference_loss(
        features.flatten(1),
        labels,
        means=defense.means,
        variances=defense.variances.mean(2),
        counts=defense.counts,
        class_size=len(features) / CLASSES,
        noise_variance=0.025**2,
        threshold=0.125,
        gamma=0.01,
    )
    assert float(loss.detach()) > 0
    for rate, scale in ((0.05, 0.32), (0.01, 1.6), (0.002, 8), (4e-4, 16), (8e-5, 16)):
        torch.testing.assert_close(penalty(defense, features, labels, rate), scale * loss)


def test_the_paper_mode_is_the_bound_of_its_statistics():
    defense = prepared(weight=0.5, clusters=4)
    features, labels = after_an_epoch(defense)
    weights = defense.counts.flatten() / len(features)
    told = mixture_information(weights, defense.variances.flatten(0, 1), 0.1**2)
    torch.testing.assert_close(penalty(defense, features, labels), 0.5 / 12 * told)
    torch.testing.assert_close(penalty(defense, features[:7], labels[:7]), 0.5 / 12 * told)


def test_the_paper_modes_gradient_on_the_whole_set_is_that_of_the_bound_recomputed():
    defense = prepared(clusters=4)
    features, labels = after_an_epoch(defense)
    flat = features.flatten(1).requires_grad_()
    (given,) = torch.autograd.grad(defense.bound(flat, labels, 0.01), flat)
    slot = labels * 4 + nearest(flat.detach(), labels, defense.means, defense.counts)
    counts = torch.bincount(slot, minlength=CLASSES * 4)
    squares = (flat - defense.means.flatten(0, 1)[slot]).square()
    variances = torch.stack([squares[slot == index].sum(0) / max(n, 1) for index, n in enumerate(counts.tolist())])
    (expected,) = torch.autograd.grad(mixture_information(counts / counts.sum(), variances, 0.01), flat)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_there_is_no_penalty_in_the_first_epoch(mode):
    defense = prepared(mode=mode)
    features, labels = clumps()
    assert penalty(defense, features, labels) is None
    after_an_epoch(defense)
    assert penalty(defense, features, labels) is not None


def test_weight_zero_trains_bit_for_bit_as_without_cem(small_target, small_splits):
    plain = train(small_target("gaussian-noise"), small_splits, device=CPU)
    weightless = train(small_target("gaussian-noise", {"name": "cem", "weight": 0}), small_splits, device=CPU)
    weighted = train(small_target("gaussian-noise", {"name": "cem", "weight": 1}), small_splits, device=CPU)
    expected = plain.model.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in weightless.model.state_dict().items())
    assert not all(torch.equal(expected[key], value) for key, value in weighted.model.state_dict().items())
    assert weighted.record["history"][0]["penalty"] == 0 < weighted.record["history"][1]["penalty"]


def test_the_paper_mode_is_refused_without_noise():
    with pytest.raises(ValueError, match="cem: expected noise in the stack"):
        prepared(sigma=0)


def test_features_of_another_size_are_refused():
    defense = prepared()
    features, labels = after_an_epoch(defense)
    with pytest.raises(ValueError, match=r"cem: expected features of 12 values .*, got 8"):
        penalty(defense, features[:, :2], labels)


def slow_k_means(members, means, steps=50):
    for _ in range(steps):
        assigned = [min(range(len(means)), key=lambda j: float((x - means[j]).square().sum())) for x in members]
        groups = [[x for x, a in zip(members, assigned, strict=True) if a == j] for j in range(len(means))]
        means = [torch.stack(g).mean(0) if g else m for g, m in zip(groups, means, strict=True)]
    variances = [
        torch.stack(g).sub(m).square().mean(0) if g else torch.zeros_like(m) for g, m in zip(groups, means, strict=True)
    ]
    return torch.stack(means), torch.stack(variances), torch.tensor([float(len(g)) for g in groups])


def test_a_later_epoch_starts_warm_and_agrees_with_a_slow_k_means():
    defense = prepared(clusters=4)
    draw = torch.Generator().manual_seed(5)
    defense.means.copy_(torch.rand(defense.means.shape, generator=draw))
    defense.means[:, 3] = 100  # so far away that nothing falls into it
    defense.counts.fill_(1)
    start = defense.means.clone()
    features, labels = after_an_epoch(defense, epoch=1)
    for label in range(CLASSES):
        members = list(features.flatten(1)[labels == label])
        means, variances, counts = slow_k_means(members, list(start[label]), steps=15)
        torch.testing.assert_close(defense.means[label], means)
        torch.testing.assert_close(defense.variances[label], variances, rtol=1e-4, atol=1e-6)
        assert torch.equal(defense.counts[label], counts)
    assert torch.equal(defense.means[:, 3], start[:, 3])
    assert not defense.counts[:, 3].any()


def test_a_first_epoch_ends_at_a_fixed_point_of_k_means():
    defense = prepared(clusters=4)
    features, labels = after_an_epoch(defense)
    for label in range(CLASSES):
        members = list(features.flatten(1)[labels == label])
        means, variances, counts = slow_k_means(members, list(defense.means[label]), steps=1)
        torch.testing.assert_close(defense.means[label], means)
        torch.testing.assert_close(defense.variances[label], variances, rtol=1e-4, atol=1e-6)
        assert torch.equal(defense.counts[label], counts)


def test_a_class_with_no_more_samples_than_clusters_keeps_its_statistics():
    defense = prepared(clusters=4)
    features, labels = clumps()
    few = (labels != 1) | (torch.arange(len(labels)) < 12)
    defense.on_epoch(EpochEnd(0, 10, lambda: (features[few], labels[few])))
    assert defense.counts.any(1).tolist() == [True, False, True]


def without_many_of_class_1(defense):
    """The features and labels of a first epoch in which class 1 has no more pictures than clusters."""
    features, labels = clumps()
    few = (labels != 1) | (torch.arange(len(labels)) < 12)
    defense.on_epoch(EpochEnd(0, 10, lambda: (features[few], labels[few])))
    return features.flatten(1)[few].requires_grad_(), labels[few]


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_a_class_without_a_mixture_has_no_gradient_and_is_told_of(mode):
    defense = prepared(clusters=4, mode=mode)
    features, labels = without_many_of_class_1(defense)
    (given,) = torch.autograd.grad(penalty(defense, features, labels), features)
    assert not given[labels == 1].any()
    assert bool(given[labels != 1].any())
    model = SplitModel(nn.Identity(), nn.Identity(), SHAPE)
    assert defense.findings(model) == {"classes_without_mixture": 1}
    after_an_epoch(defense)
    assert defense.findings(model) == {}


def test_a_training_in_which_no_class_can_be_fitted_is_refused():
    features, labels = clumps(samples=12)
    with pytest.raises(ValueError, match=r"cem: expected a class of more than 4 training pictures .*, got at most 4"):
        prepared(clusters=4).on_epoch(EpochEnd(0, 10, lambda: (features, labels)))
    prepared(clusters=4, weight=0).on_epoch(EpochEnd(0, 10, lambda: (features, labels)))  # it asks for no penalty


def test_equal_features_have_no_spread_and_do_no_harm():
    defense = prepared(clusters=4)
    features, labels = torch.full((30, *SHAPE), 0.5), torch.arange(30) % CLASSES
    defense.on_epoch(EpochEnd(0, 10, lambda: (features, labels)))
    assert not defense.variances.any()
    assert bool(penalty(defense, features, labels).isfinite())


def test_a_sample_is_assigned_to_the_nearest_cluster_of_its_own_class_that_is_not_empty():
    means = torch.tensor([[[0.0], [1.0], [2.0]], [[0.1], [0.9], [5.0]]])
    counts = torch.tensor([[3.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
    features = torch.tensor([[0.9], [1.1], [0.2], [9.0]])
    assert nearest(features, torch.tensor([0, 0, 1, 1]), means, counts).tolist() == [0, 2, 0, 2]
