"""One file to its pixels, exactly as stored: nothing is scaled, converted or turned.

Three traps are what this file is for: Pillow reads a 16-bit colour PNG as 8 bits and stretches 2- and
4-bit ones; tifffile reads a cut-off stack as a shorter one and only logs it; a JPEG named .png stays lossy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tinyunet.data.image_set import Image
from tinyunet.errors import DataError, describe


def decode(path: Path, *, labels: bool = False) -> list[Image]:
    """The pages of a PNG, JPEG or TIFF file, each (H, W, C) in the file's own type.

    Palette files: an image gets its colours from a PNG palette, a label keeps the indices. The palette of a
    TIFF is only how ImageJ displays grey values, and is ignored.

    Parameters
    ----------
    path : Path
    labels : bool
        Decode label values: indices of palettes, no JPEG.

    Raises
    ------
    DataError
        Unknown type of file, damaged or cut-off file, transparent pixels, labels as JPEG.
    PermissionError
        The file may not be read.
    """
    decoder = DECODERS.get(path.suffix.lower())
    if decoder is None:
        raise DataError(
            f"{path}: unknown type of image file {path.suffix!r}, expected one of {', '.join(DECODERS)}",
            remedy="save it as PNG or TIFF, or move it out of the folder",
        )
    try:
        return decoder(path, labels)
    except (DataError, PermissionError):  # one that may not be read is not damaged
        raise
    except Exception as error:  # three libraries raise a dozen types for a damaged file
        raise DataError(
            f"{path}: cannot be decoded, the file is damaged, cut off or no image",
            {"decoder": f"{type(error).__name__}: {error}", "size": f"{path.stat().st_size} bytes"},
            "open it in another program, save it again as PNG or TIFF, or take it out of the set",
        ) from error


def _decode_png_or_jpeg(path: Path, labels: bool) -> list[Image]:
    import imagecodecs
    import PIL.Image

    with PIL.Image.open(path, formats=("PNG", "JPEG")) as image:
        if labels and image.format != "PNG":
            raise DataError(
                f"{path}: labels as JPEG: its lossy compression changes label values along every border",
                remedy="export the labels again as PNG or TIFF",
            )
        bits = path.read_bytes()[24] if image.format == "PNG" else 8  # bit depth in the header (PNG, 11.2.2)
        if bits == 16:
            pixels = imagecodecs.png_decode(path.read_bytes())
        elif image.mode == "P" and not labels:
            pixels = np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
        elif image.mode == "L" and bits < 8:
            pixels = np.asarray(image) // (255 // (2**bits - 1))  # back to the values before Pillow's stretch
        elif image.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
            pixels = np.asarray(image)
        else:
            raise DataError(f"{path}: unknown colour mode {image.mode}", remedy="save it in grey or as RGB")
    pixels = _numbers(pixels).reshape(*pixels.shape[:2], -1)
    return [_without_alpha(pixels, path) if pixels.shape[2] in (2, 4) else pixels]


def _decode_tiff(path: Path, labels: bool) -> list[Image]:
    import tifffile

    with _errors_that_tifffile_only_logs(), tifffile.TiffFile(path) as tiff:
        pages = []
        for series in tiff.series:
            alpha = series.keyframe.photometric == tifffile.PHOTOMETRIC.RGB and "S" in series.axes
            for page in _channels_last(series.asarray(), series.axes):
                pages.append(_without_alpha(page, path) if alpha and page.shape[2] == 4 else page)
    if not pages:
        raise DataError(f"{path}: a TIFF file without a page", remedy="save the image again")
    return pages


def _channels_last(pixels: Image, axes: str) -> Image:
    """Any order of axes to (pages, H, W, C): samples S, else channels C, go last; Z, T, ... are pages."""
    channel = "S" if "S" in axes else "C" if "C" in axes else ""
    if not channel:
        pixels, axes, channel = pixels[..., None], axes + "S", "S"
    pages = [axis for axis in axes if axis not in ("Y", "X", channel)]
    order = [axes.index(axis) for axis in (*pages, "Y", "X", channel)]
    ordered = pixels.transpose(order)
    return np.ascontiguousarray(_numbers(ordered).reshape(-1, *ordered.shape[-3:]))


def _numbers(pixels: Image) -> Image:
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _without_alpha(pixels: Image, path: Path) -> Image:
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1
    if (pixels[..., -1] != opaque).any():
        raise DataError(
            f"{path}: the image has transparent pixels, whose grey value depends on the viewer",
            {"found": describe(pixels, "H W C"), "opacity": f"{pixels[..., -1].min()} of {opaque}"},
            "flatten it and save it without an alpha channel",
        )
    return np.ascontiguousarray(pixels[..., :-1])


class _Complaints(logging.Handler):
    """What tifffile logs as an error, collected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _errors_that_tifffile_only_logs() -> Iterator[None]:
    """Raise them: a cut-off stack must not pass as a short one."""
    import tifffile

    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(complaints)
    try:
        yield
    finally:
        logger.removeHandler(complaints)
        logger.propagate = propagate
    if complaints.messages:
        raise tifffile.TiffFileError(complaints.messages[0])


DECODERS: dict[str, Callable[[Path, bool], list[Image]]] = {
    ".png": _decode_png_or_jpeg,
    ".jpg": _decode_png_or_jpeg,
    ".jpeg": _decode_png_or_jpeg,
    ".tif": _decode_tiff,
    ".tiff": _decode_tiff,
}
