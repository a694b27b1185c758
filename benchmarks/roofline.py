"""Draws rooflines: each layer of the network by its work per byte that it must move.

A layer can be no faster than its bytes allow (the rising line, a large copy measured in the same run) nor
faster than its multiplications allow (a flat line, a large matrix product). Work counts the operations of the
direct convolution, whichever algorithm ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter

STYLES = ("k-", "k--", "k:")


@dataclass(frozen=True)
class Series:
    """A series of points: operations per byte, and operations per second."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    filled: bool = True


def draw(axes: Any, series: Sequence[Series], roofs: Mapping[str, float], bandwidth: float) -> None:
    """Draw a roofline into a matplotlib Axes.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    series : sequence of Series
    roofs : mapping of str to float
        At most three peaks in FLOP/s, by label.
    bandwidth : float
        Bytes/s of a copy, read plus written.
    """
    work = np.geomspace(0.3, 3000, 200)
    for style, (name, flops) in zip(STYLES, roofs.items(), strict=False):
        axes.loglog(work, np.minimum(work * bandwidth, flops), style, lw=1, label=name)
    for member in series:
        if member.points:
            faces = member.colour if member.filled else "none"
            x, y = zip(*member.points, strict=True)
            axes.scatter(x, y, s=28, facecolors=faces, edgecolors=member.colour, label=member.name)
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("FLOP of the direct algorithm per byte that must be moved")
    axes.set_ylabel("FLOP/s of the direct algorithm")
