"""TIFF, BigTIFF and the pyramids of slide scanners, read in windows through tifffile's Zarr store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyunet.data.windowed import WindowedImage
from tinyunet.data.windows_zarr import require_zarr
from tinyunet.errors import DataError

CENTIMETRE, INCH = 3, 2  # TIFF's tag 296
MICROMETRES = {CENTIMETRE: 10_000.0, INCH: 25_400.0}


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
    """Find the size of a pixel in OME's metadata or in the resolution; 1 without a unit if it is unknown."""
    from xml.etree import ElementTree

    if tiff.is_ome:
        pixels = ElementTree.fromstring(tiff.ome_metadata).find(".//{*}Pixels")
        stated = {} if pixels is None else pixels.attrib
        if "PhysicalSizeX" in stated and stated.get("PhysicalSizeXUnit", "µm") == "µm":
            width = float(stated["PhysicalSizeX"])
            return (float(stated.get("PhysicalSizeY", width)), width), "micrometer"
    down, across, unit = (page.tags.get(tag) for tag in (283, 282, 296))
    if down and across and unit and int(unit.value) in MICROMETRES and down.value[0] and across.value[0]:
        height, width = (MICROMETRES[unit.value] * tag.value[1] / tag.value[0] for tag in (down, across))
        return (height, width), "micrometer"
    return (1.0, 1.0), ""
