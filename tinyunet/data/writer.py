"""Writing image sets and label images."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from tinyunet.data.atomic_write import make_folder
from tinyunet.data.class_table import ClassTable
from tinyunet.data.image_set import UNKNOWN, Image, ImageSet, Labels
from tinyunet.errors import DataError, DtypeError, ShapeError, describe

CLASSIC_TIFF = 2**32 - 2**25  # bytes of pixels that a TIFF holds, as tifffile reckons; a BigTIFF holds more


def save_image_set(image_set: ImageSet, folder: str | Path) -> None:
    """Write ``folder/images`` and ``folder/labels`` with one file per image, of the same name in both.

    `read_images` reads them back. 8-bit images in grey or colour become PNG, all others TIFF. Binary labels
    become PNG with 0 and 255, so that any program shows them; classes and colour masks PNG, with the numbers
    or colours of the files that they were read from; instances TIFF with 16 bits (32 where needed).

    Parameters
    ----------
    image_set : ImageSet
    folder : str or Path
        Created if missing.

    Raises
    ------
    DataError
        It contains ``images`` or ``labels`` already, or pixels are unknown, which these files cannot express.
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
    make_folder(folder / "images")
    for image, name in zip(image_set.images, image_set.names, strict=True):
        _write(folder / "images", name, image)
    if image_set.labels is None:
        return
    (folder / "labels").mkdir()
    for label, name in zip(image_set.labels, image_set.names, strict=True):
        _write(folder / "labels", name, _file_values(image_set, label))


def save_labels(
    path: str | PathLike[str] | BinaryIO,
    labels: np.ndarray,
    *,
    compression: str | None = None,
    bits: Literal[16, 32] = 32,
) -> None:
    """Write a label image as a TIFF of 16 bits, or of 32 where labels exceed 65,535.

    Parameters
    ----------
    path : path or binary file
        A path should end in ``.tif``.
    labels : integer array, shape (H, W)
        0 … 4,294,967,295, or 65,535 with 16 bits.
    compression : str, optional
        A lossless one of tifffile's, such as "lzw". Without it a 16-bit file below 4 GiB is an ImageJ one.
    bits : 16 or 32
        The most bits per label; some formats have no more than 16.

    Raises
    ------
    ShapeError, DtypeError
        Not (H, W); not whole numbers.
    DataError
        A label that so many bits cannot hold.
    """
    import tifffile

    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.size == 0:
        raise ShapeError("save_labels: needs one label image (H, W)", {"labels": describe(labels)})
    if labels.dtype.kind not in "iub":
        raise DtypeError(f"save_labels: labels must hold whole numbers, they are {labels.dtype}")
    most = 2**bits - 1
    if labels.min() < 0 or labels.max() > most:
        file = path if isinstance(path, (str, PathLike)) else path.name
        raise DataError(
            f"save_labels: {bits} bits hold labels 0 to {most:,}, found {labels.min():,} to {labels.max():,}",
            {"objects": f"{np.count_nonzero(np.unique(labels)):,}", "file": file},
            "save parts of the image, or keep the array with numpy.save",
        )
    dtype = _label_dtype(labels)
    # ImageJ has no whole numbers of 32 bits, and no BigTIFF.
    imagej = compression is None and dtype == np.uint16 and 2 * labels.size <= CLASSIC_TIFF
    tifffile.imwrite(
        path, labels.astype(dtype), imagej=imagej, compression=compression, photometric="minisblack"
    )


def _label_dtype(labels: np.ndarray) -> type[np.unsignedinteger]:
    return np.uint32 if labels.max() > np.iinfo(np.uint16).max else np.uint16


def _file_values(image_set: ImageSet, label: Labels) -> Image:
    """Turn the labels of one image into pixels (H, W, C): the files' own numbers or colours of classes."""
    if image_set.kind == "instances":
        return label.astype(_label_dtype(label))[..., None]
    if image_set.kind == "binary" and not image_set.coloured:
        return (label * 255).astype(np.uint8)[..., None]
    table = image_set.class_table or ClassTable(tuple(range(image_set.num_classes)))
    return table.pixels(label)


def _write(folder: Path, name: str, pixels: Image) -> None:
    import PIL.Image
    import tifffile

    channels = pixels.shape[2]
    if pixels.dtype == np.uint8 and channels in (1, 3):
        PIL.Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{name}.png")
    else:  # with its axes given, tifffile cannot take two channels for two columns
        photometric = "rgb" if channels == 3 else "minisblack"
        stored = pixels[..., 0] if channels == 1 else pixels
        tifffile.imwrite(
            folder / f"{name}.tif",
            stored,
            photometric=photometric,
            planarconfig="contig" if channels > 1 else None,
            compression="zlib",
        )
