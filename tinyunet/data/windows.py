"""Images that are read window by window, because they may be larger than memory.

OME-Zarr    0.4 and 0.5, and plain Zarr arrays: the full resolution of the image
TIFF        also BigTIFF and the pyramids of slide scanners, through tifffile's Zarr store
others      decoded whole: they are no larger than memory
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet.data.image_set import Image
from tinyunet.data.intensity import PIECE, Moments, Scale
from tinyunet.data.readers import MOST_CHANNELS, read_images
from tinyunet.errors import DataError, OptionError, describe

ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
TIFF = (".tif", ".tiff")
CENTIMETRE, INCH = 3, 2  # TIFF's tag 296
MICROMETRES = {CENTIMETRE: 10_000.0, INCH: 25_400.0}
ROWS = 256  # of a strip whose grey values are summed


@dataclass(frozen=True)
class WindowedImage:
    """An image of which windows are read.

    Parameters
    ----------
    path : Path
    array : array-like
        Gives a NumPy array for a tuple of slices and indices.
    axes : str
        One letter per axis of the array; those besides y, x and c are of length 1.
    pixel_size : (float, float)
        Height and width.
    unit : str
        As OME-Zarr writes it, such as "micrometer"; "" if unknown.
    """

    path: Path
    array: Any
    axes: str
    pixel_size: tuple[float, float] = (1.0, 1.0)
    unit: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        sizes = dict(zip(self.axes, self.array.shape, strict=True))
        return sizes["y"], sizes["x"], sizes.get("c", 1)

    @property
    def in_memory(self) -> bool:
        """Whether the file was decoded whole."""
        return isinstance(self.array, np.ndarray)

    def read(self, down: slice, across: slice) -> Image:
        """Read a window, (h, w, C)."""
        wanted = {"y": down, "x": across, "c": slice(None)}
        window = np.asarray(self.array[tuple(wanted.get(axis, 0) for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in wanted]
        if "c" not in kept:
            window, kept = window[..., None], [*kept, "c"]
        return window.transpose([kept.index(axis) for axis in "yxc"])

    def scale(self) -> Scale:
        """Read the whole image in strips, to find the mean and deviation of each channel.

        Raises
        ------
        DataError
            A pixel is NaN or infinite.
        """
        height, width, channels = self.shape
        moments = Moments(channels)
        for top in range(0, height, ROWS):
            for left in range(0, width, PIECE):
                window = self.read(slice(top, min(top + ROWS, height)), slice(left, min(left + PIECE, width)))
                try:
                    moments.add(window)
                except DataError as error:
                    raise DataError(f"{self.path}, rows {top} to {top + ROWS - 1}: {error}") from error
        return moments.scale()


def is_zarr(path: Path) -> bool:
    """Return whether a path is a Zarr array or group."""
    return any((path / name).is_file() for name in ZARR_FILES)


def require_zarr() -> Any:
    """Import zarr, of the extra that needs it.

    Raises
    ------
    OptionError
        It is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise OptionError(
            "images larger than memory are read and written by zarr, which is not installed",
            remedy="pip install -e '.[zarr]'",
        ) from error
    return zarr


def open_windows(path: Path) -> WindowedImage:
    """Open an image to be read in windows.

    Raises
    ------
    DataError
        It is missing, damaged, or not one image of two dimensions.
    OptionError
        zarr is not installed.
    """
    if is_zarr(path):
        return _open_zarr(path)
    if path.suffix.lower() in TIFF and path.is_file():
        return _open_tiff(path)
    images = read_images(path, labels=False)
    if len(images) != 1:
        raise DataError(
            f"{path}: {len(images)} images, expected one to be written as one OME-Zarr",
            remedy="give one image, or a folder as --out",
        )
    return WindowedImage(path, images.images[0], "yxc")


def _open_zarr(path: Path) -> WindowedImage:
    zarr = require_zarr()
    try:
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            image = WindowedImage(path, node, _axes_of_shape(path, node))
        else:
            image = _open_group(path, node)
    except DataError:
        raise
    except Exception as error:  # zarr raises a dozen types for damaged metadata
        raise DataError(
            f"{path}: cannot be read as Zarr",
            {"reason": f"{type(error).__name__}: {error}"},
            "check that the copy is complete",
        ) from error
    return _checked(image)


def _axes_of_shape(path: Path, array: Any) -> str:
    shape = array.shape
    if len(shape) == 2:
        return "yx"
    if len(shape) == 3 and min(shape[0], shape[-1]) <= MOST_CHANNELS:
        return "cyx" if shape[0] <= shape[-1] else "yxc"
    raise DataError(
        f"{path}: a Zarr array whose axes are unknown",
        {"array": describe(array), "expected": "(H, W), (H, W, C) or (C, H, W)"},
        "give an OME-Zarr image, which names its axes",
    )


def _open_group(path: Path, group: Any) -> WindowedImage:
    metadata = group.attrs.asdict()
    metadata = metadata.get("ome", metadata)
    if "multiscales" not in metadata:
        raise DataError(
            f"{path}: a Zarr group that is no OME-Zarr image",
            {"holds": ", ".join(sorted(group.keys())) or "nothing"},
            f"give one of its images, such as {path / '0'}" if "0" in group else "give an OME-Zarr image",
        )
    image = metadata["multiscales"][0]
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image["axes"]]
    names, level = "".join(axis["name"] for axis in axes), image["datasets"][0]
    scale = np.ones(len(names))
    for transform in (
        *level.get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        scale = scale * transform.get("scale", 1.0)
    size = dict(zip(names, scale.tolist(), strict=True))
    unit = next((axis.get("unit", "") for axis in axes if axis["name"] == "x"), "")
    return WindowedImage(path, group[level["path"]], names, (size["y"], size["x"]), unit)


def _open_tiff(path: Path) -> WindowedImage:
    """Open a TIFF whose values can be taken as they are stored; others are to be converted first."""
    zarr = require_zarr()
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            page = series.keyframe
            odd = _what_is_odd(tiff, page)
            size, unit = _pixel_size(tiff, page)
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
    return _checked(WindowedImage(path, array, axes, size, unit))


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


def _checked(image: WindowedImage) -> WindowedImage:
    """Return the image, or raise a DataError unless it is one image of numbers in two dimensions."""
    longer = {
        name: size
        for name, size in zip(image.axes, image.array.shape, strict=True)
        if name not in "yxc" and size > 1
    }
    if longer or not {*"yx"} <= {*image.axes}:
        raise DataError(
            f"{image.path}: expected one image with the axes y, x and perhaps c",
            {"axes": image.axes, "shape": image.array.shape},
            "save one plane as an image of its own",
        )
    if image.array.dtype.kind not in "buif" or 0 in image.array.shape:
        raise DataError(f"{image.path}: expected pixels that are numbers", {"type": image.array.dtype})
    return image
