"""Labels of points in a plot, placed so that none overlaps another or leaves the axes."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

_PAD = 1.5  # pixels that stay free around a label
_POINT = 4.0  # pixels around a point that no label covers
_LEADER = 16.0  # pixels from which on a line leads from the label to its point
_NEAR = 60.0  # pixels within which a label also keeps off bars
_POINTS_AN_INCH = 72
_DIRECTIONS, _REACH, _STEP = 16, 260.0, 5.0

Boxes = NDArray[np.float64]
"""``(N, 4)``: left, bottom, right and top in pixels."""


def freeze_layout(figure: Figure) -> None:
    """Lays a figure out once and for all, so that what is placed by its pixels stays where it is."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    colours: Sequence[str],
    *,
    size: float,
    spared: Sequence[Bbox] = (),
) -> list[Annotation]:
    """Writes each text beside its point, the crowded ones first, with a line to it where it is not near.

    The figure must be laid out, see `freeze_layout`, and the axes' limits be final. A label that finds no free place
    within reach is left out, rather than laid over others: a table beside the plot has all of them.

    Args:
        axes: The axes.
        points: In the units of the data.
        texts: One for each point.
        colours: One for each point.
        size: Of the letters, in points.
        spared: What labels keep off where they can, as bars of errors, in the units of the data.

    Returns:
        The labels that found a place, in the order of the points.
    """
    if not points:
        return []
    frame, to_points = axes.get_window_extent().extents, _POINTS_AN_INCH / axes.figure.dpi
    places = axes.transData.transform(np.array(points))
    taken = np.hstack([places - _POINT, places + _POINT])
    kept_off = _boxes([axes.transData.transform(box.get_points()) for box in spared])
    labels: dict[int, Annotation] = {}
    for index in sorted(range(len(places)), key=lambda index: _room(places, index)):
        label = axes.annotate(
            texts[index], points[index], (0, 0), textcoords="offset points", fontsize=size, color=colours[index]
        )
        extent = label.get_window_extent()
        around, away = _candidates(places[index], extent.width, extent.height)
        inside = (around[:, :2] >= frame[:2]).all(1) & (around[:, 2:] <= frame[2:]).all(1)
        free = inside & ~_overlap(around, taken)
        clear = free & (away < _NEAR) & ~_overlap(around, kept_off)
        found = clear if clear.any() else free
        if not found.any():
            label.remove()
            continue
        first = int(found.argmax())
        label.set_position(tuple((around[first, :2] + _PAD - places[index]) * to_points))
        if away[first] > _LEADER:
            _lead(axes, around[first], places[index], colours[index])
        taken = np.vstack([taken, around[first]])
        labels[index] = label
    return [labels[index] for index in sorted(labels)]


def _boxes(corners: Sequence[NDArray[np.float64]]) -> Boxes:
    """Boxes of two opposite corners each, whichever way the axes run."""
    pairs = np.array(corners, dtype=np.float64).reshape(-1, 2, 2)
    return np.hstack([pairs.min(1), pairs.max(1)])


def _room(places: NDArray[np.float64], index: int) -> float:
    """The distance to the nearest other point."""
    others = np.delete(places, index, axis=0)
    return float(np.linalg.norm(others - places[index], axis=1).min(initial=math.inf))


def _candidates(place: NDArray[np.float64], width: float, height: float) -> tuple[Boxes, NDArray[np.float64]]:
    """Places of a label around a point, the nearest first, and how far from the point each is."""
    away = np.repeat(np.arange(_POINT + 2, _REACH, _STEP), _DIRECTIONS)
    angles = math.pi / 4 + 2 * math.pi * np.arange(len(away)) / _DIRECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    size = np.array([width, height])
    corners = place + directions * away[:, None] + (directions - 1) / 2 * size
    return np.hstack([corners - _PAD, corners + size + _PAD]), away


def _overlap(boxes: Boxes, others: Boxes) -> NDArray[np.bool_]:
    """Which of ``boxes`` overlap one of ``others``."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    overlapping: NDArray[np.bool_] = np.any(np.all(low <= high, axis=2), axis=1)
    return overlapping


def _lead(axes: Axes, box: NDArray[np.float64], place: NDArray[np.float64], colour: str) -> None:
    """A thin line from the nearest edge of a label to its point."""
    ends = axes.transData.inverted().transform([np.clip(place, box[:2], box[2:]), place])
    axes.plot(ends[:, 0], ends[:, 1], color=colour, linewidth=0.5, alpha=0.6, zorder=2, scalex=False, scaley=False)
