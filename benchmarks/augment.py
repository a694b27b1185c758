"""Times a training sample, and the elastic deformation against two other implementations.

    python benchmarks/augment.py

Made-up data, one thread, medians of 7 rounds in which the candidates take turns. The results are compared
before the times. `elasticdeform` is left out if it is not installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from tinyunet.sampling.augment import Augmenter
from tinyunet.sampling.elastic import deform
from tinyunet.sampling.weight_map import weight_map

ROUNDS = 7
INPUT_SIZE, OUTPUT_SIZE, MARGIN = 572, 388, 28  # beyond 28 px the border term is below a millionth


def main() -> None:
    """Print both tables."""
    with threadpool_limits(1):
        rng = np.random.default_rng(0)
        labels = cells(rng, 520, 696, count=150)
        image = rng.standard_normal((520, 696, 1)).astype(np.float32)
        time_samples(image, labels, rng)
        time_deformations(rng.standard_normal((INPUT_SIZE, INPUT_SIZE)).astype(np.float32), rng)


def cells(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """Draw discs of 5 to 14 pixels radius at random places; later ones cover earlier ones."""
    labels = np.zeros((height, width), np.int32)
    y, x = np.ogrid[:height, :width]
    for cell in range(1, count + 1):
        centre_y, centre_x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(5, 14)
        labels[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = cell
    return labels


def time_samples(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Time a tile and its weight map, as the trainer makes them, and the weight map of a whole image."""
    augmenter = Augmenter(
        [image], [labels], input_size=INPUT_SIZE, output_size=OUTPUT_SIZE, label_margin=MARGIN
    )
    tile = augmenter.sample(0, rng).labels
    by_transforms = border_by_transforms(labels)
    difference = abs(weight_map(labels, class_balance=False) - 1 - by_transforms).max()
    medians, _ = alternate(
        {
            "tile": lambda: augmenter.sample(0, rng),
            "weight map of a tile": lambda: weight_map(tile),
            "weight map of 520 × 696 with 150 cells": lambda: weight_map(labels),
        }
    )
    print(f"A training sample, {INPUT_SIZE} in, {OUTPUT_SIZE} out, all augmentation on")
    for name, median in medians.items():
        print(f"  {name:<40}{1e3 * median:8.1f} ms")
    print(f"  tile + weight map{'':<23}{1e3 * (medians['tile'] + medians['weight map of a tile']):8.1f} ms")
    start = time.perf_counter()
    border_by_transforms(labels)
    naive = time.perf_counter() - start
    name = "one distance transform per cell"
    print(f"  {name:<40}{1e3 * naive:8.1f} ms, largest difference {difference:.1e}\n")


def border_by_transforms(labels: np.ndarray) -> np.ndarray:
    """Compute the border term from one distance transform per cell."""
    distances = [ndimage.distance_transform_edt(labels != cell) for cell in np.unique(labels) if cell]
    d1, d2 = np.partition(distances, 1, axis=0)[:2]
    return np.where(labels == 0, 10 * np.exp(-((d1 + d2) ** 2) / 50), 0)


def time_deformations(image: np.ndarray, rng: np.random.Generator) -> None:
    """Time one 3 × 3 displacement grid with order 3, mirrored borders and the spline prefilter."""
    grid = rng.normal(0, 10, (2, 3, 3))
    candidates: dict[str, Callable[[], np.ndarray]] = {
        "tinyunet": lambda: deform(image, grid),
        "scipy.ndimage": lambda: deform_by_scipy(image, grid),
    }
    try:
        import elasticdeform

        candidates["elasticdeform"] = lambda: elasticdeform.deform_grid(image, grid, order=3, mode="mirror")
    except ImportError:
        print("elasticdeform is not installed")
    medians, results = alternate(candidates)
    print(f"Elastic deformation of {image.shape[0]} × {image.shape[1]} float32")
    for name, median in medians.items():
        difference = abs(results[name] - results["tinyunet"]).max()
        ratio = median / medians["tinyunet"]
        print(
            f"  {name:<16}{1e3 * median:8.1f} ms {ratio:6.1f} × tinyunet, largest difference {difference:.1e}"
        )


def deform_by_scipy(image: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Interpolate the grid to a field, then the image at the field's points."""
    height, width = image.shape
    at = np.meshgrid(np.linspace(0, 2, height), np.linspace(0, 2, width), indexing="ij")
    field = [ndimage.map_coordinates(component, at, order=3, mode="mirror") for component in grid]
    return ndimage.map_coordinates(image, field + np.indices(image.shape), order=3, mode="mirror")


def alternate(candidates: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Run the candidates in turns. Return their median seconds, and results of a first, untimed round."""
    results = {name: run() for name, run in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}, results


if __name__ == "__main__":
    main()
