"""Steps that all decoders share: upright orientation, alpha channels, and a limit on unpacked sizes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyunet.data.image_set import Image
from tinyunet.errors import DataError, describe

LIMIT_VARIABLE = "TINYUNET_MAX_GIB"
DEFAULT_LIMIT = 1.0  # GiB
USUAL_RATIO = 1000  # zlib, in PNG and TIFF, packs to a 1032th at most

# The EXIF and TIFF orientations 2 to 8 (TIFF 6.0, tag 274): which way to turn the stored rows and columns.
UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


class Decoded(NamedTuple):
    """The pages of a file, each (H, W, C), and notes on what was unusual about it."""

    pages: list[Image]
    notes: list[str]


def upright(pixels: Image, orientation: object, notes: list[str]) -> Image:
    """Turn a page as its orientation tag says; values other than 2 to 8 mean upright."""
    if orientation not in UPRIGHT:
        return pixels
    add_note(notes, f"turned upright (orientation {orientation})")
    return np.ascontiguousarray(UPRIGHT[orientation](pixels))


def add_note(notes: list[str], note: str) -> None:
    """Append a note unless it is there already: one per file, not one per page."""
    if note not in notes:
        notes.append(note)


def as_numbers(pixels: Image) -> Image:
    """Convert Boolean pixels to 0 and 1."""
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def without_alpha(pixels: Image, path: Path, channel: int = -1) -> Image:
    """Drop an opaque alpha channel; raise a DataError for transparent pixels."""
    alpha = pixels[..., channel]
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1
    if (alpha != opaque).any():
        raise transparent(path, pixels, f"opacity {alpha.min()} of {opaque}")
    return np.ascontiguousarray(np.delete(pixels, channel, axis=-1))


def transparent(path: Path, pixels: Image, found: str) -> DataError:
    """Return the error for pixels whose value depends on what a viewer puts behind them."""
    return DataError(
        f"{path}: the image has transparent pixels, whose grey value depends on the viewer",
        {"image": describe(pixels[-1] if pixels.ndim == 4 else pixels, "H W C"), "found": found},
        "flatten it and save it without transparency",
    )


def require_modest_size(path: Path, nbytes: int) -> None:
    """Raise a DataError if a file unpacks to an amount that only a damaged or hostile file asks for.

    The limit is `DEFAULT_LIMIT` or 1000 times the file's size, whichever is more. The environment variable
    TINYUNET_MAX_GIB replaces the default.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text or DEFAULT_LIMIT)
    except ValueError:
        raise DataError(f"{LIMIT_VARIABLE} is {text!r}, expected a number of GiB") from None
    if nbytes <= limit * 2**30:
        return
    size = _size(path)
    if nbytes > USUAL_RATIO * size:
        raise DataError(
            f"{path}: unpacks to far more than its size",
            {"file": f"{size:,} bytes", "unpacked": f"{nbytes:,} bytes", "limit": f"{limit:g} GiB"},
            f"if the file is right, raise the limit: {LIMIT_VARIABLE}={int(nbytes / 2**30) + 1}",
        )


def _size(path: Path) -> int:
    """The bytes of a file, or of all files of a folder, as an OME-Zarr is one."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]))
