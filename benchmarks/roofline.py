"""Rooflines: each layer of the network by the work that it does for each byte that it must move.

A layer can be no faster than its bytes allow (the rising line: a large copy, measured in the same run) and no
faster than its multiplications allow (a flat one: a large matrix product). Work is that of the direct
convolution, whatever the algorithm did.
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
    """Points that belong together: operations a byte, and operations a second."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    filled: bool = True


def draw(axes: Any, series: Sequence[Series], roofs: Mapping[str, float], bandwidth: float) -> None:
    """A roofline into a matplotlib Axes.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    series : sequence of Series
    roofs : mapping of str to float
        FLOP/s that can be reached at most, three or fewer, by what is to be said of them.
    bandwidth : float
        Bytes/s of a copy, read and written.
    """
    work = np.geomspace(0.3, 3000, 200)
    for style, (name, flops) in zip(STYLES, roofs.items(), strict=False):
        axes.loglog(work, np.minimum(work * bandwidth, flops), style, lw=1, label=name)
    for one in series:
        if one.points:
            faces = one.colour if one.filled else "none"
            x, y = zip(*one.points, strict=True)
            axes.scatter(x, y, s=28, facecolors=faces, edgecolors=one.colour, label=one.name)
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("FLOP of the direct way, for each byte that must be moved")
    axes.set_ylabel("FLOP/s of the direct way")
