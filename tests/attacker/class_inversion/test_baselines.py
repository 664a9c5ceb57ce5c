import dataclasses

import pytest
import torch

from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassKnowledge

POOL = torch.arange(6).view(6, 1, 1, 1).expand(6, 1, 16, 16) / 10
ANSWERS = torch.tensor([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.8, 0.2, 0], [0.3, 0.7, 0], [0.5, 0.4, 0.1], [0.2, 0.8, 0]])


def known(**changes):
    """Six public images, each of one shade, and a service that knows them by it."""
    query = Query(lambda images: ANSWERS[(images[:, 0, 0, 0] * 10).round().long()])
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    return dataclasses.replace(
        ClassKnowledge(image_shape=(1, 16, 16), classes=3, public=POOL, labels=labels, query=query), **changes
    )


def picked(name, *, given=None, seed=0, **settings):
    """The places in the pool of what a baseline picks, by class."""
    kind = CLASS_ATTACKS[name]
    attack = kind(kind.config_type(**settings))
    rebuilt = attack(known() if given is None else given, Run(seed=seed))
    return (rebuilt[:, :, 0, 0, 0] * 10).round().long().tolist(), attack


def test_by_scores_the_surest_of_each_class_come_first():
    rows, attack = picked("public-by-scores", images=3)
    assert rows == [[0, 2, 1], [5, 3, rows[1][2]], [4, 4, 4]]
    assert rows[1][2] in (1, 4)  # equally sure
    assert attack.findings == {"pool": 6, "classes_unseen": []}


def test_by_label_any_that_are_labelled_so_are_repeated_where_they_are_few():
    rows, attack = picked("public-by-label", images=5)
    assert set(rows[0]) == {0, 1, 2, 4}
    assert set(rows[1]) == {3, 5}
    assert rows[1][:2] == rows[1][2:4]
    assert attack.findings["classes_unseen"] == [2]
    assert len(set(rows[2])) == 5  # a class that no image is labelled as gets any


def test_by_its_own_labels_the_attacker_asks_nobody():
    rows, _ = picked("public-own-labels", given=known(query=None), images=3)
    assert [set(row) for row in rows[:2]] == [{0, 1, 4}, {2, 3, 5}]


def test_another_seed_picks_others_where_the_order_is_open():
    drawn = {tuple(picked("public-own-labels", images=2, seed=seed)[0][0]) for seed in range(8)}
    assert len(drawn) > 2


def test_no_more_is_picked_than_there_are():
    rows, _ = picked("public-by-scores", images=40)
    assert [len(row) for row in rows] == [6, 6, 6]


@pytest.mark.parametrize("name", ["public-by-scores", "public-by-label"])
def test_who_may_ask_about_fewer_than_there_are_picks_from_these(name):
    given = known()
    given.query.budget = 4
    rows, attack = picked(name, given=given, images=6)
    assert given.query.made == attack.findings["pool"] == 4
    assert len({place for row in rows for place in row}) <= 4
    assert [len(row) for row in rows] == [4, 4, 4]


def test_samples_of_a_generator_are_picked_as_they_are(tiny_prior):
    given = known(prior=tiny_prior, query=Query(lambda images: images.flatten(1)[:, :3].softmax(1)))
    kind = CLASS_ATTACKS["prior-samples"]
    attack = kind(kind.config_type(candidates=30, images=4))
    rebuilt, query = attack(given), given.query
    assert rebuilt.shape == (3, 4, 1, 16, 16)
    assert query.made == 30
    assert torch.isin(rebuilt, attack.pool(given, Run())).all()


@pytest.mark.parametrize("name", [name for name, kind in CLASS_ATTACKS.items() if kind.baseline])
def test_a_baseline_sees_no_weights(name):
    assert CLASS_ATTACKS[name].access in ("none", "label", "score")
