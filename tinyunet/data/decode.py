"""From one image file to its pixels.

Grey values, colours and orientation are those that viewers show; values are not scaled. A file gives its own
pages and nothing else. A file whose picture cannot be known is refused, with the reason and the remedy.

    decode_tiff      TIFF: photometric interpretation, pages, channels
    decode_raster    PNG, JPEG, BMP, GIF, WebP, JPEG 2000
    decode_plain     PGM, PPM and .npy
    decoded          what they share
    windows_*        OME-Zarr, ND2 and CZI, which `windows` reads in parts
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tinyunet.data.decode_plain import decode_npy, decode_pnm
from tinyunet.data.decode_raster import decode_raster
from tinyunet.data.decode_tiff import decode_tiff
from tinyunet.data.decoded import Decoded, add_note, as_numbers, require_modest_size
from tinyunet.data.image_set import Image
from tinyunet.data.planes import NO_CHOICE, PlaneChoice
from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows_czi import open_czi
from tinyunet.data.windows_nd2 import open_nd2
from tinyunet.data.windows_zarr import is_zarr, open_zarr
from tinyunet.errors import DataError, OptionError, OutOfMemoryError

DECODERS: dict[str, Callable[[Path, bool], Decoded]] = {
    ".png": decode_raster,
    ".jpg": decode_raster,
    ".jpeg": decode_raster,
    ".tif": decode_tiff,
    ".tiff": decode_tiff,
    ".bmp": decode_raster,
    ".gif": decode_raster,
    ".webp": decode_raster,
    ".jp2": decode_raster,
    ".ppm": decode_pnm,
    ".pgm": decode_pnm,
    ".npy": decode_npy,
}

OPENERS: dict[str, Callable[[Path], WindowedImage]] = {
    ".nd2": open_nd2,
    ".czi": open_czi,
    ".zarr": open_zarr,
}


def opener_of(path: Path) -> Callable[[Path], WindowedImage] | None:
    """Return what opens a file of planes and channels; None for other files."""
    return open_zarr if is_zarr(path) else OPENERS.get(path.suffix.lower())


def is_image(path: Path) -> bool:
    """Return whether a path can be one image file: also the folder that an OME-Zarr is."""
    return path.is_file() or (path.is_dir() and (path.suffix.lower() == ".zarr" or is_zarr(path)))


def decode(path: Path, *, labels: bool = False, choice: PlaneChoice = NO_CHOICE) -> list[Image]:
    """Read the pages of an image file, each (H, W, C) in the file's own type.

    Palettes become colours in an image, and grey where they hold grey only; a label keeps the indices.

    Parameters
    ----------
    path : Path
    labels : bool
        Decode label values: indices of palettes, no lossy compression.
    choice : PlaneChoice
        Which of several channels or planes; of labels there is one.

    Raises
    ------
    DataError
        Unknown type of file, damaged or cut-off file, transparent pixels, colours that cannot be shown
        faithfully, labels with lossy compression, several channels or planes of which none is chosen.
    OptionError
        The library that reads this type of file is not installed.
    OutOfMemoryError
        Too little memory for this file.
    PermissionError
        The file may not be read.
    """
    return decode_with_notes(path, labels=labels, choice=choice).pages


def decode_with_notes(path: Path, *, labels: bool = False, choice: PlaneChoice = NO_CHOICE) -> Decoded:
    """Read the pages of an image file as `decode` does, with notes on what was unusual about it."""
    opener, decoder = opener_of(path), DECODERS.get(path.suffix.lower())
    if opener is None and decoder is None:
        raise DataError(
            f"{path}: unknown type of image file {path.suffix!r}, expected one of "
            f"{', '.join([*DECODERS, *OPENERS])}",
            remedy="save it as PNG or TIFF, or move it out of the folder",
        )
    try:
        if opener:
            decoded = _decode_planes(opener(path), labels, choice)
        else:
            assert decoder is not None
            decoded = _chosen(path, decoder(path, labels), choice)
    except (DataError, OptionError, PermissionError):  # a file without permission is not damaged
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{path}: too little memory to read this file",
            {"size": f"{path.stat().st_size} bytes", "reason": error},
            "close other programs, or cut the image into parts",
        ) from error
    except Exception as error:  # three libraries raise a dozen types for a damaged file
        raise DataError(
            f"{path}: cannot be decoded, the file is damaged, cut off or no image",
            {"decoder": f"{type(error).__name__}: {error}", "size": f"{path.stat().st_size} bytes"},
            "open it in another program, save it again as PNG or TIFF, or take it out of the set",
        ) from error
    if len({page.shape[:2] for page in decoded.pages}) > 1:
        add_note(decoded.notes, "pages of several sizes")
    return decoded


def _decode_planes(image: WindowedImage, labels: bool, choice: PlaneChoice) -> Decoded:
    """Read all of an image, one page for each point in time."""
    if labels:
        _require_label(image)
    image = image.chosen(choice, but="t")
    height, width, channels = image.shape
    times = image.sizes.get("t", 1)
    require_modest_size(image.path, times * height * width * channels * image.array.dtype.itemsize)
    return Decoded([as_numbers(page) for page in image.at_each_time()], [])


def _require_label(image: WindowedImage) -> None:
    """Raise a DataError unless the file can be a label image."""
    if not is_zarr(image.path):
        raise DataError(
            f"{image.path}: labels are not read from the files of microscopes",
            remedy="save the labels as TIFF, PNG or OME-Zarr",
        )
    several = {axis: size for axis, size in image.sizes.items() if axis in "cz" and size > 1}
    if several:
        raise DataError(
            f"{image.path}: a label image has one channel and one plane",
            several,
            "save the labels of the plane that is read",
        )


def _chosen(path: Path, decoded: Decoded, choice: PlaneChoice) -> Decoded:
    """Apply a choice to a file whose pages are images of their own, and whose channels are read together."""
    if choice.z is not None:
        raise DataError(
            f"{path}: --z {choice.z} chooses a plane of an OME-Zarr, ND2 or CZI file; the pages of other "
            "files are images of their own",
            {"pages": len(decoded.pages)},
            "leave --z out, or save the plane as a file of its own",
        )
    pages = []
    for page in decoded.pages:
        channel = choice.channel_for(path, page.shape[2])
        pages.append(page if channel is None else np.ascontiguousarray(page[..., [channel]]))
    return Decoded(pages, decoded.notes)
