import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.measures.identification import identification_ranks, match_scores, true_match_rate


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(1, 4), st.integers(0, 999))
def test_a_score_is_the_cosine_with_the_likest_image_of_a_person(count, people, more, dimensions, seed):
    draw = torch.Generator().manual_seed(seed)
    shown = torch.cat([torch.arange(people), torch.randint(people, (more,), generator=draw)])
    shown = shown[torch.randperm(len(shown), generator=draw)]
    probes, gallery = drawn(seed, count, dimensions), drawn(seed + 1, len(shown), dimensions)

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    found = match_scores(probes, gallery, shown)
    assert found.shape == (count, people)
    for index, probe in enumerate(probes.tolist()):
        for person in range(people):
            best = max(cosine(probe, image) for image in gallery[shown == person].tolist())
            assert float(found[index, person]) == pytest.approx(best, abs=1e-6)
    torch.testing.assert_close(match_scores(7 * probes, gallery, shown), found)


def test_a_person_in_the_gallery_has_rank_one_and_an_empty_picture_the_last():
    gallery, shown = drawn(0, 12, 5), torch.arange(12) % 4
    assert identification_ranks(match_scores(gallery, gallery, shown), shown).tolist() == [1] * 12
    nothing = match_scores(torch.zeros(4, 5), gallery, shown)
    assert identification_ranks(nothing, torch.arange(4)).tolist() == [4] * 4


def test_distractors_can_only_worsen_a_rank():
    probes, gallery, shown = drawn(0, 30, 3), drawn(1, 20, 3), torch.arange(20) % 5
    own = torch.arange(30) % 5
    few = identification_ranks(match_scores(probes, gallery, shown), own)
    more = torch.cat([shown, 5 + torch.arange(8)])
    many = identification_ranks(match_scores(probes, torch.cat([gallery, drawn(2, 8, 3)]), more), own)
    assert (many >= few).all()
    assert int(many.max()) > 5


def test_guesses_are_identified_by_chance_and_accepted_as_often_as_others():
    scores, own = drawn(0, 4000, 10), torch.arange(4000) % 10
    ranks = identification_ranks(scores, own)
    for k in (1, 5):
        assert float((ranks <= k).double().mean()) == pytest.approx(k / 10, abs=0.03)
    assert true_match_rate(scores, own, 0.1) == pytest.approx(0.1, abs=0.02)


def test_the_threshold_accepts_exactly_the_false_match_rate():
    scores = torch.tensor([[0.5, 0.9, 0.1, 0.2, 0.3], [0.8, 0.7, 0.4, 0.35, 0.25]])
    own = torch.tensor([0, 0])  # others, from the top: 0.9, 0.7, 0.4, 0.35, 0.3, 0.25, 0.2, 0.1
    assert true_match_rate(scores, own, 1 / 8) == 0.5  # above 0.7: 0.8 alone
    assert true_match_rate(scores, own, 2 / 8) == 1.0  # above 0.4: both
    assert true_match_rate(scores, own, 0.12) is None


def test_gallery_and_people_must_fit():
    with pytest.raises(ValueError, match=r"expected images of each of 3 people, got \[1, 0, 1\]"):
        match_scores(torch.rand(1, 2), torch.rand(2, 2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"got \(1, 2\), \(2, 3\) and \(2,\)"):
        match_scores(torch.rand(1, 2), torch.rand(2, 3), torch.tensor([0, 1]))
