"""Learning curves as small SVG, drawn in a millisecond: a page that watches a training must not slow it down.

`tinyunet.reporting.plots` draws with Matplotlib, for files; it takes a hundred times as long. Here Matplotlib
only chooses the ticks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40  # the margins
MOST_POINTS = 2 * (WIDTH - LEFT - RIGHT)  # more would fall on each other


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes
    ----------
    label : str
    colour : str
        In CSS.
    x, y : sequence of float
        Points whose y is None or not finite are left out.
    kind : {"curve", "faint", "dots"}
        How it is drawn; "faint" lines stay behind the others, and have no part in the legend.
    """

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str = "curve"


@dataclass(frozen=True)
class Curve:
    """A line in the pixels of its chart."""

    label: str
    colour: str
    kind: str
    points: str
    """As SVG's polyline has them."""
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart, ready for the template: ticks with their places in pixels, and curves."""

    title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    curves: list[Curve]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw(title: str, lines: Sequence[Line], *, end: float = 1.0, high: float | None = None) -> Chart:
    """Lay out a chart whose axes begin at 0.

    Parameters
    ----------
    title : str
    lines : sequence of Line
    end : float
        The upper end of the x axis.
    high : float, optional
        The upper end of the y axis, beyond which curves are cut off; without it, all of them fit.
    """
    points = [_finite(line) for line in lines]
    y_end = high or max((y.max() for _, y in points if len(y)), default=1.0)
    x_axis, y_axis = _Axis(end, LEFT, WIDTH - RIGHT, whole=True), _Axis(y_end, HEIGHT - BOTTOM, TOP)
    curves = []
    for line, (x, y) in zip(lines, points, strict=True):
        across, down = x_axis.place(x), y_axis.place(y)
        at = [(round(float(a), 1), round(float(b), 1)) for a, b in zip(across, down, strict=True)]
        shown = " ".join(f"{a:g},{b:g}" for a, b in at)
        curves.append(Curve(line.label, line.colour, line.kind, shown, at if line.kind == "dots" else []))
    return Chart(title, x_axis.ticks, y_axis.ticks, curves)


def running_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """The mean of each `window` values in succession: one value less than `window` fewer than given."""
    return np.convolve(values, np.full(window, 1 / window), "valid")


class _Axis:
    """An axis from 0 to a value, which lies on the pixels from `first` to `last`."""

    def __init__(self, end: float, first: float, last: float, *, whole: bool = False):
        self.end = end if end > 0 else 1.0
        self.first, self.last = first, last
        values = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(0.0, self.end)
        inside = [value for value in values if 0 <= value <= self.end * (1 + 1e-9)]
        self.ticks = [(float(self.place(np.array(value))), _text(value)) for value in inside]

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The pixels of values; those beyond the end lie just outside."""
        return self.first + (self.last - self.first) * np.clip(values / self.end, -0.05, 1.05)


def _text(value: float) -> str:
    """A tick's number: 2,000, but 0.0015.

    >>> _text(2000.0), _text(0.0015), _text(0.6000000000000001), _text(2e-05)
    ('2,000', '0.0015', '0.6', '2e-05')
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.4g}"


def _finite(line: Line) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points of a line that have a place, no more than can be seen apart."""
    pairs = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None and math.isfinite(y)]
    x, y = np.array(pairs, np.float64).reshape(-1, 2).T
    if len(x) <= MOST_POINTS or line.kind == "dots":
        return x, y
    return _extremes(x, y)


def _extremes(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and the highest point of each part of a line, which look like the whole line."""
    edges = np.linspace(0, len(x), MOST_POINTS // 2 + 1).astype(int)
    kept = []
    for start, stop in itertools.pairwise(edges):
        part = y[start:stop]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return x[kept], y[kept]
