import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from splitleak.attacker.base import Attack, Knowledge, Query, Run, Simulate, affordable
from splitleak.config import Config


class Given(Attack):
    """Answers with what it was given."""

    name = "given"
    config_type = Config
    needs = frozenset({"public"})

    def __init__(self, images):
        super().__init__(Config())
        self.images = images

    def reconstruct(self, known, run):
        return self.images


def knowledge(**changes):
    known = Knowledge(captured=torch.zeros(2, 3, 2, 2), image_shape=(1, 4, 4), public=torch.zeros(5, 1, 4, 4))
    return dataclasses.replace(known, **changes)


def test_queries_are_counted_by_the_image():
    query = Query(lambda images: images + 1)
    assert torch.equal(query(torch.zeros(3, 1)), torch.ones(3, 1))
    query(torch.zeros(4, 1))
    assert query.made == 7


def test_an_answer_that_is_a_mean_of_several_views_costs_as_many_queries():
    query = Query(lambda images: images, budget=7, averaging=3)
    query(torch.zeros(2, 1))
    assert query.made == 6
    with pytest.raises(PermissionError, match="at most 7 queries, got 9"):
        query(torch.zeros(1, 1))


def test_what_a_budget_affords_is_counted_in_queries_and_not_in_answers():
    query = Query(lambda images: images, budget=7, averaging=3)
    query(torch.zeros(1, 1, 2, 2))
    assert query.affords(1)
    assert not query.affords(2)
    assert Query(lambda images: images).affords(10**9)


def test_nothing_is_sent_over_the_budget():
    sent = []
    query = Query(lambda images: sent.append(len(images)) or images, budget=5)
    query(torch.zeros(3, 1))
    with pytest.raises(PermissionError, match="at most 5 queries, got 6"):
        query(torch.zeros(3, 1))
    assert (sent, query.made) == ([3], 3)
    query(torch.zeros(2, 1))
    assert query.made == 5


def test_what_was_asked_ahead_is_given_again_once_and_costs_nothing():
    asked = []

    def send(images):
        asked.append(images.flatten().tolist())
        return images + len(asked)

    query, images = Query(send, budget=6), torch.arange(4.0).reshape(4, 1, 1, 1)
    assert query.ahead(images[:2]).flatten().tolist() == [1, 2]
    assert query(images[[2, 1, 1, 0]]).flatten().tolist() == [4, 3, 2, 1]  # its copy is asked about
    assert (asked, query.made) == ([[0, 1], [2, 1]], 4)
    assert query(images[:2]).flatten().tolist() == [3, 4]
    assert query.made == 6
    with pytest.raises(PermissionError, match="at most 6 queries, got 7"):
        query(images[:1])


def test_knowledge_has_no_place_for_the_victims_images_or_a_path():
    allowed = {
        "captured": torch.Tensor,
        "image_shape": tuple[int, int, int],
        "public": torch.Tensor | None,
        "query": Query | None,
        "labels": torch.Tensor | None,
        "encoder": nn.Module | None,
        "head": nn.Module | None,
        "fresh_encoder": Callable[[], nn.Module] | None,
        "kind": Literal["features", "scores"],
        "parts": tuple[tuple[int, ...], ...] | None,
        "prior": "Prior | DiffusionPrior | None",
        "simulate": Simulate | None,
    }
    assert {field.name: field.type for field in dataclasses.fields(Knowledge)} == allowed
    with pytest.raises(dataclasses.FrozenInstanceError):
        knowledge().public = None
    assert not {field.name for field in dataclasses.fields(Run)} & {"victims", "truth", "ledger", "images"}


def test_images_leave_the_entry_on_the_cpu_without_gradient_and_in_range():
    made = Given(torch.linspace(-1, 2, 32).view(2, 1, 4, 4).double().requires_grad_())(knowledge())
    assert made.dtype == torch.float32
    assert not made.requires_grad
    assert (made.min(), made.max()) == (0, 1)


def test_the_entry_refuses_what_was_withheld():
    with pytest.raises(PermissionError, match="attack 'given' needs 'public', which this threat model withholds"):
        Given(torch.zeros(2, 1, 4, 4))(knowledge(public=None))


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (2, 3, 4, 4), (2, 16)])
def test_the_entry_refuses_images_of_another_shape(shape):
    with pytest.raises(RuntimeError, match=r"expected finite images \(2, 1, 4, 4\)"):
        Given(torch.zeros(shape))(knowledge())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_entry_refuses_values_that_are_not_finite(value):
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 2, 2] = value
    with pytest.raises(RuntimeError, match="not all finite"):
        Given(images)(knowledge())


def test_the_entry_refuses_an_empty_capture():
    with pytest.raises(ValueError, match="at least one captured feature"):
        Given(torch.zeros(0, 1, 4, 4))(knowledge(captured=torch.zeros(0, 3, 2, 2)))


def test_the_entry_refuses_scores_where_it_takes_features_and_the_other_way_round(monkeypatch):
    attack = Given(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"attack 'given': expected captured features .*, got scores \(2, 10\)"):
        attack(knowledge(captured=torch.zeros(2, 10), kind="scores"))
    monkeypatch.setattr(Given, "takes", "scores")
    with pytest.raises(ValueError, match=r"attack 'given': expected captured scores .*, got features \(2, 3, 2, 2\)"):
        attack(knowledge())
    with pytest.raises(ValueError, match=r"expected captured scores \(N, K\), got scores \(2, 3, 2, 2\)"):
        attack(knowledge(kind="scores"))
    assert attack(knowledge(captured=torch.zeros(2, 10), kind="scores")).shape == (2, 1, 4, 4)


def test_features_may_be_tokens_vectors_or_several_tensors_in_one(monkeypatch):
    attack = Given(torch.zeros(2, 1, 4, 4))
    for shape in ((10,), (5, 2), (3, 2, 2)):
        assert attack(knowledge(captured=torch.zeros(2, *shape))).shape == (2, 1, 4, 4)
    packed = knowledge(captured=torch.zeros(2, 10), parts=((2, 2, 2), (2,)))
    assert attack(packed).shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"expected features \(10,\), which pack .*, got \(5, 2\)"):
        attack(dataclasses.replace(packed, captured=torch.zeros(2, 5, 2)))


def test_the_entry_refuses_public_images_of_another_shape():
    with pytest.raises(ValueError, match=r"expected public images \(1, 4, 4\), got \(1, 8, 8\)"):
        Given(torch.zeros(2, 1, 4, 4))(knowledge(public=torch.zeros(5, 1, 8, 8)))


def test_a_part_of_an_attack_is_the_same_run_with_a_checkpoint_of_its_own():
    run = Run(seed=3, checkpoint=Path("folder/.out.checkpoint"))
    assert run.part("decoder") == dataclasses.replace(run, checkpoint=Path("folder/.out.checkpoint.decoder"))
    assert Run().part("decoder").checkpoint is None


def test_what_a_budget_covers_is_chosen_at_random_and_a_larger_one_adds_to_it():
    assert affordable(None, 10, 1, seed=0) is None
    assert affordable(10, 10, 1, seed=0) is None
    assert affordable(2, 10, 3, seed=0) is None
    few, more = affordable(9, 100, 3, seed=0).tolist(), affordable(100, 100, 3, seed=0).tolist()
    assert (len(few), len(more)) == (3, 33)
    assert set(few) < set(more)
    assert more == sorted(more) != list(range(33))
    assert affordable(9, 100, 3, seed=1).tolist() != few
