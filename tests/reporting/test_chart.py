"""Charts as small SVG: where the points lie, and which of many are kept."""

import numpy as np
import pytest

from tinyunet.reporting.chart import MOST_POINTS, Line, draw


def points(curve):
    return np.array([[float(number) for number in at.split(",")] for at in curve.points.split()])


def test_points_lie_between_their_ticks():
    chart = draw("t", [Line("a", "red", [0, 50, 100], [0.0, 0.5, 1.0], "dots")], end=100, high=1)
    assert points(chart.curves[0]).tolist() == [
        [chart.left, chart.bottom],
        [(chart.left + chart.right) / 2, (chart.top + chart.bottom) / 2],
        [chart.right, chart.top],
    ]
    assert chart.x_ticks[0] == (chart.left, "0")
    assert chart.x_ticks[-1] == (chart.right, "100")
    assert chart.y_ticks[-1] == (chart.top, "1")


def test_missing_values_have_no_points():
    chart = draw("t", [Line("a", "red", [1, 2, 3, 4], [None, float("nan"), float("inf"), 1.0])], end=4)
    assert len(points(chart.curves[0])) == 1


@pytest.mark.parametrize("count", [MOST_POINTS, MOST_POINTS + 1, 100_000])
def test_long_curves_keep_their_peaks(count):
    y = np.random.default_rng(0).uniform(1, 2, count)
    y[count // 3], y[count // 2] = 3, 0
    chart = draw("t", [Line("a", "red", range(count), y.tolist())], end=count)
    kept = points(chart.curves[0])
    assert len(kept) <= MOST_POINTS
    assert kept[:, 1].min() == chart.top
    assert kept[:, 1].max() == chart.bottom
    assert (np.diff(kept[:, 0]) >= 0).all()
