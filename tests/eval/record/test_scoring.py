import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from splitleak.datasets.images import Images
from splitleak.eval.record.scoring import METRICS, check_disjoint, score, spread, truth_of


@pytest.fixture(scope="module")
def pair():
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(6, 1, 16, 16, generator=draw)
    return (truth + 0.2 * torch.randn(truth.shape, generator=draw)).clamp(0, 1), truth


def images(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=draw).to(torch.uint8)
    return Images(pixels, torch.arange(count), tuple(map(str, range(count))))


def test_mse_and_psnr_are_those_of_numpy_and_scikit_image(pair):
    rebuilt, truth = (batch.double().numpy() for batch in pair)
    errors = ((rebuilt - truth) ** 2).reshape(6, -1).mean(1)
    psnrs = [peak_signal_noise_ratio(truth[i], rebuilt[i], data_range=1.0) for i in range(6)]
    found = score(*pair)
    for name, values in (("mse", errors), ("psnr", psnrs)):
        assert found[name]["mean"] == pytest.approx(np.mean(values), rel=1e-5)
        assert found[name]["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-4)
        assert found[name]["values"] == pytest.approx(list(values), rel=1e-4)
    assert found["batch_psnr"] == pytest.approx(peak_signal_noise_ratio(truth, rebuilt, data_range=1.0), rel=1e-5)
    assert found["n"] == 6


def test_ssim_is_that_of_scikit_image(pair):
    rebuilt, truth = (batch.double().numpy()[:, 0] for batch in pair)
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [structural_similarity(truth[i], rebuilt[i], **options) for i in range(6)]
    found = score(*pair)["ssim"]
    assert found["values"] == pytest.approx(values, abs=1e-4)
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-4)
    assert found["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)


def test_every_metric_gives_one_value_an_image(pair):
    found = score(*pair)
    assert all(len(found[name]["values"]) == 6 for name in METRICS)


def test_an_exact_copy_counts_as_100_db_so_that_means_stay_finite(pair):
    found = score(pair[1], pair[1])
    assert (found["psnr"]["mean"], found["psnr"]["std"]) == (100, 0)
    assert (found["mse"]["mean"], found["ssim"]["mean"]) == (0, pytest.approx(1))


def test_one_image_has_no_spread():
    assert spread(np.array([0.25])) == {"mean": 0.25, "std": 0.0, "values": [0.25]}


def test_guesses_are_joined_with_the_truth_by_the_ledger_whatever_their_order():
    truth = images(5)
    places = {f"id-{place}": place for place in range(5)}
    joined = truth_of(["id-3", "id-0", "id-4", "id-1", "id-2"], places, truth)
    assert torch.equal(joined.pixels, truth.pixels[[3, 0, 4, 1, 2]])
    assert joined.labels.tolist() == [3, 0, 4, 1, 2]


def test_a_guess_with_an_unknown_id_is_refused():
    with pytest.raises(ValueError, match=r"1 not in the ledger \['stranger'\]"):
        truth_of(["a", "stranger"], {"a": 0}, images(1))


def test_a_victim_without_a_guess_is_refused():
    with pytest.raises(ValueError, match=r"1 without a reconstruction \[1\]"):
        truth_of(["a"], {"a": 0, "b": 1}, images(2))


def test_an_image_that_was_sent_often_has_one_guess_under_any_of_its_ids():
    truth = images(2)
    places = {"s-0-0": 0, "s-0-1": 0, "s-1-0": 1, "s-1-1": 1}
    assert truth_of(["s-1-0", "s-0-1"], places, truth).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"for each of 2 .*, 1 with more than one \[0\]"):
        truth_of(["s-0-0", "s-0-1", "s-1-0"], places, truth)


def test_an_attacker_who_owned_a_victims_image_is_refused():
    victims, public = images(4, seed=1), images(4, seed=2)
    check_disjoint(public.hashes(), victims)
    with pytest.raises(ValueError, match="but 1 of them are the same"):
        check_disjoint([*public.hashes(), victims.hashes()[2]], victims)
