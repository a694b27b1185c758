"""OME-Zarr and plain Zarr arrays, read in windows: the full resolution of the image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet.data.decode_plain import MOST_CHANNELS
from tinyunet.data.extras import not_installed
from tinyunet.data.windowed import WindowedImage
from tinyunet.errors import DataError, describe

ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")


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
        what = "OME-Zarr and images larger than memory are read and written"
        raise not_installed("zarr", "zarr", what) from error
    return zarr


def open_zarr(path: Path) -> WindowedImage:
    """Open an OME-Zarr image, 0.4 or 0.5, or an array of two or three axes.

    Raises
    ------
    DataError
        It is damaged, or no image.
    OptionError
        zarr is not installed.
    """
    zarr = require_zarr()
    try:
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            return WindowedImage(path, node, _axes_of_shape(path, node), colours=True)
        return _open_group(path, node)
    except DataError:
        raise
    except Exception as error:  # zarr raises a dozen types for damaged metadata
        raise DataError(
            f"{path}: cannot be read as Zarr",
            {"reason": f"{type(error).__name__}: {error}"},
            "check that the copy is complete",
        ) from error


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
    labels = [str(channel.get("label", "")) for channel in metadata.get("omero", {}).get("channels", ())]
    return WindowedImage(path, group[level["path"]], names, (size["y"], size["x"]), unit, labels)
