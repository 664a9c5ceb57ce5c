import pytest
import torch

from splitleak.datasets.images import Images
from splitleak.eval.record.scoring import check_disjoint, constant_mse, truth_of


def images(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=draw).to(torch.uint8)
    return Images(pixels, torch.arange(count), tuple(map(str, range(count))))


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


def test_the_best_constant_is_the_mean_of_the_true_pictures():
    truth = images(6).pixels.numpy()
    whole = truth.astype(float) / 255
    errors = [((whole - constant) ** 2).mean() for constant in (whole.mean(0), whole.mean(0) + 0.01, whole[0], 0.5)]
    assert constant_mse(truth) == pytest.approx(errors[0])
    assert constant_mse(truth) == pytest.approx(min(errors))
