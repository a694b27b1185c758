"""Synthetic fluorescence micrographs of nuclei, touching and of every brightness, labelled one by one.

A nucleus is a star-shaped outline (an ellipse with dents) around a centre, see `tinyunet.data.outline`. Where
two overlap, a pixel belongs to the nucleus with the smaller rho: they touch in a smooth line.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tinyunet.backend.jit import kernel
from tinyunet.backend.threads import on_all_cores
from tinyunet.data.image_set import ImageSet
from tinyunet.data.noise import smooth_noise
from tinyunet.data.outline import fill_rho, random_shape

Field = NDArray[np.float32]

AREA_PER_NUCLEUS = 1500  # px², in a crowded image
IN_CLUSTER = 0.6  # share of nuclei that touch another one
MAX_OVERLAP = 0.12  # share of a nucleus that may cover others
MIN_AREA = 30  # px; smaller pieces at the edge of the image are left out
BLUR = 1.1  # px, standard deviation of the microscope's blur


class _Field(NamedTuple):
    """The field of view so far; all arrays are (size, size)."""

    label: NDArray[np.int32]  # number of the nucleus
    rho: Field  # 0 at its centre, 1 on its outline
    light: Field  # emitted light


def synthetic_cells(n: int = 30, size: int = 512, seed: int = 0) -> ImageSet:
    """Make fluorescence micrographs of cell nuclei, each nucleus with its own number.

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
        names=[f"cells-{i:03d}" for i in range(n)],
        labels=[label for _, label in pairs],
        kind="instances",
        num_classes=2,
        source=f"synthetic-cells:{seed}",
        reason="every nucleus has a number",
    )


def _view(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    shape = size, size
    field = _Field(np.zeros(shape, np.int32), np.ones(shape, np.float32), np.zeros(shape, np.float32))
    chromatin = smooth_noise(rng, size, 1.6) + 0.8 * smooth_noise(rng, size, 3.5)
    _place_nuclei(rng, field, chromatin)
    _draw_debris(rng, field.light)
    return _expose(rng, field.light)[..., None], field.label


def _place_nuclei(rng: np.random.Generator, field: _Field, chromatin: Field) -> None:
    """Fill the field, placing most nuclei beside another one, as after a division."""
    size = len(field.label)
    radius = rng.uniform(10, 17)  # one cell line and one objective per image
    wanted = max(3, int(rng.uniform(0.3, 1) * size**2 / (AREA_PER_NUCLEUS * (radius / 13) ** 2)))
    centres: list[NDArray[np.float64]] = []
    for _ in range(3 * wanted):
        own = radius * rng.lognormal(0, 0.16)
        if centres and rng.random() < IN_CLUSTER:
            angle = rng.uniform(0, 2 * np.pi)
            step = (own + radius) * rng.uniform(0.75, 1.1)
            centre = centres[rng.integers(len(centres))] + step * np.array([np.sin(angle), np.cos(angle)])
        else:
            centre = rng.uniform(-0.5 * radius, size + 0.5 * radius, 2)
        if _place(rng, field, chromatin, centre, own, number=len(centres) + 1):
            centres.append(centre)
        if len(centres) == wanted:
            break


def _place(
    rng: np.random.Generator,
    field: _Field,
    chromatin: Field,
    centre: NDArray[np.float64],
    radius: float,
    number: int,
) -> bool:
    """Place one nucleus unless it would hide others or be hidden; return whether it was placed."""
    size = len(field.label)
    reach = 1.8 * radius
    low, high = ([min(max(int(c + r), 0), size) for c in centre] for r in (-reach, reach + 1))
    window = slice(low[0], high[0]), slice(low[1], high[1])
    mitotic = rng.random() < 0.04  # condensed to a short bright bar
    rho = np.empty((high[0] - low[0], high[1] - low[1]), np.float32)
    elongation = 2.4 if mitotic else rng.uniform(1.05, 1.75)
    fill_rho(*(centre - low), radius * (0.6 if mitotic else 1), elongation, *random_shape(rng), rho)
    if not _claim(rho, number, field.label[window], field.rho[window]):
        return False
    brightness = rng.lognormal(0, 0.35) * (2.6 if mitotic else 1)
    grain = rng.uniform(0.05, 0.2)
    spots = _nucleoli(rng, radius)
    _add_light(*(centre - low), rho, brightness, grain, chromatin[window], spots, field.light[window])
    return True


@kernel
def _claim(rho: Field, number: int, label: NDArray[np.int32], least: Field) -> bool:
    """Give a nucleus the pixels where its rho is the least so far.

    Returns
    -------
    bool
        False, and nothing is given, if these are few or if the nucleus lies over much of others.
    """
    inside = ours = covering = 0
    for i in range(rho.shape[0]):
        for j in range(rho.shape[1]):
            if rho[i, j] < 1:
                inside += 1
                ours += rho[i, j] < least[i, j]
                covering += label[i, j] > 0
    if ours < MIN_AREA or covering > MAX_OVERLAP * inside:
        return False
    for i in range(rho.shape[0]):
        for j in range(rho.shape[1]):
            if rho[i, j] < 1 and rho[i, j] < least[i, j]:
                label[i, j] = number
                least[i, j] = rho[i, j]
    return True


def _nucleoli(rng: np.random.Generator, radius: float) -> NDArray[np.float64]:
    """Draw up to three dark spots: row, column, width and the share of light that each absorbs."""
    spots = np.empty((rng.integers(0, 4), 4))
    for spot in spots:
        spot[:2] = rng.normal(0, 0.35 * radius, 2)
        spot[2], spot[3] = rng.uniform(0.1, 0.2) * radius, rng.uniform(0.1, 0.35)
    return spots


@kernel
def _add_light(
    centre_y: float,
    centre_x: float,
    rho: Field,
    brightness: float,
    grain: float,
    chromatin: Field,
    spots: NDArray[np.float64],
    light: Field,
) -> None:
    """Add the light of a nucleus: a flattened body, thinner towards its rim, with grains and dark spots."""
    for i in range(rho.shape[0]):
        for j in range(rho.shape[1]):
            if rho[i, j] >= 1:
                continue
            dark = 0.0
            for y, x, width, share in spots:
                squared = (i - centre_y - y) ** 2 + (j - centre_x - x) ** 2
                dark += share * np.exp(-squared / (2 * width**2))
            thickness = (1 - rho[i, j] ** 2) ** 0.3
            light[i, j] += brightness * thickness * (1 + grain * chromatin[i, j] - min(dark, 0.6))


def _draw_debris(rng: np.random.Generator, light: Field) -> None:
    """Specks, some far brighter than any nucleus, that belong to no nucleus."""
    size = len(light)
    specks = np.zeros_like(light)
    for _ in range(rng.poisson(size**2 / 20000)):
        y, x = rng.integers(0, size, 2)
        specks[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = rng.lognormal(-0.7, 0.7)
    light += specks


def _expose(rng: np.random.Generator, light: Field) -> NDArray[np.uint8]:
    """Turn light into grey values: blur, halo, uneven illumination, shot noise and read noise."""
    size = len(light)
    sharp = ndimage.gaussian_filter(light, BLUR * rng.uniform(0.8, 1.6))
    quarter = ndimage.gaussian_filter(light[::4, ::4], 3.5)  # smooth, so a quarter of the rows suffices
    halo = quarter.repeat(4, 0).repeat(4, 1)[:size, :size]
    halo = ndimage.uniform_filter(halo, 9)
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, size, dtype=np.float32)], indexing="ij")
    off_y, off_x = rng.uniform(-0.4, 0.4, 2)
    lamp = 1 - 0.22 * ((y - off_y) ** 2 + (x - off_x) ** 2) + 0.05 * smooth_noise(rng, size, size / 6)
    dark = rng.uniform(0.03, 0.12)  # stray light and fluorescence of the medium
    photons = rng.uniform(60, 500)  # for a nucleus of brightness 1
    counted = rng.poisson((photons * lamp * (sharp + 0.16 * halo + dark)).clip(0)) / photons
    read_noise = 0.012 * rng.standard_normal((size, size), dtype=np.float32)
    gain = rng.uniform(60, 150)
    return (4 + gain * (counted + read_noise)).clip(0, 255).astype(np.uint8)
