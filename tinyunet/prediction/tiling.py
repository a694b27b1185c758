"""Overlap-tile: prediction of images of any size, tile by tile, equal to the whole-image prediction.

A valid network predicts a tile from the tile and a halo around it. Beyond the image's edge the halo is the
image's mirror (section 2 and figure 2 of the paper). Two things make tiles fit together without a seam:

- the halo holds all that an output pixel can see, so that nothing is made up inside the image;
- tiles start at multiples of 2^depth. The 2×2 windows of the poolings lie on a grid of that step, and a
  tile that starts off the grid is pooled differently: close, but not the same. For the paper's 388-pixel tile
  the step is therefore 384, and neighbours overlap by 4 pixels.

A padded ("same") network invents zeros around every map. It gets a halo too, whose prediction is cut off, so
that inside the image no invented pixel counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

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

# Without a backward pass to keep maps for, this takes less memory than a training step on a tile of 388.
TILE = 700


def predict_tiled(
    model: Network,
    image: NDArray[Any],
    *,
    tile: int = TILE,
    symmetries: int = 1,
    on_tile: OnTile | None = None,
) -> NDArray[np.float32]:
    """Class probabilities for every pixel of an image of any size.

    Dropout is off, whatever the model's mode, which stays as it is: other threads may use the model too.
    Besides the image and the result, one tile needs memory. On a GPU all three lie there or, if they do not
    fit, only the tile.

    Parameters
    ----------
    model : Network
    image : array, shape (H, W, C)
        As the model wants it: see `tinyunet.data.normalise`.
    tile : int
        Largest side of the output tile in pixels, rounded up to what the network can give. Only speed and
        memory depend on it: larger tiles spend less on their halos.
    symmetries : {1, 8}
        8: the scores are averaged over the image's four rotations and their mirror images, as the authors'
        release averages mirrored copies. Eight times the work.
    on_tile : callable, optional
        Called after each tile with the number of tiles done and of all tiles.

    Returns
    -------
    array, shape (H, W, K), float32
        Sums to 1 over the K classes.

    Raises
    ------
    ShapeError
        The image is empty, or does not have the model's channels.
    OptionError
        A tile smaller than 1, or symmetries that are neither 1 nor 8.
    """
    if image.ndim != 3 or image.shape[2] != model.in_channels or 0 in image.shape:
        raise ShapeError(
            f"predict_tiled: expected one image (H, W, C) of {model.in_channels} channels",
            {"image": describe(image, "H W C")},
            "give one image at a time; a grey image needs a last axis: image[..., numpy.newaxis]",
        )
    if tile < 1 or symmetries not in (1, 8):
        raise OptionError(f"predict_tiled: tile {tile}, symmetries {symmetries}", remedy="tile >= 1; 1 or 8")
    transforms = [(turns, flip) for flip in (False, True) for turns in range(4)][:symmetries]
    tiles = _tiles_of(image, model.num_classes)
    total = len(transforms) * len(list(_tiles(model, image.shape, tile)))
    done = itertools.count(1)
    for transform in transforms:
        for _ in _add_scores(model, tiles, transform, tile):
            if on_tile:
                on_tile(next(done), total)
    scores = tiles.scores()
    scores /= len(transforms)
    for row in scores:  # one at a time, so that no second array of the result's size is needed
        _softmax_in_place(row)
    return scores


def _tiles_of(image: NDArray[Any], classes: int) -> TilesInMemory | TilesOnGpu:
    """Where the backend computes; in host memory if the image and its scores do not fit on a GPU."""
    if active_backend().startswith("cuda"):
        with suppress(MemoryError):
            return TilesOnGpu(image, classes)
    return TilesInMemory(image, classes)


class TilesInMemory:
    """An image to cut tiles from, and its scores, to which those of the tiles are added.

    Parameters
    ----------
    image : array, shape (H, W, C)
    classes : int
    """

    def __init__(self, image: NDArray[Any], classes: int):
        self.image = image
        self._scores = np.zeros((*image.shape[:2], classes), np.float32)

    def cut_out(
        self, transform: tuple[int, bool], rows: tuple[int, int], columns: tuple[int, int]
    ) -> NDArray[np.float32]:
        """A tile (1, h, w, C) of the transformed image. rows, columns: its first, and one past its last."""
        image = _turned(self.image, *transform)
        window = np.ix_(mirror_indices(*rows, image.shape[0]), mirror_indices(*columns, image.shape[1]))
        return image[window][np.newaxis].astype(np.float32)

    def add(self, transform: tuple[int, bool], down: slice, across: slice, output: Any, cut: int) -> None:
        """Add an output (1, h, w, K), without `cut` pixels at its top and left, to these pixels' scores."""
        here = _turned(self._scores, *transform)[down, across]
        here += to_host(output)[0, cut : cut + here.shape[0], cut : cut + here.shape[1]]

    def scores(self) -> NDArray[np.float32]:
        """What was added so far, (H, W, K)."""
        return self._scores


def _turned(array: NDArray[Any], turns: int, flip: bool) -> NDArray[Any]:
    """A view of an array (H, W, …), mirrored or not, then turned by this many right angles."""
    return np.rot90(array[:, ::-1] if flip else array, turns)


def _softmax_in_place(scores: NDArray[np.float32]) -> None:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)


def mirror_indices(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Where pixels start … stop - 1 of an endless mirrored image are found in the `size` pixels there are.

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
    """What `predict_tiled` computes for each pixel of an image: see `Network.multiplications`.

    Tiles overlap and reach beyond the image's edge, so this depends on the sizes of both.

    Parameters
    ----------
    model : Network
    shape : (int, int)
        Height and width of the image.
    tile : int
        As in `predict_tiled`.

    Examples
    --------
    A tile of the paper: 150 billion multiplications for 388 × 388 pixels.

    >>> import tinyunet as tu
    >>> round(multiplications_per_pixel(tu.UNet(), (388, 388)))
    999232
    """
    total = sum(
        model.multiplications(rows.input, columns.input)
        for (_, rows), (_, columns) in _tiles(model, shape, tile)
    )
    return total / (shape[0] * shape[1])


@dataclass(frozen=True)
class Side:
    """One axis of a tiling, in pixels: a tile's sides, the halo before it, and whose pixels it gives."""

    input: int
    output: int
    halo: int
    parts: list[slice]
    """For each tile the pixels that are taken from it: each pixel of the axis once."""


def plan(geometry: Geometry, size: int, tile: int) -> Side:
    """As few tiles as `tile` allows, and these as small as so many can be."""
    grid, halo = geometry.step, geometry.halo
    wanted = max(grid, min(tile, size))
    side = geometry.nearest_inputs(wanted + 2 * halo)[1]
    starts = _starts(size, side - 2 * halo, grid)
    while geometry.takes(side - grid) and len(_starts(size, side - grid - 2 * halo, grid)) == len(starts):
        side -= grid
        starts = _starts(size, side - 2 * halo, grid)
    parts = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]
    return Side(side, side - 2 * halo, halo, parts)


def _starts(size: int, output: int, grid: int) -> range:
    """Where tiles begin, on the grid, of which each gives so many pixels."""
    step = output // grid * grid
    return range(0, max(1, size - output + step), step) if step else range(0)


def _tiles(
    model: Network, shape: tuple[int, ...], tile: int
) -> Iterator[tuple[tuple[slice, Side], tuple[slice, Side]]]:
    rows, columns = (plan(model.geometry, size, tile) for size in shape[:2])
    return (((down, rows), (across, columns)) for down in rows.parts for across in columns.parts)


def _add_scores(
    model: Network, tiles: TilesInMemory | TilesOnGpu, transform: tuple[int, bool], tile: int
) -> Iterator[None]:
    """Add the scores of every pixel of the transformed image, a tile at each step."""
    height, width = tiles.image.shape[:2]
    shape = (width, height) if transform[0] % 2 else (height, width)
    cut = model.geometry.halo - model.geometry.shrink // 2  # of a padded network, the whole halo
    for (down, rows), (across, columns) in _tiles(model, shape, tile):
        top, left = down.start - rows.halo, across.start - columns.halo
        with memory.explained(model, rows.input, training=False), no_grad(), evaluating():
            x = Tensor(tiles.cut_out(transform, (top, top + rows.input), (left, left + columns.input)))
            tiles.add(transform, down, across, model(x).data, cut)
            del x  # its memory is for the next tile
        yield
