from statistics import NormalDist

import pytest
import torch
from torch import nn

from splitleak.measures.scores import log_rescale
from splitleak.models.inverter import HiddenLayers, JoinedRescale, LogRescale, PredictionInverter, QuantileRescale


@pytest.mark.parametrize(
    ("classes", "side", "parameters"),
    [(10, 32, 2_708_097), (530, 64, 19_701_377)],
)
def test_at_full_width_it_is_the_published_network(classes, side, parameters):
    with torch.device("meta"):
        inverter = PredictionInverter(classes, (1, side, side))
        assert sum(each.numel() for each in inverter.parameters()) == parameters
        assert inverter(torch.zeros(3, classes)).shape == (3, 1, side, side)


def test_its_layers_are_the_published_ones_one_by_one():
    with torch.device("meta"):
        inverter = PredictionInverter(10, (1, 32, 32))
    rows = [sum(each.numel() for each in layer.parameters()) for layer in inverter]
    assert [row for row in rows if row] == [82_432, 1_024, 2_097_408, 512, 524_416, 256, 2_049]
    kinds = [type(layer) for layer in list(inverter)[1:]]
    assert kinds == 3 * [nn.ConvTranspose2d, nn.BatchNorm2d, nn.Tanh] + [nn.ConvTranspose2d, nn.Sigmoid]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 8), (1, 16, 16), (3, 64, 64)])
def test_any_side_of_4_times_a_power_of_two_is_reached(shape):
    images = PredictionInverter(7, shape, width=0.05)(torch.rand(2, 7))
    assert images.shape == (2, *shape)
    assert 0 < images.min() <= images.max() < 1


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 2, 2), (4, 32, 16), (1, 48, 48), (3, 33, 33), (3, 20, 28)])
def test_any_other_image_is_scaled_down_from_the_next_larger_square(shape):
    inverter = PredictionInverter(7, shape, width=0.05)
    images = inverter(torch.rand(2, 7))
    assert images.shape == (2, *shape)
    assert 0 < images.min() <= images.max() < 1
    doublings = sum(isinstance(layer, nn.ConvTranspose2d) for layer in inverter) - 1
    assert 4 << doublings >= max(shape[1:]) > 2 << doublings or doublings == 0


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="at least one class"):
        PredictionInverter(0, (1, 32, 32))


SHARED = torch.tensor([[0.6, 0, 0, 0.2, 0], [0.9, 0.05, 0, 0, 0]])


def test_fixed_is_the_published_encoding_whatever_the_training_scores():
    for like in (None, SHARED):
        assert torch.equal(LogRescale("fixed", like=like)(SHARED), log_rescale(SHARED, 50))
    assert torch.equal(LogRescale("fixed", 7)(SHARED), log_rescale(SHARED, 7))


def test_none_is_the_scores_themselves():
    assert torch.equal(LogRescale("none")(SHARED), SHARED)


@pytest.mark.parametrize("c", [None, 0.1, 3.0, 50.0])
def test_learned_is_the_scaled_log_plus_c_where_that_is_well_above_zero(c):
    rescale = LogRescale("learned", c, like=SHARED)
    expected = (SHARED.log() + rescale.c) / rescale.spread
    well = expected > 2
    torch.testing.assert_close(rescale(SHARED)[well], expected[well])
    assert c is None or rescale.c == pytest.approx(c)


@pytest.mark.parametrize("c", [-5.0, 0.1, 20.0])
def test_learned_separates_known_from_unknown_scores_and_keeps_their_order(c):
    falling = torch.tensor([[0.9, 1e-2, 1e-6, 1e-8, 1e-10, 0.0]])
    rescaled = LogRescale("learned", c)(falling)
    assert (rescaled.diff() < 0).all()
    assert rescaled[0, -1] == 0


def test_only_the_learned_constant_is_learned_and_it_moves():
    assert not any(p.requires_grad for how in ("fixed", "none") for p in LogRescale(how).parameters())
    rescale = LogRescale("learned", like=SHARED)
    before = rescale.c
    optimizer = torch.optim.Adam(rescale.parameters(), lr=0.1)
    rescale(SHARED).sum().backward()
    optimizer.step()
    assert rescale.c == pytest.approx(before - 0.1 * rescale.spread.item(), rel=1e-4)


def test_a_temperature_does_not_change_the_inverters_input():
    flat = SHARED**0.01
    rescaled = [LogRescale("learned", like=scores)(scores) for scores in (SHARED, flat)]
    torch.testing.assert_close(*rescaled, rtol=1e-4, atol=1e-5)


def test_scores_without_a_spread_are_fed_in_their_own_units():
    rescale = LogRescale("learned", like=torch.eye(3))
    assert rescale.spread == 1
    assert (rescale(torch.eye(3)).diagonal() > 0.5).all()


def test_a_trained_rescaling_is_restored_from_its_state():
    rescale, other = LogRescale("learned", like=SHARED), LogRescale("learned")
    other.load_state_dict(rescale.state_dict())
    assert torch.equal(other(SHARED), rescale(SHARED))


def test_quantiles_are_those_of_the_ranks_among_the_known_scores_of_the_class():
    like = torch.tensor([[0.1, 0.0], [0.3, 0.5], [0.2, 0.0], [0.2, 0.25]])
    found = QuantileRescale(like)(torch.tensor([[0.25, 0.0], [0.2, 0.25], [0.05, 0.9]]))
    shares = [[3.5 / 5, None], [2.5 / 5, 1 / 3], [0.5 / 5, 2.5 / 3]]
    expected = [[0.0 if share is None else NormalDist().inv_cdf(share) for share in row] for row in shares]
    torch.testing.assert_close(found[:, :2], torch.tensor(expected), rtol=0, atol=1e-5)
    assert found[:, 2:].tolist() == [[1, 0], [1, 1], [1, 1]]


def test_order_preserving_changes_within_a_class_do_not_change_quantiles():
    scores = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    flat = scores**0.1 / 7
    assert torch.equal(QuantileRescale(flat)(flat), QuantileRescale(scores)(scores))
    assert QuantileRescale(scores)(torch.eye(3)).isfinite().all()


def test_ranks_and_logarithms_stand_side_by_side():
    like = torch.rand(20, 3).softmax(1)
    joined = JoinedRescale(None, like)
    found = joined(like[:4])
    assert found.shape == (4, 9)
    assert torch.equal(found[:, :6], QuantileRescale(like)(like[:4]))
    assert torch.allclose(found[:, 6:], LogRescale("learned", None, like=like)(like[:4]))


def test_what_hidden_layers_drop_follows_from_their_generator_and_nothing_in_eval_mode():
    inputs = torch.rand(16, 5)
    layers = [HiddenLayers(5, 32, 0.5, torch.Generator().manual_seed(1)) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    assert torch.equal(layers[0](inputs), layers[1](inputs))
    assert not torch.equal(layers[0](inputs), layers[0](inputs))
    assert torch.equal(layers[0].eval()(inputs), layers[0](inputs))
