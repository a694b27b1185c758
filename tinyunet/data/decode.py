"""From one image file to its pixels.

Grey values, colours and orientation are those that viewers show; values are not scaled. A file gives its own
pages and nothing else. A file whose picture cannot be known is refused, with the reason and the remedy.

    decode_tiff      TIFF: photometric interpretation, pages, channels
    decode_raster    PNG, JPEG, BMP, GIF, WebP, JPEG 2000
    decode_plain     PGM, PPM and .npy
    decoded          what they share
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tinyunet.data.decode_plain import decode_npy, decode_pnm
from tinyunet.data.decode_raster import decode_raster
from tinyunet.data.decode_tiff import decode_tiff
from tinyunet.data.decoded import Decoded, add_note
from tinyunet.data.image_set import Image
from tinyunet.errors import DataError, OutOfMemoryError

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


def decode(path: Path, *, labels: bool = False) -> list[Image]:
    """Read the pages of an image file, each (H, W, C) in the file's own type.

    Palettes become colours in an image, and grey where they hold grey only; a label keeps the indices.

    Parameters
    ----------
    path : Path
    labels : bool
        Decode label values: indices of palettes, no lossy compression.

    Raises
    ------
    DataError
        Unknown type of file, damaged or cut-off file, transparent pixels, colours that cannot be shown
        faithfully, labels with lossy compression.
    OutOfMemoryError
        Too little memory for this file.
    PermissionError
        The file may not be read.
    """
    return decode_with_notes(path, labels=labels).pages


def decode_with_notes(path: Path, *, labels: bool = False) -> Decoded:
    """Read the pages of an image file as `decode` does, with notes on what was unusual about it."""
    decoder = DECODERS.get(path.suffix.lower())
    if decoder is None:
        raise DataError(
            f"{path}: unknown type of image file {path.suffix!r}, expected one of {', '.join(DECODERS)}",
            remedy="save it as PNG or TIFF, or move it out of the folder",
        )
    try:
        decoded = decoder(path, labels)
    except (DataError, PermissionError):  # a file without permission is not damaged
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
