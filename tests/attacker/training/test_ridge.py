"""The linear gauge, on features whose answer is known."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from splitleak.attacker.training.ridge import LinearMap, RidgeConfig, RidgeGauge
from splitleak.measures.pixel import mse


@pytest.fixture(scope="module")
def pictures(small_splits):
    """Images to fit to, and others, 16 × 16."""
    return small_splits.public.floats()[:150], small_splits.victims.floats()


def error(fitted, features, images):
    return float(mse(fitted.predict(features), images).mean())


def of_the_mean(pictures):
    public, victims = pictures
    return float(mse(public.mean(0).expand_as(victims), victims).mean())


def mixed(images, channels=32, side=4):
    """A fixed linear map of each square of pixels: features ``(N, channels, H / side, W / side)``."""
    draw = torch.Generator().manual_seed(3)
    pixels = images.shape[1] * side**2
    return torch.einsum(
        "oc,bchw->bohw",
        torch.randn(channels, pixels, generator=draw) / pixels**0.5,
        functional.pixel_unshuffle(images, side),
    )


def test_features_that_are_the_pixels_are_given_back(pictures):
    public, victims = pictures
    assert error(RidgeGauge.fitted(public, public).map, victims, victims) < 1e-6


def test_a_linear_map_of_the_pixels_is_inverted(pictures):
    public, victims = pictures
    assert error(RidgeGauge.fitted(mixed(public), public).map, mixed(victims), victims) < 1e-4


def test_the_mean_and_the_scale_of_a_feature_change_nothing(pictures):
    public, victims = pictures
    plain = error(RidgeGauge.fitted(mixed(public), public).map, mixed(victims), victims)
    moved = error(RidgeGauge.fitted(10 + 1e-1 * mixed(public), public).map, 10 + 1e-1 * mixed(victims), victims)
    assert moved == pytest.approx(plain, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("wide", [False, True])
def test_a_channel_of_huge_noise_hides_nothing_of_what_the_others_tell(pictures, wide):
    public, victims = pictures
    draw = torch.Generator().manual_seed(0)

    def beside(images, scale):
        features = mixed(images)
        if wide:
            features = features.repeat(1, 51, 1, 1)
        return torch.cat([features, scale * torch.randn(features[:, :1].shape, generator=draw)], 1)

    small, huge = (
        error(RidgeGauge.fitted(beside(public, scale), public).map, beside(victims, scale), victims)
        for scale in (1.0, 1e8)
    )
    assert huge < 2 * small < 1e-2


def test_the_more_noise_the_less_is_rebuilt_and_never_less_than_the_mean(pictures):
    public, victims = pictures
    draw = torch.Generator().manual_seed(0)

    def noisy(images, sigma):
        return mixed(images) + sigma * torch.randn(mixed(images).shape, generator=draw)

    errors = [
        error(RidgeGauge.fitted(noisy(public, s), public).map, noisy(victims, s), victims) for s in (0.0, 0.3, 1.0, 100)
    ]
    assert errors == sorted(errors)
    assert errors[-1] == pytest.approx(of_the_mean(pictures), rel=0.1)


def test_batches_of_any_size_give_the_same_map(pictures):
    public, victims = pictures
    features = mixed(public)
    whole = RidgeGauge([(32, 4, 4)], (1, 16, 16), len(public), seed=5)
    whole.add(features, public)
    parts = RidgeGauge([(32, 4, 4)], (1, 16, 16), len(public), seed=5)
    for batch in torch.arange(len(public)).split(7):
        parts.add(features[batch], public[batch])
    one, other = whole.solve(), parts.solve()
    assert torch.allclose(one.predict(mixed(victims)), other.predict(mixed(victims)), atol=1e-4)
    assert whole.findings["held_out_mse"] == pytest.approx(parts.findings["held_out_mse"], rel=1e-2, abs=1e-8)


def test_it_agrees_with_the_normal_equations_of_another_library(pictures):
    public, _ = pictures
    features, others = (functional.avg_pool2d(images, 2).flatten(1) for images in pictures)
    gauge = RidgeGauge([(64,)], (1, 16, 16), len(public), seed=1)
    gauge.add(features, public)
    fitted = gauge.solve()
    x, y = features.double().numpy(), public.flatten(1).double().numpy()
    spread = np.maximum(x.std(0), 2 * np.sort(x.std(0)[x.std(0) > 0])[(x.std(0) > 0).sum() // 2 - 1]) / 2
    z = (x - x.mean(0)) / spread
    strength = gauge.findings["strength"] * np.square(z).sum() / z.shape[1]
    weight = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
    expected = y.mean(0) + (others.double().numpy() - x.mean(0)) / spread @ weight
    assert np.allclose(fitted.predict(others).flatten(1).numpy(), expected.clip(0, 1), atol=1e-4)


@pytest.mark.parametrize("classes", [None, 10])
def test_values_that_hardly_vary_are_not_made_much_of_and_one_class_does_not_choose_for_the_others(
    small_splits, classes
):
    """Brought to one deviation, units of a ReLU that few pictures reach were twice as bad a basis."""
    public, victims = small_splits.public.floats()[:100], small_splits.victims.floats()
    draw = torch.Generator().manual_seed(0)
    units, bias = torch.randn(256, 256, generator=draw) / 16, torch.randn(256, generator=draw) / 16
    x, z = (torch.relu(images.flatten(1) @ units + bias) for images in (public, victims))
    groups = None if classes is None else small_splits.public.labels[:100]
    gauge = RidgeGauge([(256,)], (1, 16, 16), 100, groups=groups)
    gauge.add(x, public)
    centred, wanted = x - x.mean(0), public.flatten(1) - public.flatten(1).mean(0)
    errors = []
    for strength in (0.1, 1.0, 10.0):
        weight = torch.linalg.solve(centred.T @ centred + strength * torch.eye(256), centred.T @ wanted)
        rebuilt = (z - x.mean(0)) @ weight + public.flatten(1).mean(0)
        errors.append(float(mse(rebuilt.clamp(0, 1).view_as(victims), victims).mean()))
    assert error(gauge.solve(), z, victims) < 1.1 * min(errors)


def test_the_dual_form_gives_what_the_primal_gives(pictures, monkeypatch):
    public, victims = pictures
    features, others = public.flatten(1), victims.flatten(1)
    primal = RidgeGauge.fitted(features, public).map.predict(others)
    monkeypatch.setattr("splitleak.attacker.training.ridge._PRIMAL", 10)
    assert torch.allclose(RidgeGauge.fitted(features, public).map.predict(others), primal, atol=1e-3)


def test_the_dual_form_is_fitted_to_pictures_drawn_from_all_and_not_to_the_first(pictures, monkeypatch):
    """Public pictures may come by class: the first are black here, and more than memory allows to be fitted to."""
    public, victims = pictures
    monkeypatch.setattr("splitleak.attacker.training.ridge._PRIMAL_OF_MANY", 10)
    monkeypatch.setattr("splitleak.attacker.training.ridge._DUAL_ROWS", 60)
    by_class = torch.cat([torch.zeros_like(public[:80]), public[80:]])
    gauge = RidgeGauge([(32, 4, 4)], (1, 16, 16), len(by_class))
    gauge.add(mixed(by_class[:75]), by_class[:75])
    gauge.add(mixed(by_class[75:]), by_class[75:])
    fitted = gauge.solve()
    assert gauge.findings["rows"] == 60 + 15 * 16  # and those that chose the strength
    assert error(fitted, mixed(victims), victims) < 0.7 * of_the_mean(pictures)  # .46; of black ones 2.8


def test_vectors_of_two_thousand_values_are_fitted_to_all_of_many_pictures():
    """The dual form holds 1,500 of them, however many pairs there are."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(1800, 1, 4, 4, generator=draw)
    features = (images.flatten(1) @ torch.randn(16, 1700, generator=draw)).relu()
    fitted = RidgeGauge.fitted(features, images).findings
    few = RidgeGauge.fitted(features[:1000], images[:1000]).findings
    assert (fitted["rows"], few["rows"]) == (1800, 1000)


def test_the_strength_is_chosen_on_held_out_pictures_and_on_nothing_else(pictures):
    public, _ = pictures
    gauge = RidgeGauge([(32, 4, 4)], (1, 16, 16), len(public))
    torch.manual_seed(0)
    noise = torch.randn(len(public), 32, 4, 4)
    gauge.add(torch.where(gauge._held_out[:, None, None, None], noise, mixed(public)), public)
    fitted = gauge.solve()  # what is fitted is of no use for what is held out
    assert gauge.findings["strength"] == pytest.approx(1e3)
    assert float(mse(fitted.predict(noise), public.mean(0).expand_as(public)).mean()) < 1e-3


@pytest.mark.parametrize("extra", [0, 1, 2, 5])
def test_tokens_lie_on_their_grid_after_those_without_a_place(extra, pictures):
    def tokens(images):
        grid = mixed(images).flatten(2).transpose(1, 2)
        return torch.cat([grid.mean(1, keepdim=True).expand(-1, extra, -1), grid], 1)

    public, victims = pictures
    fitted = RidgeGauge.fitted(tokens(public), public).map
    assert (fitted.layout.height, fitted.layout.width, fitted.layout.extra) == (4, 4, 32 * extra)
    assert error(fitted, tokens(victims), victims) < 1e-4


def test_channels_may_come_last_and_sizes_need_not_divide(pictures):
    public, victims = pictures

    def shrunk(images):
        return functional.interpolate(images, (7, 7), mode="bilinear", antialias=True)

    first = RidgeGauge.fitted(shrunk(public), public).map
    last = RidgeGauge.fitted(shrunk(public).permute(0, 2, 3, 1), public).map
    assert first.block == (3, 3)
    assert error(first, shrunk(victims), victims) < of_the_mean(pictures) / 3
    assert torch.equal(first.predict(shrunk(victims)), last.predict(shrunk(victims).permute(0, 2, 3, 1)))


def test_several_tensors_tell_more_than_each_alone(pictures):
    public, victims = pictures

    def both(images):
        return torch.cat([mixed(images, 4).flatten(1), functional.avg_pool2d(images, 8).flatten(1)], 1)

    fitted = RidgeGauge.fitted(both(public), public, shapes=[(4, 4, 4), (1, 2, 2)]).map
    alone = RidgeGauge.fitted(mixed(public, 4), public).map
    assert error(fitted, both(victims), victims) < error(alone, mixed(victims, 4), victims)


def test_a_block_too_large_is_rebuilt_small_and_enlarged(pictures):
    public, victims = pictures
    fitted = RidgeGauge.fitted(public.flatten(1), public, config=RidgeConfig(outputs=64)).map
    assert fitted.block == (8, 8)
    assert fitted.predict(victims.flatten(1)).shape == victims.shape
    assert error(fitted, victims.flatten(1), victims) < of_the_mean(pictures)


def test_a_constant_feature_gives_the_mean_image_and_values_that_are_none_do_no_harm(pictures):
    public, victims = pictures
    features = torch.zeros(len(public), 3, 4, 4)
    features[0, 0] = torch.nan
    features[:, 1] = -torch.inf
    rebuilt = RidgeGauge.fitted(features, public).map.predict(torch.zeros(len(victims), 3, 4, 4))
    assert float(mse(rebuilt, victims).mean()) == pytest.approx(of_the_mean(pictures), rel=0.05)


def test_what_does_not_fit_is_refused(pictures):
    public, _ = pictures
    with pytest.raises(ValueError, match="at least 3 pictures"):
        RidgeGauge([(4,)], (1, 16, 16), 2)
    gauge = RidgeGauge([(4,)], (1, 16, 16), len(public))
    with pytest.raises(ValueError, match=r"expected features \(4,\), got \(5,\)"):
        gauge.add(torch.zeros(len(public), 5), public)
    with pytest.raises(ValueError, match="expected features of 150 pictures, got 0"):
        RidgeGauge([(4,)], (1, 16, 16), len(public)).solve()


def test_a_map_keeps_its_weights_in_its_state(pictures):
    public, victims = pictures
    fitted = RidgeGauge.fitted(mixed(public), public).map
    again = LinearMap(fitted.layout, (1, 16, 16), RidgeConfig())
    again.bias = torch.zeros_like(fitted.bias)
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again.predict(mixed(victims)), fitted.predict(mixed(victims)))


def held_out(groups, images=150):
    return RidgeGauge([(32, 4, 4)], (1, 16, 16), images, groups=groups)._held_out


def test_pictures_of_one_photograph_are_held_out_together():
    groups = torch.arange(150) % 30  # five crops of each
    chosen = held_out(groups)
    assert int(chosen.sum()) == 15
    assert not {*groups[chosen].tolist()} & {*groups[~chosen].tolist()}


def test_groups_of_any_size_leave_at_least_half_to_be_fitted_to():
    groups = torch.cat([torch.zeros(130, dtype=torch.int64), torch.arange(1, 21)])
    chosen = held_out(groups)
    assert 0 < int(chosen.sum()) <= 75
    assert not bool(chosen[:130].any())


@pytest.mark.parametrize("groups", [torch.zeros(150, dtype=torch.int64), torch.arange(150) % 9, torch.arange(150)])
def test_where_no_share_of_the_groups_can_be_held_out_pictures_are_drawn_as_without(groups):
    assert torch.equal(held_out(groups), held_out(None))


def test_the_strength_of_noisy_crops_is_not_chosen_on_crops_of_the_same_photographs():
    """A feature that names the photograph, beside one that every photograph shares: only the second helps others."""
    draw = torch.Generator().manual_seed(0)
    photographs = torch.rand(30, 1, 16, 16, generator=draw)
    groups = torch.arange(150) % 30
    public = (photographs[groups] + 0.02 * torch.randn(150, 1, 16, 16, generator=draw)).clamp(0, 1)
    named = torch.nn.functional.one_hot(groups, 30).float() + 0.01 * torch.randn(150, 30, generator=draw)

    def told(groups):
        gauge = RidgeGauge([(30,)], (1, 16, 16), 150, groups=groups)
        gauge.add(named, public)
        gauge.solve()
        return gauge.findings["held_out_mse"], gauge.findings["mean_image_mse"]

    error, mean = told(None)
    assert error < 0.1 * mean
    error, mean = told(groups)
    assert error > 0.8 * mean


def test_groups_are_one_for_each_picture():
    with pytest.raises(ValueError, match="expected a group for each of 150 pictures"):
        held_out(torch.arange(3))
