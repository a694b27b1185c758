"""TIFF, BigTIFF and the pyramids of slide scanners, read in windows through tifffile's Zarr store."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows_zarr import require_zarr
from tinyunet.errors import DataError

RESOLUTIONS, RESOLUTION_UNIT = (283, 282), 296  # TIFF's tags: rows, columns
CENTIMETRE = 3
# Micrometres of the units that OME and ImageJ write; the second µ is a Greek mu.
OME = {"µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
IMAGEJ = {"micron": 1.0, "microns": 1.0, "\\u00B5m": 1.0, **OME}


def open_tiff(path: Path) -> WindowedImage:
    """Open a TIFF whose values can be taken as they are stored; others are to be converted first.

    Raises
    ------
    DataError
        It is damaged, holds several images, or values that mean something else.
    OptionError
        zarr is not installed.
    """
    zarr = require_zarr()
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            page = series.keyframe
            odd = _what_is_odd(tiff, page)
            size, unit = _pixel_size(tiff, page)
            colours = "S" in series.axes
            axes = series.axes.replace("S", "c").lower()
        store = tifffile.imread(path, aszarr=True, series=0, level=0)
        array = zarr.open(store, mode="r")
    except Exception as error:  # tifffile raises half a dozen types for a damaged file
        raise DataError(
            f"{path}: cannot be read in windows",
            {"reason": f"{type(error).__name__}: {error}"},
            "save it again as TIFF or OME-Zarr",
        ) from error
    if odd:
        raise DataError(
            f"{path}: {odd}, which is not read in windows",
            remedy="give a folder as --out, or save the image as plain grey or RGB",
        )
    return WindowedImage(path, array, axes, size, unit, colours=colours)


def _what_is_odd(tiff: Any, page: Any) -> str:
    import tifffile

    shown = tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB
    jpeg = page.photometric == tifffile.PHOTOMETRIC.YCBCR and "JPEG" in page.compression.name
    orientation = page.tags.get(274)
    if len(tiff.series) > 1 and not tiff.series[0].is_pyramidal and tiff.series[1].shape == page.shape:
        return "several images"
    if page.photometric not in shown and not jpeg:
        return f"colours stored as {page.photometric.name}"
    if orientation is not None and int(orientation.value) != 1:
        return f"an image stored in orientation {int(orientation.value)}"
    return "an alpha channel" if page.extrasamples else ""


def _pixel_size(tiff: Any, page: Any) -> tuple[tuple[float, float], str]:
    """Return the size of a pixel and its unit; 1 without a unit if it is unknown."""
    size = stated_size(tiff, page)
    return ((1.0, 1.0), "") if size is None else (size, "micrometer")


def stated_size(tiff: Any, page: Any) -> tuple[float, float] | None:
    """Find the height and width of a pixel, in µm; None if the file does not state them.

    OME's and ImageJ's metadata count, and a resolution per centimetre. One per inch says how large the
    picture is on paper.
    """
    if tiff.is_ome and (size := _stated_by_ome(tiff.ome_metadata)):
        return size
    if tiff.is_imagej:
        unit = IMAGEJ.get((tiff.imagej_metadata or {}).get("unit", ""))
    else:
        tag = page.tags.get(RESOLUTION_UNIT)
        unit = IMAGEJ["cm"] if tag and int(tag.value) == CENTIMETRE else None
    down, across = (page.tags.get(tag) for tag in RESOLUTIONS)
    if unit is None or not (down and across and down.value[0] and across.value[0]):
        return None
    return _if_positive(*(unit * tag.value[1] / tag.value[0] for tag in (down, across)))


def _stated_by_ome(metadata: str) -> tuple[float, float] | None:
    from xml.etree import ElementTree

    pixels = ElementTree.fromstring(metadata).find(".//{*}Pixels")
    stated = {} if pixels is None else pixels.attrib
    axes = ("Y" if "PhysicalSizeY" in stated else "X", "X")
    units = [OME.get(stated.get(f"PhysicalSize{axis}Unit", "µm")) for axis in axes]
    values = [float(stated.get(f"PhysicalSize{axis}", 0)) for axis in axes]
    return _if_positive(*(value * (unit or 0) for value, unit in zip(values, units, strict=True)))


def _if_positive(height: float, width: float) -> tuple[float, float] | None:
    """Return a size, unless a side of it is 0 or no number, as in files that do not know it."""
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None
