"""python -m benchmarks.winograd_error: how exact Winograd's products are on a GPU, computed without one.

    python -m benchmarks.winograd_error            # the layers of a U-Net of base width 64, forward and back

Two rungs of the CUDA convolution compute in float32: `winograd` by float32 FMAs, and `winograd_tensor` by
three products of halves on tensor cores. Their sums are computed in NumPy (`tests/helpers/halves.py`), those
of tensor cores by the published model of how they cut off. "one sum" is what would come out if tensor cores
added all of it.

A U-Net with its first weights makes one training step on an image of `tinyunet.data.synthetic_cells`. Of each
3×3 convolution and gradient some tiles, channels and filters are drawn, but not of those of a concatenation,
for which the CPU has an op of its own. Their transforms are those in float32. An error is the largest
difference from float64, over the largest value of the results drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import tinyunet as tu
from tinyunet.backend import DISPATCH_TABLE
from tinyunet.data import synthetic_cells
from tinyunet.ops import conv2d_winograd_cuda
from tinyunet.ops.conv2d_cuda import MIN_CHANNELS
from tinyunet.ops.conv2d_winograd_transforms import matrices

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from halves import STAGE, by_fma, by_halves  # type: ignore[import-not-found]

Array = NDArray[Any]
TILE, DRAWN = 188, 12  # pixels of the image, and how many tiles and filters of a layer are drawn
A_T, G, B_T = (np.array(matrix, np.float64) for matrix in matrices())
PRODUCTS: dict[str, Callable[[Array, Array], Array]] = {
    "winograd": by_fma,
    "winograd_tensor, H100": partial(by_halves, architecture=90),
    "winograd_tensor, A100": partial(by_halves, architecture=80),
    "one sum, H100": partial(by_halves, architecture=90, stage=2**20),
}


def recorded(base: int) -> list[tuple[str, Array, Array]]:
    """Record what each convolution in a training step multiplies: a map with a weight, or two maps."""
    found: list[tuple[str, Array, Array]] = []

    def noted(direction: str, compute: Callable[..., Any], *arguments: Any) -> Any:
        x, other = map(np.array, arguments[:2])
        flipped = np.flip(other, (0, 1)).swapaxes(2, 3) if direction == "backward_input" else other
        found.append((direction, x, flipped))
        return compute(*arguments)

    with ExitStack() as stack:
        for direction in ("forward", "backward_input", "backward_weight"):
            table = DISPATCH_TABLE["conv2d", direction].implementations
            stack.enter_context(mock.patch.dict(table, numba=partial(noted, direction, table["numba"])))
        stack.enter_context(tu.use_backend("numba"))
        image = synthetic_cells(n=1, size=TILE, seed=0).images[0].astype(np.float32)
        scores = tu.UNet(base_channels=base)(tu.Tensor((image[None] - image.mean()) / image.std()))
        target = np.random.default_rng(0).integers(0, 2, scores.shape[:3])
        tu.softmax_cross_entropy(scores, target).backward()
    return found


def by_winograd(direction: str, x: Array, other: Array) -> bool:
    """Tell whether a convolution without padding runs by these rungs, and has a whole tile."""
    window = x.shape[1] - other.shape[1] + 1 if direction == "backward_weight" else len(other)
    return window == 3 and x.shape[1] >= 6 and min(x.shape[3], other.shape[3]) >= MIN_CHANNELS


def transformed(matrix: Array, tiles: Array, dtype: Any) -> Array:
    """Transform tiles (…, side, side) along both axes, and put these first, as one."""
    matrix = matrix.astype(dtype)
    found = np.einsum("ij,...jk,lk->...il", matrix, tiles.astype(dtype), matrix, optimize=True)
    return np.moveaxis(found.astype(dtype).reshape(*found.shape[:-2], -1), -1, 0)


def cut(image: Array, corners: Array, side: int) -> Array:
    """Cut tiles out of an image (H, W, C): (tiles, C, side, side)."""
    return np.stack([image[i : i + side, j : j + side].transpose(2, 0, 1) for i, j in corners])


def of_forward(x: Array, weight: Array, rng: np.random.Generator) -> tuple[Array, ...]:
    """Draw tiles and filters: the factors' tiles and transforms, and the transform of the result."""
    corners = rng.integers(0, np.array(x.shape[1:3]) - 5, (DRAWN, 2))
    filters = rng.choice(weight.shape[3], DRAWN, replace=False)
    return cut(x[0], corners, 6), B_T, weight[..., filters].transpose(2, 3, 0, 1), G, A_T


def of_backward_weight(x: Array, grad: Array, rng: np.random.Generator) -> tuple[Array, ...]:
    """Draw channels and filters, likewise; the sums go over all tiles that are whole."""
    height, width = (size // 4 * 4 for size in grad.shape[1:3])
    corners = np.mgrid[0:height:4, 0:width:4].reshape(2, -1).T
    channels, filters = (rng.choice(a.shape[3], DRAWN, replace=False) for a in (x, grad))
    tiles = cut(x[0, ..., channels].transpose(1, 2, 0), corners, 6).swapaxes(0, 1)
    return tiles, B_T, cut(grad[0, ..., filters].transpose(1, 2, 0), corners, 4), A_T.T, G.T


def in_parts(multiply: Callable[[Array, Array], Array], v: Array, u: Array) -> Array:
    """Multiply as the weight's gradient does: parts of the depth one after the other, then their sum."""
    v, u = (np.pad(a, [(0, 0), *pads]) for a, pads in zip((v, u), _to_whole_stages(v.shape[2]), strict=True))
    part = conv2d_winograd_cuda.TILES_PER_PART
    total = np.zeros((), v.dtype)
    for first in range(0, v.shape[2], part):
        total = total + multiply(v[..., first : first + part], u[:, first : first + part])
    return total


def _to_whole_stages(depth: int) -> tuple[Any, Any]:
    missing = -depth % STAGE
    return ((0, 0), (0, missing)), ((0, missing), (0, 0))


def errors(direction: str, x: Array, other: Array, rng: np.random.Generator) -> dict[str, float]:
    """Compute a layer's largest error by each way to multiply."""
    if direction == "backward_weight":
        left, of_left, right, of_right, of_result = of_backward_weight(x, other, rng)
    else:
        left, of_left, right, of_right, of_result = of_forward(x, other, rng)

    def result(multiply: Callable[[Array, Array], Array], dtype: Any) -> Array:
        v, u = transformed(of_left, left, dtype), transformed(of_right, right, dtype)
        sums = in_parts(multiply, v, u) if direction == "backward_weight" else multiply(v, u)
        return transformed(of_result, np.moveaxis(sums, 0, -1).reshape(*sums.shape[1:], 6, 6), dtype)

    exact = result(np.matmul, np.float64)
    largest = abs(exact).max()
    return {name: abs(result(by, np.float32) - exact).max() / largest for name, by in PRODUCTS.items()}


def main() -> None:
    """Print the errors of each layer, and the largest by direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", type=int, default=64, help="base width of the network (default: 64)")
    rng, worst = np.random.default_rng(0), dict[tuple[str, str], float]()
    for direction, x, other in recorded(parser.parse_args().base):
        if not by_winograd(direction, x, other):
            continue
        found = errors(direction, x, other, rng)
        print_row(f"{direction} {x.shape[1]}: {x.shape[3]}→{other.shape[3]}", found)
        for name, error in found.items():
            worst[direction, name] = max(worst.get((direction, name), 0), error)
    for direction in dict.fromkeys(direction for direction, _ in worst):
        print_row(f"largest, {direction}", {name: worst[direction, name] for name in PRODUCTS})


def print_row(name: str, found: dict[str, float]) -> None:
    """Print the errors by each way to multiply."""
    print(f"{name:<34}" + ", ".join(f"{way} {error:.1e}" for way, error in found.items()), flush=True)


if __name__ == "__main__":
    main()
