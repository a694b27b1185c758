"""Synthetic electron micrographs of neurites: grey insides, dark membranes, mitochondria, vesicles.

The cells are a power diagram (a Voronoi diagram whose cells have sizes) of packed circles, large ones first,
in a warped plane, so that walls are curved and some cells are elongated. The distance of each pixel to the
nearest wall gives both the image and the label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyunet.backend.threads import on_all_cores
from tinyunet.data.image_set import ImageSet
from tinyunet.data.noise import smooth_noise

Field = NDArray[np.float32]

CELL_RADIUS = 15.0  # px, median of a log-normal; this and the next set by eye against ISBI 2012
CELL_SPREAD = 0.6
WALL = 2.8  # px, half the width of a membrane cut straight across, as annotators draw it
INSIDE, MEMBRANE = 158.0, 52.0  # grey values


def synthetic_membranes(n: int = 30, size: int = 512, seed: int = 0) -> ImageSet:
    """Make electron micrographs with the labels of ISBI 2012: 1 = inside of a cell, 0 = membrane.

    Parameters
    ----------
    n : int
        Number of images.
    size : int
        Height and width in px.
    seed : int
        The same seed gives the same images; image i does not depend on n.

    Returns
    -------
    ImageSet
        Images (size, size, 1) uint8, kind "binary".
    """
    pairs = on_all_cores(lambda i: _section(np.random.default_rng([seed, i]), size), range(n))
    return ImageSet(
        images=[image for image, _ in pairs],
        names=[f"membranes-{i:03d}" for i in range(n)],
        labels=[label for _, label in pairs],
        kind="binary",
        num_classes=2,
        source=f"synthetic-membranes:{seed}",
        reason="1 is inside of a cell, 0 is membrane",
    )


def _section(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    distance, cell = _cells(rng, size)
    # A membrane that the section cuts obliquely is a broad grey band instead of a thin dark line.
    oblique = np.maximum(smooth_noise(rng, size, 22) - 1.0, 0)
    half_width = WALL * (1 + 0.9 * oblique) + 0.4 * smooth_noise(rng, size, 9)
    inside = distance > half_width

    grey = INSIDE + 9 * rng.standard_normal(cell.max() + 1, dtype=np.float32)[cell]
    grey += 9 * smooth_noise(rng, size, 40) + 5 * smooth_noise(rng, size, 6)
    _draw_mitochondria(rng, grey, distance)
    _draw_vesicles(rng, grey, distance)
    darkness = (INSIDE - MEMBRANE) * (0.88 + 0.13 * smooth_noise(rng, size, 14)) / (1 + 0.45 * oblique)
    grey -= darkness * np.exp(-((distance / (0.8 * half_width)) ** 2))
    grey -= 26 * np.exp(-distance / 7)  # the cytoplasm is denser along the wall
    _draw_synapses(rng, grey, distance)
    grain = 21 * smooth_noise(rng, size, 0.85) + 6 * rng.standard_normal((size, size), dtype=np.float32)
    image = (grey + grain * (0.55 + grey / 320)).clip(0, 255).astype(np.uint8)
    return image[..., None], inside.astype(np.int32)


def _cells(rng: np.random.Generator, size: int) -> tuple[Field, NDArray[np.intp]]:
    """Return the distance to the nearest wall in px and the number of the cell, both (size, size).

    Computed at every second pixel and interpolated, which is four times as fast: distances are smooth.
    """
    from scipy.spatial import cKDTree  # whoever makes no membranes is not to wait for this import

    half = -(-size // 2) + 1
    centres, radii = _packed_circles(rng, size)
    squeeze = 1 + 0.7 * rng.random()  # whole bundles run aslant and are cut longer than wide
    y, x = np.meshgrid(*2 * [2 * np.arange(half, dtype=np.float32)], indexing="ij")
    y = y + 17 * smooth_noise(rng, half, 20) + 3.5 * smooth_noise(rng, half, 5)
    x = x + 17 * smooth_noise(rng, half, 20) + 3.5 * smooth_noise(rng, half, 5)
    direction = rng.uniform(0, np.pi)
    along = (np.cos(direction) * y + np.sin(direction) * x) / squeeze
    across = -np.sin(direction) * y + np.cos(direction) * x
    centres = centres - size / 2
    y, x = along - along.mean(), across - across.mean()

    # Lifted by sqrt(R² - r²) into the third dimension, a circle's power distance is a plain distance.
    lifted = np.column_stack([centres, np.sqrt(radii.max() ** 2 - radii**2)])
    points = np.stack([y, x, np.zeros_like(x)], axis=-1)
    (first, second), (cell, neighbour) = (a.transpose(2, 0, 1) for a in cKDTree(lifted).query(points, k=2))
    between = np.linalg.norm(centres[cell] - centres[neighbour], axis=-1)
    distance = ((second**2 - first**2) / (2 * between)).astype(np.float32)
    return _double(distance)[:size, :size], cell.repeat(2, 0).repeat(2, 1)[:size, :size]


def _packed_circles(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centres (m, 2) and radii (m,) of circles that hardly overlap, large ones placed first."""
    side = 1.5 * size + 8 * CELL_RADIUS  # the image lies inside even after rotation and warping
    wanted = int(0.6 * side**2 / (np.pi * CELL_RADIUS**2))
    drawn = np.sort(CELL_RADIUS * np.exp(CELL_SPREAD * rng.standard_normal(wanted)))[::-1].clip(8, 80)
    centres, radii = np.zeros((wanted, 2)), np.zeros(wanted)
    m = 0
    for radius in drawn:
        places = rng.uniform(0, side, (12, 2)) - (side - size) / 2
        gaps = np.linalg.norm(places[:, None] - centres[:m], axis=-1) - 0.86 * (radius + radii[:m])
        free = (gaps > 0).all(axis=1)
        if free.any():
            centres[m], radii[m] = places[free.argmax()], radius
            m += 1
    return centres[:m], radii[:m]


def _double(field: Field) -> Field:
    """Double the resolution of a field by linear interpolation."""
    for _ in range(2):  # rows, then columns
        both = np.empty((2 * len(field) - 1, field.shape[1]), field.dtype)
        both[::2], both[1::2] = field, (field[1:] + field[:-1]) / 2
        field = both.T
    return np.ascontiguousarray(field)


def _window(centre: NDArray[np.intp], reach: int, size: int) -> tuple[tuple[slice, slice], Field, Field]:
    """Return the window within `reach` of a centre, and the offsets of its pixels from there."""
    rows, columns = (slice(max(0, c - reach), min(size, c + reach + 1)) for c in centre)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - centre[0]
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - centre[1]
    return (rows, columns), y, x


def _draw_mitochondria(rng: np.random.Generator, grey: Field, distance: Field) -> None:
    """Draw dark ovals with a membrane and wavy folds inside, where a cell has room for one."""
    size = len(grey)
    for _ in range(max(1, size**2 // 9000)):
        centre = rng.integers(0, size, 2)
        room = distance[tuple(centre)] - 6
        if room < 10:
            continue
        short = min(room, rng.uniform(13, 40))
        long = min(short * rng.uniform(1.1, 1.8), room * 1.15)
        angle, folding = rng.uniform(0, np.pi, 2)
        window, y, x = _window(centre, int(long) + 4, size)
        u, v = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
        rim = (np.hypot(u / long, v / short) - 1) * short + 1.2 * np.sin(u / 5 + folding)
        inner = 1 / (1 + np.exp((rim / 0.8).clip(-30, 30)))
        wave = u * np.cos(folding) + v * np.sin(folding) + 2 * np.sin((u - v) / 6 + folding)
        folds = np.sin(2 * np.pi * wave / rng.uniform(6, 8))
        inner = inner * (distance[window] > 4)
        grey[window] -= inner * (60 + 19 * folds) + 38 * np.exp(-((rim / 1.6) ** 2)) * (distance[window] > 4)


def _draw_vesicles(rng: np.random.Generator, grey: Field, distance: Field) -> None:
    """Draw vesicles, small dark rings crowded in some cells, and microtubules, dark dots."""
    size = len(grey)
    crowded = smooth_noise(rng, size, 35)
    for _ in range(size**2 // 140):
        centre = rng.integers(0, size, 2)
        if distance[tuple(centre)] < 7 or crowded[tuple(centre)] < rng.normal(0.2, 0.8):
            continue
        window, y, x = _window(centre, 9, size)
        radius = max(0.0, rng.normal(2.8, 1.3))
        ring = np.hypot(y * rng.uniform(0.8, 1.25), x) - radius
        grey[window] -= rng.uniform(30, 70) * np.exp(-((ring / 1.3) ** 2))


def _draw_synapses(rng: np.random.Generator, grey: Field, distance: Field) -> None:
    """Draw dark smears on some walls."""
    size = len(grey)
    for _ in range(rng.poisson(size**2 / 50000)):
        centre = rng.integers(0, size, 2)
        window, y, x = _window(centre, 45, size)
        smear = np.exp(-(y**2 + x**2) / (2 * rng.uniform(9, 15) ** 2))
        grey[window] -= 75 * smear * np.exp(-((distance[window] / 7) ** 2))
