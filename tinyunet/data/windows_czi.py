"""CZI, of Zeiss's ZEN, read in windows by pylibCZIrw: the full resolution, put together from its tiles.

Where no tile lies, pixels are 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet.data.extras import not_installed
from tinyunet.data.image_set import Image
from tinyunet.data.windowed import WindowedImage
from tinyunet.errors import DataError

TYPES = {
    "Gray8": np.uint8,
    "Gray16": np.uint16,
    "Gray32Float": np.float32,
    "Bgr24": np.uint8,
    "Bgr48": np.uint16,
    "Bgr96Float": np.float32,
}
MICROMETRES = 1e6  # in a metre, the unit of CZI


def open_czi(path: Path) -> WindowedImage:
    """Open a CZI file.

    Raises
    ------
    DataError
        It is damaged, or has pixels of a type that is not read.
    OptionError
        pylibCZIrw is not installed.
    """
    try:
        from pylibCZIrw import czi
    except ImportError as error:
        raise not_installed("pylibCZIrw", "czi", "CZI files are read") from error
    if not path.is_file():
        raise DataError(f"{path}: no such file", remedy="check the path")
    try:
        planes = _Planes(path, czi.CziReader(str(path)))
        metadata = planes.file.metadata["ImageDocument"]["Metadata"]
        names, (size, unit) = _channel_names(metadata), _pixel_size(metadata)
    except DataError:
        raise
    except Exception as error:  # libCZI's errors are RuntimeErrors, of damaged XML others
        raise _unreadable(path, error) from error
    return WindowedImage(path, planes, planes.axes, size, unit, names, planes.colours)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read as CZI",
        {"reason": f"{type(error).__name__}: {error}"},
        "check that the copy is complete",
    )


def _channel_names(metadata: Mapping[str, Any]) -> list[str]:
    found = _at(metadata, "Information", "Image", "Dimensions", "Channels", "Channel")
    return [channel.get("@Name") or "" for channel in _as_list(found)]


def _pixel_size(metadata: Mapping[str, Any]) -> tuple[tuple[float, float], str]:
    distances = _as_list(_at(metadata, "Scaling", "Items", "Distance"))
    size = {distance["@Id"]: float(distance.get("Value") or 0) * MICROMETRES for distance in distances}
    if size.get("X", 0) > 0 and size.get("Y", 0) > 0:
        return (size["Y"], size["X"]), "micrometer"
    return (1.0, 1.0), ""


def _at(metadata: Any, *names: str) -> Any:
    for name in names:
        metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
    return metadata


def _as_list(found: Any) -> list[Any]:
    """What XML becomes: nothing, one element, or a list of several."""
    return found if isinstance(found, list) else [] if found is None else [found]


class _Planes:
    """The planes of a file as an array, of which windows are read.

    Parameters
    ----------
    path : Path
    file : CziReader
    """

    def __init__(self, path: Path, file: Any):
        self.path, self.file = path, file
        box = file.total_bounding_box_no_pyramid
        (self._left, right), (self._top, bottom) = box["X"], box["Y"]
        sizes = {axis: end - start for axis, (start, end) in box.items() if axis not in "XYC"}
        sizes = {"S": max(1, len(file.scenes_bounding_rectangle_no_pyramid)), **sizes}
        types = file.pixel_types
        unknown = sorted(set(types.values()) - TYPES.keys())
        self.colours = any(name.startswith("Bgr") for name in types.values())
        if unknown or (self.colours and len(types) > 1):
            raise DataError(
                f"{path}: pixels of a kind that is not read",
                {f"channel {number}": name for number, name in types.items()},
                "save one channel as an image of its own",
            )
        self.axes = "".join(sizes).lower() + ("yxc" if self.colours else "cyx")
        height, width = bottom - self._top, right - self._left
        frame = (height, width, 3) if self.colours else (len(types), height, width)
        self.shape = (*sizes.values(), *frame)
        self.dtype = np.result_type(*(TYPES[name] for name in types.values()))

    def __getitem__(self, key: tuple[int | slice, ...]) -> Image:
        """Read a window: slices of y, x and c, an index for each other axis."""
        parts: dict[str, Any] = dict(zip(self.axes, key, strict=True))
        sizes = dict(zip(self.axes, self.shape, strict=True))
        top, bottom, _ = parts.pop("y").indices(sizes["y"])
        left, right, _ = parts.pop("x").indices(sizes["x"])
        channels = range(sizes["c"])[parts.pop("c")]
        plane = {axis.upper(): index for axis, index in parts.items() if axis != "s"}
        roi = self._left + left, self._top + top, right - left, bottom - top
        try:
            if self.colours:
                blue_green_red = self.file.read(roi, plane)
                return blue_green_red[..., [2 - c for c in channels]]
            return np.stack([self.file.read(roi, {**plane, "C": c})[..., 0] for c in channels])
        except RuntimeError as error:  # libCZI's, of a damaged tile
            raise _unreadable(self.path, error) from error
