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
    assert (found.rate, found.error, found.genuine, found.impostor) == (1, 0, 2, 4)


def test_scores_that_tell_nothing_are_right_as_often_as_wrong_and_the_error_is_over_probes():
    scores = torch.rand(300, 300, generator=torch.Generator().manual_seed(0))
    same = torch.arange(300)[:, None] % 10 == torch.arange(300) % 10
    found = pair_match_rate(scores, same, 0.05)
    assert found.rate == pytest.approx(0.05, abs=0.01)
    assert found.error == pytest.approx((0.05 * 0.95 / 30 / 300) ** 0.5, rel=0.2)  # 30 pairs each


def test_too_few_pairs_have_no_rate():
    same = torch.tensor([[True, False]])
    assert pair_match_rate(torch.rand(1, 2), same, 0.01).rate is None
    assert pair_match_rate(torch.rand(1, 2), torch.zeros(1, 2, dtype=torch.bool), 0.9).rate is None
