import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitleak.eval.report.frontier import draw_frontier, non_dominated
from splitleak.eval.report.results import Results

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(POINTS)
def test_nothing_beats_what_is_on_the_frontier_and_something_beats_the_rest(points):
    on = set(non_dominated(points))
    for index, (x, y) in enumerate(points):
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
        assert (index in on) != beaten


def test_the_frontier_runs_from_left_to_right():
    assert non_dominated([(3, 0), (1, 2), (2, 1), (0, 0)]) == [1, 2, 0]


@pytest.mark.slow
def test_the_same_campaign_gives_the_same_plot_which_names_its_targets(fake_campaign, tmp_path):
    campaign = Results.load(fake_campaign(methods=("Bottleneck", "PATROL"), seeds=(0,)))
    for name in ("a", "b"):
        draw_frontier(campaign, tmp_path / name)
    first, second = ((tmp_path / name / "frontier.svg").read_text() for name in ("a", "b"))
    assert first == second
    assert "PATROL + CEM" in first
    assert (tmp_path / "a" / "frontier.png").stat().st_size > 5000
