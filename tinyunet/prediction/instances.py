"""From class probabilities to numbered objects, and to a label image that Fiji and napari open.

The network says for every pixel whether it is inside a cell. Connected pixels above the threshold are one
object, unless the distance to the background has two summits with a neck between them: then a watershed cuts
at the neck.
"""

from __future__ import annotations

from os import PathLike

import numpy as np
from scipy import ndimage

from tinyunet.errors import DataError, DtypeError, ShapeError, describe
from tinyunet.metrics.contingency import check_probabilities
from tinyunet.metrics.mistakes import SMALLEST_OBJECT

EIGHT_CONNECTED = np.ones((3, 3), bool)


def label_instances(
    probabilities: np.ndarray,
    *,
    threshold: float = 0.5,
    min_size: int = SMALLEST_OBJECT,
    max_hole: int = 30,
    split_depth: float | None = 1.0,
) -> np.ndarray:
    """Number the objects of a probability map: threshold, fill holes, split, drop specks.

    Parameters
    ----------
    probabilities : float array, shape (H, W) or (H, W, K), or bool mask (H, W)
        Probability of the foreground; or of K ≥ 2 classes of which class 0 is the background, so that the
        foreground is 1 minus the first.
    threshold : float
        Foreground is what lies above.
    min_size : int
        Smallest object to keep, in pixels.
    max_hole : int
        Largest hole to fill, in pixels; 0 for none. The background that a ring of touching cells encloses is
        a hole too, so choose it smaller than such gaps.
    split_depth : float or None
        How deep, in pixels of distance to the background, a neck must be to cut there: a neck of width w
        between two discs of diameter d is about (d − w)/2 deep. None never cuts, as is right for objects that
        are not round, such as neurites.

    Returns
    -------
    int32 array, shape (H, W)
        0 for the background, 1 … n for the objects in the order of their first pixels, row by row.

    Raises
    ------
    ShapeError
        Neither (H, W) nor (H, W, K ≥ 2).
    DataError
        A probability outside 0 … 1 or NaN, or a `split_depth` that is not above 0.
    """
    foreground = _foreground(np.asarray(probabilities))
    if split_depth is not None and not split_depth > 0:
        raise DataError(
            f"label_instances: split_depth must be above 0, is {split_depth}", remedy="None never cuts"
        )
    mask = _fill_holes(foreground > threshold, max_hole)
    components, _ = ndimage.label(mask)
    objects = components if split_depth is None else _split(mask, components, split_depth)
    objects[_sizes(objects) < min_size] = 0
    return _number_by_first_pixel(objects)


def save_labels(path: str | PathLike[str], labels: np.ndarray, *, compression: str | None = None) -> None:
    """Write a label image as a 16-bit TIFF.

    Parameters
    ----------
    path : path
        Should end in ``.tif``.
    labels : integer array, shape (H, W)
        0 … 65,535.
    compression : str, optional
        A lossless one of tifffile's, such as "lzw". Without it the file is an ImageJ one.

    Raises
    ------
    ShapeError, DtypeError
        Not (H, W); no whole numbers.
    DataError
        A label that 16 bits cannot hold.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.size == 0:
        raise ShapeError("save_labels: needs one label image (H, W)", {"labels": describe(labels)})
    if labels.dtype.kind not in "iub":
        raise DtypeError(f"save_labels: labels must hold whole numbers, they are {labels.dtype}")
    most = np.iinfo(np.uint16).max
    if labels.min() < 0 or labels.max() > most:
        raise DataError(
            f"save_labels: 16 bits hold labels 0 to {most:,}, found {labels.min():,} to {labels.max():,}",
            {"objects": f"{np.count_nonzero(np.unique(labels)):,}", "file": path},
            "save parts of the image, or keep the array with numpy.save",
        )
    import tifffile

    tifffile.imwrite(path, labels.astype(np.uint16), imagej=compression is None, compression=compression)


def _foreground(probabilities: np.ndarray) -> np.ndarray:
    if probabilities.ndim not in (2, 3) or probabilities.size == 0 or probabilities.shape[2:] == (1,):
        raise ShapeError(
            "label_instances: needs the foreground (H, W) or K >= 2 classes (H, W, K)",
            {"probabilities": describe(probabilities)},
            "label one image at a time; of a single channel pass probabilities[..., 0]",
        )
    check_probabilities("label_instances", probabilities)
    return probabilities if probabilities.ndim == 2 else 1 - probabilities[..., 0]


def _fill_holes(mask: np.ndarray, max_hole: int) -> np.ndarray:
    """The mask with its small holes filled. Background at the edge of the image is no hole."""
    background, _ = ndimage.label(np.pad(~mask, 1, constant_values=True), EIGHT_CONNECTED)
    outside = background == background[0, 0]
    return mask | (~outside & (_sizes(background) <= max_hole))[1:-1, 1:-1]


def _split(mask: np.ndarray, components: np.ndarray, depth: float) -> np.ndarray:
    """Cut touching objects by a watershed of their distance to the background, with one seed per summit."""
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed

    distance = ndimage.distance_transform_edt(mask)
    # Summits lowered by the depth and grown back under the surface: those with a shallower neck become one.
    summits = local_maxima(reconstruction(distance - depth, distance))
    highest = np.zeros(components.max() + 1)
    np.maximum.at(highest, components, distance)
    # Every pixel of an object is 1 or more from the background. A component whose lowered summit is no higher
    # has no neck of that depth, and is one seed. It may touch others at its corners, so it keeps its number.
    tall = (highest - depth > 1)[components]
    seeds, count = ndimage.label(summits & tall & mask, EIGHT_CONNECTED)
    seeds = np.where(mask & ~tall, count + components, seeds)
    return watershed(-distance, seeds, mask=mask)


def _sizes(labels: np.ndarray) -> np.ndarray:
    """For each pixel, how many pixels have its label."""
    return np.bincount(labels.ravel())[labels]


def _number_by_first_pixel(labels: np.ndarray) -> np.ndarray:
    values, first, index = np.unique(labels, return_index=True, return_inverse=True)
    first[values == 0] = -1  # the background keeps 0, wherever it starts
    rank = np.argsort(np.argsort(first))
    return (rank + (values[0] > 0))[index].astype(np.int32)
