from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitleak.eval.report.figures.frontier import draw_frontier, frontier_figure, frontier_sheets, non_dominated
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


def test_what_is_not_measured_is_not_called_dominated(fake_campaign):
    """Nor are pictures without SSIM: the table said "no" of what nobody had compared."""

    def change(cell, figures):
        figures["ssim"] = None
        return not cell["plus"]

    [sheet] = frontier_sheets(Results.load(fake_campaign(change, methods=("Bottleneck", "PATROL"), seeds=(0,))))
    assert [[str(text) for text in row] for row in sheet.rows] == [
        ["Bottleneck", "90.00", "0.0100", "no", "-", "-"],
        ["Bottleneck + CEM", "-", "-", "-", "-", "-"],
        ["PATROL", "90.00", "0.0400", "yes", "-", "-"],
        ["PATROL + CEM", "-", "-", "-", "-", "-"],
    ]


@pytest.mark.slow
def test_the_same_campaign_gives_the_same_plot_which_names_its_targets(fake_campaign, tmp_path):
    campaign = Results.load(fake_campaign(methods=("Bottleneck", "PATROL"), seeds=(0,)))
    for name in ("a", "b"):
        draw_frontier(campaign, tmp_path / name)
    first, second = ((tmp_path / name / "frontier.svg").read_text() for name in ("a", "b"))
    assert first == second
    assert "PATROL + CEM" in first
    assert (tmp_path / "a" / "frontier.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_recorded_campaign_has_fourteen_named_points_with_bars_and_no_two_names_overlap():
    figure = frontier_figure(Results.load(Path("eval/results/cem_small")))
    for axes in figure.axes:
        names = [text for text in axes.texts if text.get_text()]
        boxes = [text.get_window_extent().extents for text in names]
        frame = axes.get_window_extent().extents
        assert len(names) == 14
        assert sum(container.has_xerr and container.has_yerr for container in axes.containers) == 14
        assert not any((np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:])).all() for a, b in combinations(boxes, 2))
        assert all((box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all() for box in boxes)
