import pytest
import torch

from splitleak.measures.identification import true_match_rate
from splitleak.measures.linkage.verification import pair_match_rate, pair_scores


def test_scores_are_cosines_and_a_zero_feature_is_like_none():
    scores = pair_scores(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [-6.0, -8.0]]))
    assert scores.tolist() == [[pytest.approx(0.6), pytest.approx(-1)], [0, 0]]


def test_of_one_own_match_a_probe_it_is_the_rate_of_identification():
    scores, own = torch.rand(50, 20, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 20
    scores[torch.arange(50), own] += 0.3
    same = own[:, None] == torch.arange(20)
    for rate in (0.1, 0.01):
        assert pair_match_rate(scores, same, rate).rate == pytest.approx(true_match_rate(scores, own, rate))


def test_only_pairs_that_are_compared_count():
    scores = torch.tensor([[9.0, 0.5, 0.1], [0.5, 9.0, 0.2], [0.1, 0.2, 9.0]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    found = pair_match_rate(scores, same, 0.3, compared=~torch.eye(3, dtype=torch.bool))
    assert (found.rate, found.error, found.genuine, found.impostor) == (1, None, 2, 4)  # of two victims no one is left


def test_the_error_is_that_of_other_victims():
    """Of ten people, whose pictures lie about their own: each victim is in many pairs, as a probe and as a match."""
    draw = torch.Generator().manual_seed(0)
    people, labels = torch.randn(10, 8, generator=draw), torch.arange(100) % 10
    same, others = labels[:, None] == labels, ~torch.eye(100, dtype=torch.bool)
    found = []
    for _ in range(60):
        vectors = people[labels] + torch.randn(100, 8, generator=draw)
        found.append(pair_match_rate(pair_scores(vectors, vectors), same, 0.05, compared=others))
    spread = torch.tensor([each.rate for each in found]).std()
    assert sum(each.error for each in found) / len(found) == pytest.approx(float(spread), rel=0.25)


def test_scores_that_tell_nothing_are_right_as_often_as_wrong_and_their_error_is_no_less_than_it_is():
    scores = torch.rand(300, 300, generator=torch.Generator().manual_seed(0))
    same = torch.arange(300)[:, None] % 10 == torch.arange(300) % 10
    found = pair_match_rate(scores, same, 0.05)
    assert found.rate == pytest.approx(0.05, abs=0.01)
    assert 1 < found.error / (0.05 * 0.95 / 30 / 300) ** 0.5 < 1.7  # 30 pairs each; two victims a pair


def test_too_few_pairs_have_no_rate():
    same = torch.tensor([[True, False]])
    assert pair_match_rate(torch.rand(1, 2), same, 0.01).rate is None
    assert pair_match_rate(torch.rand(1, 2), torch.zeros(1, 2, dtype=torch.bool), 0.9).rate is None
