import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitleak.measures.proportion import wilson


def test_the_published_study_is_within_1_2_points():
    """3000 answers, 12.9 % for one side."""
    found = wilson(387, 3000)
    assert found.share == pytest.approx(0.129)
    assert (found.high - found.low) / 2 == pytest.approx(0.012, abs=5e-5)


@given(st.integers(1, 300), st.data())
def test_its_ends_are_the_shares_from_which_the_count_is_just_z_deviations_away(n, data):
    hits = data.draw(st.integers(0, n))
    found = wilson(hits, n)
    assert 0 <= found.low <= found.share <= found.high <= 1
    for end, always in ((found.low, hits == 0), (found.high, hits == n)):
        assert always or abs(found.share - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.959964, abs=1e-5)


def test_its_coverage_is_the_nominal_confidence():
    def covered(p, n):
        ways = (math.comb(n, hits) * p**hits * (1 - p) ** (n - hits) for hits in range(n + 1))
        return sum(way for hits, way in enumerate(ways) if wilson(hits, n).low <= p <= wilson(hits, n).high)

    found = [covered(p / 40, 40) for p in range(2, 39)]
    assert sum(found) / len(found) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("hits", "n", "confidence"), [(0, 0, 0.95), (4, 3, 0.95), (-1, 3, 0.95), (1, 3, 1.0)])
def test_invalid_counts_are_refused(hits, n, confidence):
    with pytest.raises(ValueError, match="expected 0 to n hits"):
        wilson(hits, n, confidence)


def test_the_document_has_the_share_and_the_ends():
    assert wilson(1, 2).document().keys() == {"share", "hits", "n", "low", "high", "confidence"}
