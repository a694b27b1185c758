"""Synthetic sets: reproducible from a seed, labelled as real ones are, and alike in what can be counted."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import regionprops
from sklearn.metrics import roc_auc_score

from tinyunet.data import ImageSet, synthetic_cells, synthetic_dic, synthetic_membranes
from tinyunet.data.label_kind import infer_kind
from tinyunet.data.noise import smooth_noise
from tinyunet.diagnosis.copies import same_signature

CELLS, MEMBRANES = synthetic_cells(4, 384, seed=5), synthetic_membranes(4, 384, seed=5)
DIC = synthetic_dic(6, 384, seed=5)
MAKERS = pytest.mark.parametrize("make", [synthetic_cells, synthetic_dic, synthetic_membranes])


@MAKERS
def test_the_seed_decides_each_image(make: Callable[..., ImageSet]) -> None:
    first, again, longer, other = (make(n, 96, seed) for n, seed in [(2, 3), (2, 3), (3, 3), (2, 4)])
    for i in range(2):
        for same in (again, longer):
            np.testing.assert_array_equal(first.images[i], same.images[i])
            np.testing.assert_array_equal((first.labels or [])[i], (same.labels or [])[i])
        assert (first.images[i] != other.images[i]).mean() > 0.5
    assert (first.images[0] != first.images[1]).mean() > 0.5


@MAKERS
@pytest.mark.parametrize("size", [16, 33, 188])
def test_any_size(make: Callable[..., ImageSet], size: int) -> None:
    (image,) = make(1, size).images
    assert image.shape == (size, size, 1)
    assert image.dtype == np.uint8
    assert image.std() > 3


@pytest.mark.parametrize("images", [CELLS, DIC], ids=["cells", "dic"])
def test_every_cell_is_one_piece_with_a_number_of_its_own(images: ImageSet) -> None:
    for label in images.labels or []:
        assert set(np.unique(label)) == set(range(label.max() + 1))
        for number in range(1, label.max() + 1):
            assert ndimage.label(label == number, np.ones((3, 3)))[1] == 1
    assert infer_kind(images.labels or [], "cells")[0] == images.kind == "instances"


def test_nuclei_are_brighter_than_the_background() -> None:
    for image, label in zip(CELLS.images, CELLS.labels or [], strict=True):
        assert image[label > 0].mean() > 1.5 * image[label == 0].mean()


def test_no_nucleus_has_a_bite_taken_out_of_it() -> None:
    """Overlapping nuclei share their pixels; if the later one took them, solidity would fall to 0.82."""
    solidity = [region.solidity for label in CELLS.labels or [] for region in regionprops(label)]
    assert min(solidity) > 0.9


def share_that_touches(images: ImageSet) -> float:
    """Return the share of objects that have a pixel beside one of another object."""
    touching, objects = 0, 0
    for label in images.labels or []:
        pairs = [(label[:, :-1], label[:, 1:]), (label[:-1], label[1:])]
        borders = [np.stack([a, b])[:, (a != b) & (a > 0) & (b > 0)] for a, b in pairs]
        touching += len(np.unique(np.concatenate(borders, axis=1)))
        objects += label.max()
    return touching / objects


def test_more_than_half_of_the_nuclei_touch_another_one() -> None:
    """Otherwise a border weight would have no effect. Without clusters the share would be 0.3 to 0.5."""
    assert share_that_touches(CELLS) > 0.55


def test_nearly_all_cells_of_a_layer_touch_and_cover_most_of_it() -> None:
    assert share_that_touches(DIC) > 0.9
    for label in DIC.labels or []:
        assert 0.65 < (label > 0).mean() < 0.95


def test_no_grey_value_tells_cells_from_background_in_dic() -> None:
    """Grey values alone rank a pixel of a cell above one of the background about as often as not."""
    for image, label in zip(DIC.images, DIC.labels or [], strict=True):
        auc = roc_auc_score((label > 0).ravel(), image.ravel())
        assert 0.3 < auc < 0.7


def test_dic_is_lit_from_one_side() -> None:
    """A cell is bright where it rises along the shear, at one end, and dark where it falls, at the other."""
    for image, label in zip(DIC.images, DIC.labels or [], strict=True):
        grey = image[..., 0] - ndimage.gaussian_filter(image[..., 0].astype(float), 25)
        cell = label > 0
        rising = cell[6:, 6:] & ~cell[:-6, :-6]  # the shear points down and to the right
        falling = cell[:-6, :-6] & ~cell[6:, 6:]
        assert grey[6:, 6:][rising].mean() > 0 > grey[:-6, :-6][falling].mean()


def test_no_two_dic_images_look_like_copies_to_the_doctor() -> None:
    """An uneven lamp is nearly all that is left of such an image once it is shrunk."""
    assert not [pair for pair in same_signature(DIC, DIC) if pair[0] != pair[1]]


def test_membranes_are_dark_thin_and_closed() -> None:
    for image, label in zip(MEMBRANES.images, MEMBRANES.labels or [], strict=True):
        inside = label == 1
        assert 0.70 < inside.mean() < 0.88  # ISBI 2012: 0.73 to 0.83
        assert image[inside].mean() > 1.4 * image[~inside].mean()  # ISBI 2012: 138 and 85
        pieces, n = ndimage.label(inside)
        assert n > 25
        assert np.bincount(pieces.ravel())[1:].max() < 0.4 * label.size  # walls without gaps part the cells
    assert infer_kind(MEMBRANES.labels or [], "membranes")[0] == MEMBRANES.kind == "binary"


@pytest.mark.parametrize("scale", [0.75, 2, 9, 30])
@pytest.mark.parametrize("size", [255, 256])
def test_smooth_noise_is_gaussian_filtered_noise(scale: float, size: int) -> None:
    """Compare with SciPy's filter on the same white noise, and the mean variance over seeds with 1."""
    field = smooth_noise(np.random.default_rng(0), size, scale)
    white = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    filtered = ndimage.gaussian_filter(white.astype(np.float64), scale, mode="wrap", truncate=8)
    assert np.corrcoef(field.ravel(), filtered.ravel())[0, 1] > 0.99
    assert abs(field.mean()) < 1e-5
    variance = np.mean([smooth_noise(np.random.default_rng(i), size, scale).var() for i in range(20)])
    # A field holds about (size / scale)² / 4π independent values, less its mean: at scale 30 that is 5.
    assert 0.7 < variance < 1.15
