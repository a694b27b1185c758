"""Draw the three pictures of docs/scale.md: the halo of a tile, objects across blocks, and the tree of sums.

    python docs/scale_pictures.py

writes docs/images/scale_halo.png, scale_objects.svg and scale_tree.svg. What they show is computed: the halo
is that of a network's geometry, the objects are labelled, and the tree is that in which gradients are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

import tinyunet as tu
from tinyunet.data import synthetic_cells
from tinyunet.training.tiles import halves, share_out

IMAGES = Path(__file__).parent / "images"
RANK_COLOURS = ("tab:blue", "tab:orange", "tab:green")


def main() -> None:
    """Draw all three."""
    matplotlib.rcParams["svg.hashsalt"] = "tinyunet"  # the same file each time
    halo().savefig(IMAGES / "scale_halo.png", dpi=90)
    for name, draw in (("objects", objects), ("tree", tree)):
        draw().savefig(IMAGES / f"scale_{name}.svg", metadata={"Date": None})


def halo() -> Figure:
    """Draw two neighbouring tiles of an image: what is written of each, and what is read for it."""
    geometry = tu.UNet(base_channels=1, depth=2).geometry
    output = geometry.output_size(140)
    margin = (140 - output) // 2
    figure = Figure((7, 3.2), layout="constrained")
    axes = figure.subplots()
    image = synthetic_cells(n=1, size=320, seed=3).images[0][..., 0]
    axes.imshow(image[:180], cmap="gray", extent=(0, 320, 180, 0), alpha=0.6)
    for left, colour, name in ((60, "tab:blue", "first"), (60 + output, "tab:orange", "second")):
        axes.add_patch(Rectangle((left, 40), output, output, facecolor=colour, alpha=0.35))
        axes.add_patch(Rectangle((left, 40), output, output, fill=False, edgecolor=colour, linewidth=2))
        corner = (left - margin, 40 - margin)
        axes.add_patch(
            Rectangle(corner, 140, 140, fill=False, edgecolor=colour, linestyle="--", linewidth=1.5)
        )
        label = f"{name} tile\n{output} × {output}"
        axes.text(
            left + output / 2,
            40 + output / 2,
            label,
            ha="center",
            va="center",
            color="white",
            fontsize=10,
            weight="bold",
        )
    axes.set(xlim=(0, 320), ylim=(180, 0), xticks=[], yticks=[])
    title = (
        f"Each pixel is written by one tile. Dashed: what is read for it, {margin} pixels more on each side"
    )
    axes.set_title(title, fontsize=10)
    return figure


def blobs() -> NDArray[np.bool_]:
    """Make the mask of a few components, some of which reach over the border in the middle."""
    mask = np.zeros((12, 24), bool)
    for rows, columns in (
        ((2, 5), (8, 15)),
        ((4, 7), (13, 16)),
        ((8, 11), (6, 14)),
        ((1, 4), (2, 5)),
        ((7, 10), (18, 22)),
    ):
        mask[slice(*rows), slice(*columns)] = True
    return mask


def objects() -> Figure:
    """Draw a mask that is labelled in two blocks, and the objects after labels that touch were united."""
    mask = blobs()
    middle = mask.shape[1] // 2
    first, count = ndimage.label(mask[:, :middle])
    second, _ = ndimage.label(mask[:, middle:])
    blocks = np.hstack([first, np.where(second, second + count, 0)])
    whole, _ = ndimage.label(mask)
    figure = Figure((7.5, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid(left, blocks, "labelled block by block")
    grid(right, whole, "united where labels touch, numbered by first pixel")
    for axes in (left, right):
        axes.axvline(middle - 0.5, color="black", linestyle="--")
    for row in np.flatnonzero(mask[:, middle - 1] & mask[:, middle]):
        left.plot([middle - 1, middle], [row, row], color="black", linewidth=1.5)
    return figure


def grid(axes: Axes, labels: NDArray[np.integer], title: str) -> None:
    """Draw labels as coloured pixels, with their numbers."""
    colours = np.vstack([[1, 1, 1, 1], matplotlib.colormaps["Set2"](np.arange(labels.max()) % 8)])
    axes.imshow(colours[labels])
    for number in range(1, int(labels.max()) + 1):
        rows, columns = np.nonzero(labels == number)
        axes.text(columns[0] + 0.5, rows[0] + 0.5, str(number), ha="center", va="center", fontsize=11)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def tree() -> Figure:
    """Draw the tree in which the gradients of eight tiles are added, cut for one, two and three processes."""
    figure = Figure((9, 2.7), layout="constrained")
    for axes, ranks in zip(figure.subplots(1, 3), (1, 2, 3), strict=True):
        parts = share_out(range(8), ranks)
        node(axes, range(8), parts)
        axes.set(xlim=(-0.6, 7.6), ylim=(-0.5, 3.5))
        axes.axis("off")
        axes.set_title(f"{ranks} process{'es' if ranks > 1 else ''}", fontsize=10)
    return figure


def node(axes: Axes, tiles: range, parts: Sequence[range]) -> tuple[float, float]:
    """Draw a node and all below it; returns where it is. Black ones add what processes have sent."""
    owner = next((n for n, part in enumerate(parts) if set(tiles) <= set(part)), None)
    colour = "black" if owner is None else RANK_COLOURS[owner]
    if len(tiles) == 1:
        place = (float(tiles[0]), 0.0)
    else:
        below = [node(axes, half, parts) for half in halves(tiles)]
        place = ((below[0][0] + below[1][0]) / 2, max(y for _, y in below) + 1)
        for x, y in below:
            axes.plot([x, place[0]], [y, place[1]], color="grey", linewidth=1, zorder=1)
    axes.scatter(*place, s=190, color=colour, zorder=2)
    text = str(tiles[0]) if len(tiles) == 1 else "+"
    axes.text(*place, text, color="white", ha="center", va="center", fontsize=10, zorder=3)
    return place


if __name__ == "__main__":
    main()
