import pytest
import torch

from splitleak.datasets.images import Images
from splitleak.edge.ledger import Entry, Ledger, images_digest
from splitleak.eval.record.scoring import check_disjoint, constant_mse, truth_of


def images(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=draw).to(torch.uint8)
    return Images(pixels, torch.arange(count), tuple(map(str, range(count))))


COSTS = dict.fromkeys(("encode_us", "serialise_us", "network_us", "queue_us", "compute_us", "total_us"), 5)


def ledger(places, **about):
    """A ledger by id and place, or id and (place, label)."""
    rows = {name: place if isinstance(place, tuple) else (place, None) for name, place in places.items()}
    common = {"predicted": 0, "sent_bytes": 9, "payload_sha256": "0" * 64, **COSTS}
    entries = (Entry(request_id=name, place=place, label=label, **common) for name, (place, label) in rows.items())
    return Ledger(entries=tuple(entries), **about)


def test_guesses_are_joined_with_the_truth_by_the_ledger_whatever_their_order():
    truth = images(5)
    places = {f"id-{place}": place for place in range(5)}
    joined = truth_of(["id-3", "id-0", "id-4", "id-1", "id-2"], ledger(places), truth)
    assert torch.equal(joined.pixels, truth.pixels[[3, 0, 4, 1, 2]])
    assert joined.labels.tolist() == [3, 0, 4, 1, 2]


def test_a_guess_with_an_unknown_id_is_refused():
    with pytest.raises(ValueError, match=r"1 not in the ledger \['stranger'\]"):
        truth_of(["a", "stranger"], ledger({"a": 0}), images(1))


def test_a_victim_without_a_guess_is_refused():
    with pytest.raises(ValueError, match=r"1 without a reconstruction \[1\]"):
        truth_of(["a"], ledger({"a": 0, "b": 1}), images(2))


def test_an_image_that_was_sent_often_has_one_guess_under_any_of_its_ids():
    truth = images(2)
    places = {"s-0-0": 0, "s-0-1": 0, "s-1-0": 1, "s-1-1": 1}
    assert truth_of(["s-1-0", "s-0-1"], ledger(places), truth).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"for each of 2 .*, 1 with more than one \[0\]"):
        truth_of(["s-0-0", "s-0-1", "s-1-0"], ledger(places), truth)


def test_other_images_than_were_sent_are_refused_by_digest():
    truth, places = images(3), {"a": 0, "b": 1, "c": 2}
    sent = ledger(places, images=images_digest(truth))
    assert torch.equal(truth_of(["a", "b", "c"], sent, truth).pixels, truth.pixels)
    one_pixel = truth.pixels.clone()
    one_pixel[1, 0, 0, 0] ^= 1
    for other in (
        images(3, seed=1),
        images(4),
        images(2),
        truth.select(torch.tensor([0, 2, 1])),
        Images(one_pixel, truth.labels, truth.classes),
    ):
        with pytest.raises(ValueError, match=rf"images that the ledger is of, {sent.images}, got {len(other)} others"):
            truth_of(["a", "b", "c"], sent, other)


def test_images_that_an_older_ledger_cannot_be_of_are_refused_by_place_or_label():
    truth, places = images(3), {"a": (0, 0), "b": (1, 1), "c": (2, 2)}
    assert truth_of(["a", "b", "c"], ledger(places), truth).labels.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="got 2 others: 1 entries differ in place or label"):
        truth_of(["a", "b", "c"], ledger(places), images(2))
    with pytest.raises(ValueError, match="got 3 others: 2 entries differ in place or label"):
        truth_of(["a", "b", "c"], ledger(places), truth.select(torch.tensor([0, 2, 1])))


def test_a_ledger_whose_entries_are_not_of_its_images_is_refused():
    truth = images(3)
    for odd in ({"a": (9, 0)}, {"a": (1, 0)}, {"a": (0, 1)}):
        sent = ledger({"a": (0, 0), "b": (1, 1), "c": (2, 2), **odd}).model_copy(
            update={"images": images_digest(truth)}
        )
        with pytest.raises(ValueError, match="got 3 others: 1 entries differ in place or label"):
            truth_of(["a", "b", "c"], sent, truth)


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
