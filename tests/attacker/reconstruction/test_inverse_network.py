import pytest
import torch
from torch.nn import functional

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.reconstruction import inverse_network
from splitleak.attacker.reconstruction.inverse_network import (
    InverseNetwork,
    InverseNetworkAttack,
    InverseNetworkConfig,
    inverse_network_for,
)


@pytest.mark.parametrize(
    ("feature", "parameters"), [((64, 32, 32), 1_731), ((128, 16, 16), 75_523), ((128, 8, 8), 223_107)]
)
def test_at_the_published_cuts_it_is_the_published_network(feature, parameters):
    network = InverseNetwork(feature, (3, 32, 32))
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert network(torch.zeros(2, *feature)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("feature", "image"), [((8, 8, 8), (1, 32, 32)), ((8, 12, 12), (3, 48, 48)), ((4, 2, 2), (1, 32, 32))]
)
def test_it_reaches_the_image_from_any_cut(feature, image):
    assert InverseNetwork(feature, image, 8)(torch.zeros(2, *feature)).shape == (2, *image)


def test_a_cut_whose_sides_do_not_double_to_the_images_is_refused():
    with pytest.raises(ValueError, match="one power of two"):
        InverseNetwork((8, 5, 5), (1, 32, 32))


@pytest.mark.parametrize("parts", [None, ((12, 1, 1),)])
def test_what_lies_at_a_single_place_is_inverted_as_a_vector(parts):
    shape = (12,) if parts else (12, 1, 1)
    torch.manual_seed(0)
    placed = inverse_network_for(shape, (1, 16, 16), 4, parts)
    torch.manual_seed(0)
    vector = inverse_network_for((12,), (1, 16, 16), 4)
    features = torch.randn(3, 12)
    assert torch.equal(placed(features.view(-1, *shape)), vector(features))


def test_its_output_has_no_bounds_of_its_own():
    assert InverseNetwork((2, 8, 8), (1, 16, 16), 4)(100 * torch.randn(4, 2, 8, 8)).abs().max() > 1


def test_the_learning_rate_is_halved_every_so_many_epochs(monkeypatch):
    rates = []
    monkeypatch.setattr(inverse_network, "set_rate", lambda optimizer, rate: rates.append(rate))
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    known = Knowledge(images, (1, 8, 8), public=images, query=Query(lambda given: given))
    config = InverseNetworkConfig(channels=4, epochs=5, halved_every=2, batch_size=16, learning_rate=0.4)
    InverseNetworkAttack(config)(known)
    assert rates == [*[0.4] * 12, *[0.2] * 12, *[0.1] * 6]


def test_its_weights_are_of_the_epoch_with_least_held_out_error():
    images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    send = lambda given: functional.avg_pool2d(given, 2)  # noqa: E731
    known = Knowledge(send(images[:5]), (1, 8, 8), public=images, query=Query(send))
    attack = InverseNetworkAttack(InverseNetworkConfig(channels=4, epochs=4))
    rebuilt = attack(known, Run(seed=1))
    errors = [figures["held_out_mse"] for figures in attack.findings["history"]]
    assert attack.findings["held_out_mse"] == min(errors) == errors[attack.findings["chosen_epoch"] - 1]
    network = InverseNetwork((1, 4, 4), (1, 8, 8), 4)
    network.load_state_dict(attack.weights())
    with torch.no_grad():
        torch.testing.assert_close(network(known.captured).clamp(0, 1), rebuilt)


@pytest.mark.slow
@pytest.mark.parametrize("flat", [False, True])
def test_features_of_any_scale_are_rebuilt_as_well(flat, small_splits):
    images, errors = small_splits.public.floats()[:60], []
    for scale in (1.0, 1e-3, 0.06, 5.0, 1e3):

        def send(given, scale=scale):
            features = scale * 3 * functional.avg_pool2d(given, 2)
            return features.flatten(1) if flat else features

        captured = send(small_splits.victims.floats())
        known = Knowledge(captured, (1, 16, 16), public=images, query=Query(send))
        made = InverseNetworkAttack(InverseNetworkConfig(channels=8, epochs=15))(known)
        errors.append(float(functional.mse_loss(made, small_splits.victims.floats())))
    assert max(errors[1:]) < 1.2 * errors[0]


def test_of_ten_pictures_it_rebuilds_far_better_than_their_mean(small_splits):
    """An epoch of a single step taught it too little: the MSE was .39 of the mean's, and is .11."""
    few, victims = small_splits.public.floats()[:10], small_splits.victims.floats()
    send = lambda given: functional.avg_pool2d(given, 2)  # noqa: E731
    known = Knowledge(send(victims), (1, 16, 16), public=few, query=Query(send))
    made = InverseNetworkAttack(InverseNetworkConfig())(known)
    mean = float(functional.mse_loss(few.mean(0).expand_as(victims), victims))
    assert float(functional.mse_loss(made, victims)) < 0.2 * mean


@pytest.mark.slow
@pytest.mark.parametrize("side", [8, 7])
def test_features_far_from_zero_are_rebuilt_as_well(side, small_splits):
    """A sigmoid gives a half, more or less: what varies was a fiftieth of what the first layer saw."""
    images, victims, errors = small_splits.public.floats()[:60], small_splits.victims.floats(), []
    for offset in (0, 30):

        def send(given, offset=offset):
            return torch.cat([functional.adaptive_avg_pool2d(given, side) + sign * offset for sign in (1, -1)], 1)

        known = Knowledge(send(victims), (1, 16, 16), public=images, query=Query(send))
        made = InverseNetworkAttack(InverseNetworkConfig(channels=8, epochs=15))(known)
        errors.append(float(functional.mse_loss(made, victims)))
    assert errors[1] < 1.2 * errors[0]


def test_a_channel_that_drowns_the_others_is_brought_down_to_them(small_splits):
    images, victims, errors = small_splits.public.floats()[:60], small_splits.victims.floats(), []
    for factor in (1, 300):

        def send(given, factor=factor):
            pooled = 3 * functional.pixel_unshuffle(given, 2)
            return torch.cat([factor * pooled[:, :1], pooled[:, 1:]], 1)

        known = Knowledge(send(victims), (1, 16, 16), public=images, query=Query(send))
        made = InverseNetworkAttack(InverseNetworkConfig(channels=16, epochs=15))(known)
        errors.append(float(functional.mse_loss(made, victims)))
    assert errors[1] < 1.5 * errors[0]


def test_weights_of_before_there_were_a_centre_and_levels_have_none():
    network = InverseNetwork((3, 4, 4), (1, 8, 8), 4)
    network.adapt(torch.randn(9, 3, 4, 4) * torch.tensor([1.0, 1.0, 90.0])[:, None, None] + 500)
    assert bool((network.centre > 5).all())
    assert bool((network.levels[2] > 20).all())
    weights = {name: value for name, value in network.state_dict().items() if name not in ("centre", "levels")}
    network.load_state_dict(weights)
    assert not bool(network.centre.any())
    assert bool((network.levels == 1).all())


def test_the_paper_preset_is_the_published_training():
    paper = InverseNetworkAttack.paper_config()
    assert (paper.channels, paper.epochs, paper.batch_size) == (64, 50, 32)
    assert (paper.learning_rate, paper.halved_every) == (1e-3, 10)
