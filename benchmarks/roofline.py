"""A roofline: every layer of `benchmarks.layers`, by the work it does for each byte that it must move.

A layer can be no faster than its bytes allow (the rising line: a large copy, measured in the same run) and no
faster than its multiplications allow (the flat one: a large matrix product). Winograd's algorithm needs a
quarter of the direct way's multiplications, by which the work is counted here: its roof is the dashed line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"forward": "tab:blue", "input gradient": "tab:orange", "weight gradient": "tab:green"}


def draw(rows: list[dict[str, Any]], flops: float, bandwidth: float, title: str, path: Path) -> None:
    """Write the picture.

    Parameters
    ----------
    rows : list of dict
        Of each layer: "flop" and "bytes" of one direction, "seconds" by direction, ours and PyTorch's.
    flops, bandwidth : float
        FLOP/s of a matrix product; bytes/s of a copy, read and written.
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    work = np.geomspace(0.3, 3000, 200)
    axes.loglog(work, np.minimum(work * bandwidth, flops) / 1e9, "k-", label="copy, matrix product")
    quarter = np.minimum(work * bandwidth, 4 * flops) / 1e9
    axes.loglog(work, quarter, "k--", lw=0.8, label="with a quarter of the products")
    for direction, colour in COLOURS.items():
        for who, face in (("ours", colour), ("torch", "none")):
            points = [
                (row["flop"] / row["bytes"], row["flop"] / row["seconds"][direction][who] / 1e9)
                for row in rows
                if direction in row["seconds"]
            ]
            name = f"{direction}, {'PyTorch' if who == 'torch' else 'tinyunet'}"
            axes.scatter(*zip(*points, strict=True), s=28, facecolors=face, edgecolors=colour, label=name)
    axes.set_xlabel("multiplications and additions of the direct way, for each byte that must be moved")
    axes.set_ylabel("GFLOP/s of the direct way")
    axes.set_title(title)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
