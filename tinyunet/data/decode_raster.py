"""PNG, JPEG, BMP, GIF, WebP and JPEG 2000 to pixels, by Pillow and imagecodecs.

Pillow reads a 16-bit colour PNG as 8 bits, stretches 2- and 4-bit ones to 0..255, ignores orientation and the
transparent colour key, and refuses large images. A JPEG named .png is still lossy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from tinyunet.data.decoded import (
    Decoded,
    add_note,
    as_numbers,
    require_modest_size,
    transparent,
    upright,
    without_alpha,
)
from tinyunet.data.image_set import Image
from tinyunet.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "JPEG2000")  # found by content, not by suffix
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
ORIENTATION = 0x0112  # in EXIF
MOST_EXPANSION = 1032  # bytes that deflate makes of one: 258 of two bits (zlib's technical details)
LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000"}

_pillow_limit = Lock()


def decode_raster(path: Path, labels: bool) -> Decoded:
    """Read the frames of a file that Pillow knows."""
    import PIL.Image

    notes: list[str] = []
    with _without_pillows_limit(), PIL.Image.open(path, formats=FORMATS) as image:
        if labels:
            _require_lossless(path, image)
        frames = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP") else 1
        require_modest_size(path, image.width * image.height * len(image.getbands()) * frames)
        if image.format == "PNG":
            _require_enough_data(path, image)
        pages = []
        for frame in range(frames):
            if frames > 1:
                image.seek(frame)
            image.load()  # which decides the mode of a frame
            page = _page(path, image, labels, notes)
            pages.append(upright(page, _orientation(image), notes))
    return Decoded(pages, notes)


def _page(path: Path, image: Any, labels: bool, notes: list[str]) -> Image:
    bits = _bits(path, image)
    if image.format == "JPEG2000":
        pixels = _decode_jpeg2000(path, image)
    elif image.mode not in MODES and bits != 16:
        raise DataError(f"{path}: unknown colour mode {image.mode}", remedy="save it in grey or as RGB")
    elif bits == 16:
        import imagecodecs

        pixels = imagecodecs.png_decode(path.read_bytes())  # makes a transparent colour key an alpha channel
    elif image.mode == "P" and not labels:
        add_note(notes, "palette")
        pixels = np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
        if image.format != "PNG" and (pixels[..., :3] == pixels[..., :1]).all():
            pixels = pixels[..., [0, *range(3, pixels.shape[2])]]
    else:
        pixels = np.asarray(image)
        if image.mode == "L" and bits < 8:
            pixels = pixels // (255 // (2**bits - 1))  # undo Pillow's stretch
    pixels = as_numbers(pixels).reshape(*pixels.shape[:2], -1)
    if image.mode in ("1", "L", "RGB") and bits != 16 and "transparency" in image.info:
        _require_opaque(path, pixels, image.info["transparency"])
    return without_alpha(pixels, path) if pixels.shape[2] in (2, 4) else pixels


def _bits(path: Path, image: Any) -> int:
    if image.format != "PNG":
        return 8
    with path.open("rb") as file:
        return file.read(25)[24]  # bit depth in the header (PNG, 11.2.2)


def _decode_jpeg2000(path: Path, image: Any) -> Image:
    import imagecodecs

    if image.mode not in ("L", "LA", "I;16", "RGB", "RGBA"):
        raise DataError(f"{path}: unknown colour mode {image.mode}", remedy="save it in grey or as RGB")
    return imagecodecs.jpeg2k_decode(path.read_bytes())  # Pillow reduces colours to 8 bits


def _require_opaque(path: Path, pixels: Image, key: Any) -> None:
    """Raise a DataError if a pixel has the colour that the file declares transparent."""
    if isinstance(key, bytes) or (pixels == np.atleast_1d(key)).all(axis=-1).any():
        raise transparent(path, pixels, f"transparent colour {key!r}")


def _orientation(image: Any) -> object:
    with suppress(SyntaxError, ValueError, KeyError, TypeError, OSError):  # damaged EXIF
        return image.getexif().get(ORIENTATION)
    return None


def _require_enough_data(path: Path, image: Any) -> None:
    """Raise a DataError, before memory is taken, if a PNG is too short for the size that it states."""
    row = 1 + (image.width * _bits(path, image) * len(image.getbands()) + 7) // 8
    held = MOST_EXPANSION * path.stat().st_size
    if image.height * row > held:
        raise DataError(
            f"{path}: damaged: it is too short for the size that it states",
            {"size": f"{image.width} × {image.height} pixels", "file": f"{path.stat().st_size:,} bytes"},
            "export the image again",
        )


def _require_lossless(path: Path, image: Any) -> None:
    compression = LOSSY.get(image.format)
    if image.format == "WEBP" and not _is_lossless_webp(path.read_bytes()):
        compression = "lossy WebP"
    if compression:
        raise DataError(
            f"{path}: labels as {compression}: lossy compression changes label values along every border",
            remedy="export the labels again as PNG or TIFF",
        )


def _is_lossless_webp(content: bytes) -> bool:
    """Return whether all frames of a WebP file are lossless: chunks VP8L instead of VP8."""
    chunks, start = [], 12
    while start + 8 <= len(content):
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        chunks.append(content[start + 24 : start + 28] if name == b"ANMF" else name)
        start += 8 + size + size % 2
    return b"VP8L" in chunks and not {b"VP8 ", b"ALPH"} & set(chunks)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Let Pillow read any number of pixels: `require_modest_size` is the limit here."""
    import PIL.Image

    with _pillow_limit:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit
