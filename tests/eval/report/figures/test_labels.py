import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from splitleak.eval.report.figures.labels import freeze_layout, place_labels

POINT = st.tuples(st.floats(0, 1), st.floats(0, 1))


def panel(points, invert=False, size=(5, 4)):
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    if invert:
        axes.invert_yaxis()
    freeze_layout(figure)
    return axes, [f"a label {index}" for index in range(len(points))], ["C0"] * len(points)


def extents(labels):
    return [label.get_window_extent().extents for label in labels]


def overlap(a, b):
    return bool((np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:])).all())


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(POINT, min_size=1, max_size=10), st.booleans())
def test_no_label_overlaps_another_or_a_point_or_leaves_the_axes(points, invert):
    axes, texts, colours = panel(points, invert)
    boxes = extents(place_labels(axes, points, texts, colours, size=7))
    frame = axes.get_window_extent().extents
    assert len(boxes) == len(points)
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    for box in boxes:
        assert (box[:2] >= frame[:2]).all()
        assert (box[2:] <= frame[2:]).all()
    for box, (x, y) in itertools.product(boxes, axes.transData.transform(np.array(points))):
        assert not overlap(box, np.array([x - 2, y - 2, x + 2, y + 2]))


def test_labels_follow_their_points_and_keep_off_what_is_spared():
    points = [(0.5, 0.5)]
    axes, texts, colours = panel(points)
    [near] = extents(place_labels(axes, points, texts, colours, size=7))
    assert np.hypot(*(axes.transData.transform(points[0]) - (near[:2] + near[2:]) / 2)) < 60
    bar = Bbox.from_extents(0.5, 0.5, 1, 0.5)
    [beside] = extents(place_labels(axes, points, texts, colours, size=7, spared=[bar]))
    assert not overlap(beside, axes.transData.transform(bar.get_points()).ravel())


def test_what_finds_no_place_is_left_out_rather_than_laid_over_others():
    points = [(0.5, 0.5)] * 90
    axes, texts, colours = panel(points, size=(3, 2))
    labels = place_labels(axes, points, texts, colours, size=7)
    assert 20 < len(labels) < 90
    assert not any(overlap(a, b) for a, b in itertools.combinations(extents(labels), 2))


@pytest.mark.parametrize("count", [0, 1])
def test_few_points_are_no_special_case(count):
    points = [(0.5, 0.5)] * count
    axes, texts, colours = panel(points)
    assert len(place_labels(axes, points, texts, colours, size=7)) == count
