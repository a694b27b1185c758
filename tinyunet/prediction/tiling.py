"""Overlap-tile: predicts images of any size tile by tile, with the result of a whole-image prediction.

A valid network predicts a tile from the tile and a halo around it. Beyond the image's edge the halo is the
image's mirror image (section 2 and figure 2 of the paper). Tiles fit together without a seam because

- the halo holds everything that an output pixel can see, so that no pixel inside the image is invented;
- tiles start at multiples of 2^depth. The 2×2 windows of the poolings lie on a grid of that step. A tile that
  starts off the grid would be pooled differently, with a similar but different result. For the paper's
  388-pixel tile the step is therefore 384, and neighbours overlap by 4 pixels.

A padded ("same") network invents zeros around every map. It gets a halo too, whose prediction is cropped, so
that inside the image no invented pixel counts.

Tutorial: `tutorials/14_tiling_metrics.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyunet.autograd import Tensor, no_grad
from tinyunet.backend import active_backend, to_host
from tinyunet.errors import OptionError, ShapeError, describe
from tinyunet.models import Network, memory
from tinyunet.models.geometry import Geometry
from tinyunet.nn.module import evaluating
from tinyunet.prediction.tiling_cuda import TilesOnGpu

OnTile = Callable[[int, int], None]
Transform = tuple[int, bool]  # right angles to turn an image by, after it is flipped or not

TRANSFORMS: list[Transform] = [(rotations, flip) for flip in (False, True) for rotations in range(4)]

# Takes less memory than a training step on a tile of 388, because no maps are kept for a backward pass.
TILE = 700


def predict_tiled(
    model: Network,
    image: NDArray[Any],
    *,
    tile: int = TILE,
    symmetries: int = 1,
    on_tile: OnTile | None = None,
) -> NDArray[np.float32]:
    """Predict the class probabilities of every pixel of an image of any size.

    Dropout is off, whatever the model's mode, which stays as it is: other threads may use the model too.
    Besides the image and the result, one tile needs memory. On a GPU all three lie there or, if they do not
    fit, only the tile.

    Parameters
    ----------
    model : Network
    image : array, shape (H, W, C)
        Normalised as in training: see `tinyunet.data.normalise`.
    tile : int
        Largest side of the output tile in pixels, rounded up to a side that the network can give. Only speed
        and memory depend on it: larger tiles spend less on their halos.
    symmetries : {1, 8}
        8 averages the scores over the image's four rotations and their mirror images, as the authors' release
        averages mirrored copies. This takes eight times as long.
    on_tile : callable, optional
        Called after each tile with the number of tiles done and the number of all tiles.

    Returns
    -------
    array, shape (H, W, K), float32
        Sums to 1 over the K classes.

    Raises
    ------
    ShapeError
        The image is empty, or does not have the model's channels.
    OptionError
        `tile` is smaller than 1, or `symmetries` is neither 1 nor 8.
    """
    if image.ndim != 3 or image.shape[2] != model.in_channels or 0 in image.shape:
        raise ShapeError(
            f"predict_tiled: expected one image (H, W, C) of {model.in_channels} channels",
            {"image": describe(image, "H W C")},
            "give one image at a time; a grey image needs a last axis: image[..., numpy.newaxis]",
        )
    if tile < 1 or symmetries not in (1, 8):
        raise OptionError(f"predict_tiled: tile {tile}, symmetries {symmetries}", remedy="tile >= 1; 1 or 8")
    tiles = _tiles_on_backend(image, model.num_classes)
    regions = plan_regions(model.geometry, image.shape, tile)
    total = symmetries * len(regions)
    for done, _ in enumerate(add_scores(model, tiles, regions, symmetries), 1):
        if on_tile:
            on_tile(done, total)
    scores = tiles.scores()
    to_probabilities(scores, symmetries)
    return scores


def _tiles_on_backend(image: NDArray[Any], classes: int) -> TilesInMemory | TilesOnGpu:
    """Keep the image and its scores on the backend, or in host memory if they do not fit on a GPU."""
    if active_backend().startswith("cuda"):
        with suppress(MemoryError):
            return TilesOnGpu(image, classes)
    return TilesInMemory(image, classes)


class Tiles(Protocol):
    """What tiles are cut out of, and what their scores are added to; `TilesInMemory` explains the methods."""

    shape: tuple[int, ...]

    def cut_out(self, transform: Transform, rows: tuple[int, int], columns: tuple[int, int]) -> Any: ...

    def add(
        self, transform: Transform, down: slice, across: slice, output: Any, cut: tuple[int, int]
    ) -> None: ...


class TilesInMemory:
    """An image to cut tiles from, and the sum of the scores of its tiles.

    Parameters
    ----------
    image : array, shape (H, W, C)
    classes : int
    """

    def __init__(self, image: NDArray[Any], classes: int):
        self.image, self.shape = image, image.shape
        self._scores = np.zeros((*image.shape[:2], classes), np.float32)

    def cut_out(
        self, transform: Transform, rows: tuple[int, int], columns: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Cut a tile (1, h, w, C) out of the transformed image; rows, columns: (first, last + 1)."""
        image = transformed(self.image, *transform)
        window = np.ix_(mirror_indices(*rows, image.shape[0]), mirror_indices(*columns, image.shape[1]))
        return image[window][np.newaxis].astype(np.float32)

    def add(
        self, transform: Transform, down: slice, across: slice, output: Any, cut: tuple[int, int]
    ) -> None:
        """Add an output (1, h, w, K), without `cut` pixels at its top and left, to these pixels' scores.

        The pixels are those of the transformed image.
        """
        scores = transformed(self._scores, *transform)[down, across]
        top, left = cut
        scores += to_host(output)[0, top : top + scores.shape[0], left : left + scores.shape[1]]

    def scores(self) -> NDArray[np.float32]:
        """Return the sum of the scores added so far, (H, W, K)."""
        return self._scores


def transformed(array: NDArray[Any], rotations: int, flip: bool) -> NDArray[Any]:
    """Return a view of an array (H, W, …), flipped or not, then rotated by this many right angles."""
    return np.rot90(array[:, ::-1] if flip else array, rotations)


def to_probabilities(scores: NDArray[np.float32], symmetries: int) -> None:
    """Turn the sums of scores, (h, w, K), into probabilities in place."""
    scores /= symmetries
    for row in scores:  # one at a time, so that no second array of the result's size is needed
        _softmax_in_place(row)


def _softmax_in_place(scores: NDArray[np.float32]) -> None:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)


def mirror_indices(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Find the pixels start … stop - 1 of an endlessly mirrored image among the image's `size` pixels.

    The edge pixel is not repeated, as in ``numpy.pad(mode="reflect")``:

    >>> mirror_indices(-2, 6, 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    if size == 1:
        return np.zeros(stop - start, np.intp)
    period = 2 * (size - 1)
    folded = np.arange(start, stop) % period
    return np.minimum(folded, period - folded)


def multiplications_per_pixel(model: Network, shape: tuple[int, int], *, tile: int = TILE) -> float:
    """Count the multiplications of `predict_tiled` per pixel of an image: see `Network.multiplications`.

    Tiles overlap and reach beyond the image's edge, so the count depends on both sizes.

    Parameters
    ----------
    model : Network
    shape : (int, int)
        Height and width of the image.
    tile : int
        As in `predict_tiled`.

    Examples
    --------
    The paper's tile takes 150 billion multiplications for 388 × 388 pixels:

    >>> import tinyunet as tu
    >>> round(multiplications_per_pixel(tu.UNet(), (388, 388)))
    999232
    """
    regions = plan_regions(model.geometry, shape, tile)
    total = sum(model.multiplications(region.rows.input, region.columns.input) for region in regions)
    return total / (shape[0] * shape[1])


@dataclass(frozen=True)
class Side:
    """One axis of a tiling, in pixels: a tile's sides, the halo before it, and the pixels of each tile."""

    input: int
    output: int
    halo: int
    parts: list[slice]
    """The pixels that are taken from each tile: each pixel of the axis once."""


def plan(geometry: Geometry, size: int, tile: int) -> Side:
    """Plan as few tiles as `tile` allows, each as small as that number of tiles can be."""
    grid, halo = geometry.step, geometry.halo
    largest = max(grid, min(tile, size))
    side = geometry.nearest_inputs(largest + 2 * halo)[1]
    starts = _starts(size, side - 2 * halo, grid)
    while geometry.takes(side - grid) and len(_starts(size, side - grid - 2 * halo, grid)) == len(starts):
        side -= grid
        starts = _starts(size, side - 2 * halo, grid)
    parts = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]
    return Side(side, side - 2 * halo, halo, parts)


def _starts(size: int, output: int, grid: int) -> range:
    """Return where tiles of this output side begin, on the grid."""
    step = output // grid * grid
    return range(0, max(1, size - output + step), step) if step else range(0)


@dataclass(frozen=True)
class Region:
    """The pixels that one tile predicts, and the sides of the tile."""

    down: slice
    across: slice
    rows: Side
    columns: Side


def plan_regions(geometry: Geometry, shape: tuple[int, ...], tile: int) -> list[Region]:
    """Part an image (H, W, …) into the regions of its tiles, row by row: each pixel is in one."""
    rows, columns = (plan(geometry, size, tile) for size in shape[:2])
    return [Region(down, across, rows, columns) for down in rows.parts for across in columns.parts]


def add_scores(model: Network, tiles: Tiles, regions: Iterable[Region], symmetries: int) -> Iterator[None]:
    """Add the scores of regions, of each in all its rotations and mirror images: a tile per iteration."""
    for region in regions:
        for transform in TRANSFORMS[:symmetries]:
            _add_tile(model, tiles, region, transform)
            yield


def _add_tile(model: Network, tiles: Tiles, region: Region, transform: Transform) -> None:
    (down, across), (rows, columns) = (region.down, region.across), (region.rows, region.columns)
    down, across = turned(down, across, tiles.shape, *transform)
    if transform[0] % 2:
        rows, columns = columns, rows
    top, row_input = _on_grid(model.geometry, down, rows)
    left, column_input = _on_grid(model.geometry, across, columns)
    margin = model.geometry.halo - model.geometry.shrink // 2  # for a padded network, the whole halo
    cut = margin + down.start - top, margin + across.start - left
    top, left = top - model.geometry.halo, left - model.geometry.halo
    with memory.explained(model, row_input, training=False), no_grad(), evaluating():
        x = Tensor(tiles.cut_out(transform, (top, top + row_input), (left, left + column_input)))
        tiles.add(transform, down, across, model(x).data, cut)


def _on_grid(geometry: Geometry, pixels: slice, side: Side) -> tuple[int, int]:
    """Find where a tile for these pixels begins, on the grid, and the side of its input.

    In a mirrored image a region may begin off the grid, and its tile is then larger by up to one step.
    """
    start = pixels.start // geometry.step * geometry.step
    needed = geometry.nearest_inputs(pixels.stop - start + 2 * geometry.halo)[1]
    return start, max(side.input, needed)


def turned(
    down: slice, across: slice, shape: tuple[int, ...], rotations: int, flip: bool
) -> tuple[slice, slice]:
    """Find where pixels of an image (H, W, …) are in the transformed image.

    >>> turned(slice(0, 2), slice(1, 4), (10, 20), 1, False)  # the last column becomes the first row
    (slice(16, 19, None), slice(0, 2, None))
    """
    height, width = shape[:2]
    if flip:
        across = slice(width - across.stop, width - across.start)
    for _ in range(rotations):
        down, across = slice(width - across.stop, width - across.start), down
        height, width = width, height
    return down, across
