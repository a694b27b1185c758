"""An `ImageSet` to files: the layout that `read_images` reads, with a real example in it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from tinyunet.data.image_set import UNKNOWN, Image, ImageSet
from tinyunet.errors import DataError, DtypeError, ShapeError, describe


def save_image_set(image_set: ImageSet, folder: str | Path) -> None:
    """Write ``folder/images`` and ``folder/labels``, one file an image, of the same name in both.

    8-bit images in grey or colour become PNG, all others TIFF. Binary labels become PNG with 0 and 255, so
    that any program shows them; classes PNG with 0..K-1; instances TIFF with 16 bits (32 where needed).

    Parameters
    ----------
    image_set : ImageSet
    folder : str or Path
        Made if missing.

    Raises
    ------
    DataError
        There already is a folder ``images`` or ``labels`` in it, or pixels are unknown: no file can say so.
    """
    folder = Path(folder)
    if any((label == UNKNOWN).any() for label in image_set.labels or []):
        raise DataError(
            f"{folder}: labels with unknown pixels cannot be written",
            remedy="write them as background or as a class of their own",
        )
    for part in ("images", "labels"):
        if (folder / part).exists():
            raise DataError(f"{folder / part}: exists already", remedy="choose a new folder, or remove it")
    (folder / "images").mkdir(parents=True)
    for image, name in zip(image_set.images, image_set.names, strict=True):
        _write(folder / "images", name, image)
    if image_set.labels is None:
        return
    (folder / "labels").mkdir()
    for label, name in zip(image_set.labels, image_set.names, strict=True):
        if image_set.kind == "instances":
            values = label.astype(np.uint32 if label.max() > np.iinfo(np.uint16).max else np.uint16)
        else:
            values = (label * (255 if image_set.kind == "binary" else 1)).astype(np.uint8)
        _write(folder / "labels", name, values[..., None])


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


def _write(folder: Path, name: str, pixels: Image) -> None:
    import PIL.Image
    import tifffile

    channels = pixels.shape[2]
    if pixels.dtype == np.uint8 and channels in (1, 3):
        PIL.Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{name}.png")
    else:  # told what the axes are, tifffile cannot take two channels for two columns
        photometric = "rgb" if channels == 3 else "minisblack"
        stored = pixels[..., 0] if channels == 1 else pixels
        tifffile.imwrite(
            folder / f"{name}.tif",
            stored,
            photometric=photometric,
            planarconfig="contig" if channels > 1 else None,
            compression="zlib",
        )
