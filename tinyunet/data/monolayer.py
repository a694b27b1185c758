"""Synthetic micrographs of a cell layer in differential interference contrast (DIC), labelled cell by cell.

DIC shows the slope of the optical path along one direction: each cell looks lit from one side, and its flat
top is as grey as the background. Nothing but the relief of its rim shows where it is, and the granules inside
look like those of the medium. This is what makes such images hard: no pixel's grey value tells its class.

The path is a height map: a flattened dome for each cell, a nucleus with nucleoli, granules everywhere. Cells
are packed closely; where two overlap, a pixel belongs to the one with the smaller rho, see
`tinyunet.data.outline`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.backend.jit import kernel
from tinyunet.backend.threads import on_all_cores
from tinyunet.data.image_set import ImageSet
from tinyunet.data.noise import smooth_noise
from tinyunet.data.outline import fill_rho, random_shape

Field = NDArray[np.float32]

SPACING = 1.5  # least distance of two centres, in radii: neighbours touch
ROUNDED = 0.06  # share of cells that have rounded up to divide: small, high, with a steep rim
MIN_AREA = 60  # px; smaller pieces at the edge of the image are left out
GRANULES = 0.45  # height of the granules, where those of cells are 8 to 14
SHEAR = np.pi / 4  # direction of the light; set by the prism, so that it hardly differs between images


def synthetic_dic(n: int = 30, size: int = 512, seed: int = 0) -> ImageSet:
    """Make DIC micrographs of touching cells, each cell with its own number.

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
        Images (size, size, 1) uint8, kind "instances".
    """
    pairs = on_all_cores(lambda i: _view(np.random.default_rng([seed, i]), size), range(n))
    return ImageSet(
        images=[image for image, _ in pairs],
        names=[f"dic-{i:03d}" for i in range(n)],
        labels=[label for _, label in pairs],
        kind="instances",
        num_classes=2,
        source=f"synthetic-dic:{seed}",
        reason="every cell has a number",
    )


def _view(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    label = np.zeros((size, size), np.int32)
    height = np.zeros((size, size), np.float32)
    _place_cells(rng, label, height)
    label = _numbered(label)
    granules = smooth_noise(rng, size, 1.3) + 2 * smooth_noise(rng, size, 3)
    height += GRANULES * granules * np.where(label > 0, np.float32(1.1), np.float32(0.8))
    return _expose(rng, height)[..., None], label


def _place_cells(rng: np.random.Generator, label: NDArray[np.int32], height: Field) -> None:
    """Pack cells until hardly any more fit, except where the layer has a gap."""
    size = len(label)
    radius = rng.uniform(34, 46)  # one cell line and one objective per image
    tries = int(8 * (size / radius + 2) ** 2)
    centres = rng.uniform(-0.7 * radius, size + 0.7 * radius, (tries, 2))
    radii = radius * rng.lognormal(0, 0.1, tries)
    quarter = smooth_noise(rng, size // 4 + 1, 0.22 * radius)  # smooth, so a quarter of the rows suffices
    in_layer = quarter > rng.uniform(-1.6, -0.8)
    rows, columns = (centres.T / 4).astype(int).clip(0, size // 4)
    free = in_layer[rows, columns]
    _keep_apart(centres, radii, free)
    rho = np.ones((size, size), np.float32)
    for number, cell in enumerate(np.flatnonzero(free), 1):
        _place(rng, label, height, rho, centres[cell], radii[cell], number)


@kernel
def _keep_apart(centres: NDArray[np.float64], radii: NDArray[np.float64], free: NDArray[np.bool_]) -> None:
    """Clear `free` for each cell that is too near to one before it that is still free."""
    for i in range(len(centres)):
        for j in range(i):
            if free[i] and free[j]:
                squared = (centres[i, 0] - centres[j, 0]) ** 2 + (centres[i, 1] - centres[j, 1]) ** 2
                free[i] = squared > (SPACING * radii[i]) ** 2


def _place(
    rng: np.random.Generator,
    label: NDArray[np.int32],
    height: Field,
    rho: Field,
    centre: NDArray[np.float64],
    radius: float,
    number: int,
) -> None:
    """Place one cell; its pixels are those where its rho is smaller than that of the cells before."""
    size = len(label)
    rounded = rng.random() < ROUNDED
    reach = 1.8 * radius
    low, high = ([min(max(int(c + r), 0), size) for c in centre] for r in (-reach, reach + 1))
    window = slice(low[0], high[0]), slice(low[1], high[1])
    own = np.empty((high[0] - low[0], high[1] - low[1]), np.float32)
    elongation = 1.1 if rounded else rng.uniform(1.05, 1.6)
    outline = radius * (0.62 if rounded else 1.12)  # overlaps its neighbours, so that they share a border
    fill_rho(*(centre - low), outline, elongation, *random_shape(rng), own)
    ours = (own < 1) & (own < rho[window])
    label[window][ours] = number
    rho[window][ours] = own[ours]
    top, rim = (rng.uniform(18, 26), 0.6) if rounded else (rng.uniform(8, 14), 0.4)
    bumps = np.zeros((0, 4)) if rounded else _nucleus(rng, radius)
    _raise(*(centre - low), own, ours, top, rim, bumps, height[window])


def _nucleus(rng: np.random.Generator, radius: float) -> NDArray[np.float64]:
    """Draw a nucleus and up to three nucleoli: row and column from the centre, width, height of each."""
    wide = rng.uniform(0.34, 0.44) * radius
    bumps = np.empty((rng.integers(2, 5), 4))
    away = rng.normal(0, 0.12 * radius, 2)
    bumps[0] = *away, wide, rng.choice([-1, 1]) * rng.uniform(1.5, 4)
    for nucleolus in bumps[1:]:
        nucleolus[:2] = away + rng.normal(0, 0.4 * wide, 2)
        nucleolus[2:] = rng.uniform(3, 5), rng.uniform(1.5, 4)
    return bumps


@kernel
def _raise(
    centre_y: float,
    centre_x: float,
    rho: Field,
    ours: NDArray[np.bool_],
    top: float,
    rim: float,
    bumps: NDArray[np.float64],
    height: Field,
) -> None:
    """Set the height of a cell: a dome, whose rim is the steeper the smaller `rim` is, with bumps on it."""
    for i in range(rho.shape[0]):
        for j in range(rho.shape[1]):
            if not ours[i, j]:
                continue
            value = top * (1 - rho[i, j] ** 2) ** rim
            for y, x, width, high in bumps:
                squared = ((i - centre_y - y) ** 2 + (j - centre_x - x) ** 2) / width**2
                value += high * np.exp(-(squared**2))  # flat on top, as nuclei are
            height[i, j] = value


def _numbered(label: NDArray[np.int32]) -> NDArray[np.int32]:
    """Keep the largest piece of each cell, unless it is tiny, and number the cells without gaps."""
    kept = np.zeros_like(label)
    number = 0
    for index, window in enumerate(ndimage.find_objects(label), 1):
        if window is None:  # other cells cover it
            continue
        pieces, _ = ndimage.label(label[window] == index)
        areas = np.bincount(pieces.ravel())
        areas[0] = 0
        if areas.max() >= MIN_AREA:
            number += 1
            kept[window][pieces == areas.argmax()] = number
    return kept


def _expose(rng: np.random.Generator, height: Field) -> NDArray[np.uint8]:
    """Turn the height map into grey values: slope along the shear, uneven lamp, photons and camera."""
    size = len(height)
    down, across = np.gradient(ndimage.gaussian_filter(height, rng.uniform(1, 1.5)))
    angle = SHEAR + rng.normal(0, 0.1)
    grey = np.float32(np.sin(angle)) * down + np.float32(np.cos(angle)) * across
    grey *= np.float32(rng.uniform(16, 24))
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, size, dtype=np.float32)], indexing="ij")
    tilt_y, tilt_x = rng.normal(0, 4, 2).astype(np.float32)
    grey += (
        np.float32(rng.uniform(105, 145)) + tilt_y * y + tilt_x * x + 5 * smooth_noise(rng, size, size / 8)
    )
    noise = rng.standard_normal((size, size), dtype=np.float32)
    grey += np.float32(rng.uniform(2.5, 5)) * noise
    return grey.clip(0, 255).astype(np.uint8)
