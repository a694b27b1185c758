"""TIFF files to pixels, by tifffile: their own pages only, with the values that viewers show.

tifffile returns stored values, whatever the file says of their meaning. It follows OME metadata into other
files, takes a page of half the size for a pyramid, and only logs that a stack is cut off.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tinyunet.data.decoded import Decoded, add_note, as_numbers, require_modest_size, upright, without_alpha
from tinyunet.data.image_set import Image
from tinyunet.errors import DataError

# Photometric interpretations (TIFF 6.0, tag 262).
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, YCBCR = 0, 1, 2, 3, 4, 6
SHOWN = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE)
JPEG = (6, 7, 33007)  # compressions whose decoders turn YCbCr into RGB
# And JPEG XR, PixarLog, JPEG 2000, WebP and JPEG XL.
CAN_BE_LOSSY = (*JPEG, 22610, 34934, 32909, 33003, 33004, 33005, 34712, 34892, 34927, 50001, 50002, 52546)
CCITT = (2, 3, 4)
ALPHA = (1, 2)  # extra samples, tag 338; 0 is unspecified
REDUCED, TRANSPARENCY = 1, 4  # bits of NewSubfileType, tag 254
OLD_SUBFILE_TYPE, OLD_REDUCED = 255, 2
SEPARATE_PLANES = 2


def decode_tiff(path: Path, labels: bool) -> Decoded:
    """Read the pages of a TIFF file; axes beyond rows, columns and channels are pages."""
    notes: list[str] = []
    pages: list[Image] = []
    with _raise_logged_errors() as logged:
        for pixels, page, raw in _blocks(path, notes, logged):
            if labels and page.compression in CAN_BE_LOSSY:
                raise DataError(
                    f"{path}: labels with {page.compression.name} compression, which can be lossy and change "
                    "label values along every border",
                    remedy="export the labels again with LZW, Deflate or no compression",
                )
            shown = _as_shown(pixels, page, path, labels=labels, raw=raw, notes=notes)
            tag = page.tags.get(274)
            pages += [upright(image, tag and int(tag.value), notes) for image in shown]
    if not pages:
        raise DataError(f"{path}: a TIFF file without a page", remedy="save the image again")
    if not labels:
        _note_unused_bits(pages, notes)
    return Decoded(pages, notes)


def _blocks(path: Path, notes: list[str], logged: _ErrorCollector) -> Iterator[tuple[Image, Any, bool]]:
    """Yield arrays (pages, H, W, C), each with a TiffPage that describes it, and whether ImageJ wrote it.

    tifffile's series are used where metadata of this file alone say what the axes are. All other files are
    read page by page.
    """
    import tifffile

    # Micro-Manager's metadata name other files, as OME's may.
    with tifffile.TiffFile(path, is_mmstack=False, is_ndtiff=False) as tiff:
        require_an_end(tiff)
        raw = bool(tiff.is_imagej)
        if tiff.is_ome and not _describes_own_pages(path, tiff):
            tiff.is_ome = False
        series = [s for s in tiff.series if s.shape and s.keyframe.shape]
        if any(None in s.pages for s in series):  # planes that the metadata promise and the file lacks
            if any("C" in s.axes for s in series):
                raise _some_of_several_channels(path, tiff)
            series = []
        if series and all(s.kind not in ("uniform", "generic") and {*"YX"} <= {*s.axes} for s in series):
            images = [s for s in series if not _is_auxiliary(s.keyframe)] or series
            require_modest_size(path, sum(s.nbytes for s in images))
            logged.raise_first()  # before damaged metadata lead to long work
            for s in images:
                yield _channels_last(s.asarray(), _axes(s, tiff, notes)), s.keyframe, raw
            return
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if page.shape]
        pages = [page for page in pages if not _is_auxiliary(page)] or pages
        require_modest_size(path, sum(page.nbytes for page in pages))
        logged.raise_first()
        for page in pages:
            yield _channels_last(page.asarray(), page.axes), page, raw


def require_an_end(tiff: Any) -> None:
    """Raise unless the list of pages has an end: tifffile follows one that leads back to itself for ever."""
    import tifffile

    form, file = tiff.tiff, tiff.filehandle
    offset, before = tiff.pages.first.offset, set[int]()
    while 0 < offset < file.size:
        if offset in before:
            raise tifffile.TiffFileError(f"the list of its pages leads back to the page at byte {offset}")
        before.add(offset)
        try:
            file.seek(offset)
            (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(offset + form.tagnosize + tags * form.tagsize)
            (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        except (struct.error, OSError):  # cut off, which tifffile finds too
            return


def _is_auxiliary(page: Any) -> bool:
    """Return whether a page is flagged as a reduced image or a transparency mask of another page."""
    old = page.tags.get(OLD_SUBFILE_TYPE)
    return (
        bool(page.subfiletype & (REDUCED | TRANSPARENCY))
        or (old is not None and old.value == OLD_REDUCED)
        or page.photometric == MASK
    )


def _describes_own_pages(path: Path, tiff: Any) -> bool:
    """Return whether OME metadata are about this file alone, so that its axes can be taken from them.

    Raises
    ------
    DataError
        They are about more than this file, which holds several channels of an image.
    """
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError:
        return False
    samples = tiff.pages.first.samplesperpixel
    planes, complete, channels_unclear = 0, True, False
    for pixels in root.iterfind(".//{*}Pixels"):
        declared = (int(channel.get("SamplesPerPixel", 1)) for channel in pixels.iterfind("{*}Channel"))
        channels = max(1, int(pixels.get("SizeC", 1)) // max(declared, default=samples))
        planes += int(pixels.get("SizeZ", 1)) * int(pixels.get("SizeT", 1)) * channels
        data = pixels.findall("{*}TiffData")
        own = [entry for entry in data if _is_own(entry, root.get("UUID"), path)]
        present = all(int(entry.get("IFD", 0)) < len(tiff.pages) for entry in own)
        complete &= len(own) == len(data) and present
        own_channels = {entry.get("FirstC", "0") for entry in own}
        one_channel = len(own_channels) == 1 and len(own) >= len(tiff.pages)
        channels_unclear |= channels > 1 and not one_channel
    if complete and planes <= len(tiff.pages):
        return True
    if channels_unclear and len(tiff.pages) > 1:
        raise _some_of_several_channels(path, tiff)
    return False


def _is_own(data: ElementTree.Element, own_uuid: str | None, path: Path) -> bool:
    """Return whether a TiffData element is about this file, by UUID or else by the file's name."""
    uuid = data.find("{*}UUID")
    if uuid is None:
        return True
    if own_uuid:
        return uuid.text == own_uuid
    return uuid.get("FileName", "").lower() == path.name.lower()  # as tifffile compares


def _some_of_several_channels(path: Path, tiff: Any) -> DataError:
    return DataError(
        f"{path}: a part of an OME image of several channels, so that it is unknown which page is which",
        {"pages": len(tiff.pages)},
        "save the whole image as one TIFF file, or one file per channel",
    )


def _axes(series: Any, tiff: Any, notes: list[str]) -> str:
    """Return the axes of a series, in which planes that tifffile wrote without naming the axes are slices.

    By default tifffile stores a stack of three or four slices as the colour planes of one RGB image. Its
    description then holds the shape alone.
    """
    metadata = tiff.shaped_metadata if series.kind == "shaped" else None
    if (
        metadata
        and all("axes" not in entry for entry in metadata)
        and series.keyframe.photometric == RGB
        and series.keyframe.planarconfig == SEPARATE_PLANES
    ):
        add_note(notes, "planes read as slices, not as colours, which its description does not mention")
        return series.axes.replace("S", "Q")
    return series.axes


def _channels_last(pixels: Image, axes: str) -> Image:
    """Reorder any axes to (pages, H, W, C): samples S, else channels C, go last; Z, T, ... are pages."""
    channel = axes.rfind("S") if "S" in axes else axes.find("C")
    if channel < 0:
        pixels, channel = pixels[..., None], len(axes)
    last = axes.rindex("Y"), axes.rindex("X"), channel
    order = [axis for axis in range(pixels.ndim) if axis not in last]
    ordered = pixels.transpose(*order, *last)
    return np.ascontiguousarray(as_numbers(ordered).reshape(-1, *ordered.shape[-3:]))


def _as_shown(pixels: Image, page: Any, path: Path, *, labels: bool, raw: bool, notes: list[str]) -> Image:
    """Apply what the file says of its values, and drop samples that are no colours."""
    photometric = _photometric(page)
    one_sample = pixels.shape[-1] != page.samplesperpixel  # planes that are slices
    extra = [] if one_sample else [int(sample) for sample in page.extrasamples]
    colours = pixels.shape[-1] - len(extra)
    if photometric not in SHOWN:
        raise DataError(
            f"{path}: colours stored as {getattr(photometric, 'name', photometric)}, which programs show in "
            "different ways",
            remedy="open it in a program that shows it right, and save it as RGB",
        )
    if raw and photometric in (WHITE_IS_ZERO, PALETTE):
        add_note(notes, "ImageJ's look-up table is left out")  # it is a choice of display, not of values
    elif photometric == WHITE_IS_ZERO and page.bitspersample == 1 and page.software.startswith("tifffile"):
        add_note(notes, "a Boolean array of tifffile, 1 for True")  # it declares white as zero, unasked
    elif photometric == WHITE_IS_ZERO:
        pixels = _inverted(pixels, colours, page.bitspersample, path)
        add_note(notes, "white is zero")
    elif photometric == PALETTE:
        add_note(notes, "palette")
        if not labels:
            return _coloured(pixels[..., 0], page.colormap)
    if page.bitspersample % 8 and page.bitspersample > 1:
        add_note(notes, f"{page.bitspersample} bits per value")
    if photometric == RGB and pixels.shape[-1] == 4 and not extra:
        extra, colours = [0], 3
    for channel in reversed(range(len(extra))):
        if extra[channel] in ALPHA:
            pixels = without_alpha(pixels, path, colours + channel)
    if photometric == RGB and extra == [0]:
        add_note(notes, "a fourth sample without a meaning is left out")
        pixels = np.ascontiguousarray(pixels[..., :3])
    return pixels


def _photometric(page: Any) -> Any:
    if 262 not in page.tags:  # as libtiff assumes where the tag is missing
        several = page.samplesperpixel >= 3
        return RGB if several else WHITE_IS_ZERO if page.compression in CCITT else BLACK_IS_ZERO
    if page.photometric == YCBCR and page.compression in JPEG:
        return RGB
    return page.photometric


def _inverted(pixels: Image, colours: int, bits: int, path: Path) -> Image:
    if pixels.dtype.kind != "u":
        raise DataError(
            f"{path}: white is zero, of values that have no highest one",
            {"type": pixels.dtype},
            "save it with black as zero, or as unsigned integers",
        )
    pixels = pixels.copy()
    pixels[..., :colours] = 2**bits - 1 - pixels[..., :colours]
    return pixels


def _coloured(indices: Image, colormap: Image) -> Image:
    """Look up 8-bit colours, (..., 3); (..., 1) where all colours in use are grey."""
    colours = np.asarray(colormap).T
    colours = (colours // 256 if colours.max() > 255 else colours).astype(np.uint8)  # 8 bits, as libtiff does
    pixels = colours[indices]
    grey = (pixels == pixels[..., :1]).all()
    return np.ascontiguousarray(pixels[..., :1]) if grey else pixels


def _note_unused_bits(pages: list[Image], notes: list[str]) -> None:
    """Note values of 9 to 12 bits in 16: a camera's, and dark in programs that do not stretch them."""
    if not all(page.dtype == np.uint16 for page in pages):
        return
    highest = max((int(page.max()) for page in pages if page.size), default=0)
    if 9 <= highest.bit_length() <= 12:
        add_note(notes, f"{highest.bit_length()} bits in 16")


class _ErrorCollector(logging.Handler):
    """Collects what tifffile logs as errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        import tifffile

        if self.messages:
            raise tifffile.TiffFileError(self.messages[0])


@contextmanager
def _raise_logged_errors() -> Iterator[_ErrorCollector]:
    """Raise what tifffile only logs: a cut-off stack must not pass for a short one."""
    collector = _ErrorCollector()
    logger = logging.getLogger("tifffile")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield collector
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
    collector.raise_first()
