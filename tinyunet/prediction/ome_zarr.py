"""Writes a prediction as OME-Zarr: classes as an image, numbered objects as its labels.

0, 1, …              the most probable class of each pixel, at full resolution and in steps of a half
labels/objects/…     object numbers, 32 bits
probabilities/…      float32, one channel per class; only on request

A level keeps every second pixel of the one before, so that class and object numbers stay what they are.

Zarr has no locks: of two writers that change a file at the same time, one loses. So the files (shards, or
chunks in version 0.4) are as large as the regions that tiles predict, and each is written by one.

References: OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import DTypeLike

from tinyunet.data.windows_zarr import require_zarr

Version = Literal["0.4", "0.5"]

LARGEST_CHUNK = 512  # pixels: what viewers read at once
SMALLEST_LEVEL = 512  # the pyramid ends with a level of at most this side

OBJECTS, PROBABILITIES = "labels/objects", "probabilities"


@dataclass(frozen=True)
class OmeZarr:
    """A prediction being written.

    Parameters
    ----------
    path : Path
    version : "0.4" or "0.5"
    shape : (int, int)
        Height and width of the image.
    region : (int, int)
        Height and width of the grid of regions, of which each is written by itself.
    pixel_size : (float, float)
    unit : str
        "" if unknown.
    """

    path: Path
    version: Version
    shape: tuple[int, int]
    region: tuple[int, int]
    pixel_size: tuple[float, float]
    unit: str

    def create(self, name: str, dtype: DTypeLike, channels: int = 0, *, level: int = 0) -> Any:
        """Create the array of a level of an image, and return it; "" is the classes."""
        size = tuple(-(-side // 2**level) for side in self.shape)
        shards = tuple(min(side, part) for side, part in zip(self.region, _even(size), strict=True))
        chunks = tuple(_chunk(side) for side in shards)
        one = (1,) if channels else ()
        layout: dict[str, Any] = {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}}
        if self.version == "0.5":
            names = ("c",) * bool(channels) + ("y", "x")
            layout = {"zarr_format": 3, "shards": (*one, *shards), "dimension_names": names}
        return require_zarr().create_array(
            self.path / name / str(level),
            shape=(channels, *size) if channels else size,
            chunks=(*one, *chunks),
            dtype=dtype,
            fill_value=0,
            overwrite=True,
            **layout,
        )

    def open(self, name: str, level: int = 0) -> Any:
        """Open the array of a level, to be read and written."""
        return require_zarr().open_array(self.path / name / str(level), mode="r+")

    def levels(self) -> int:
        """Count the levels of the pyramid."""
        count, largest = 1, max(self.shape)
        while largest > SMALLEST_LEVEL:
            count, largest = count + 1, -(-largest // 2)
        return count

    def write_levels(self, name: str, on_level: Callable[[], None] | None = None) -> None:
        """Write the smaller levels of an image, each from the one before."""
        for level in range(1, self.levels()):
            before = self.open(name, level - 1)
            channels = before.shape[0] if before.ndim == 3 else 0
            array = self.create(name, before.dtype, channels, level=level)
            for channel in range(channels) if channels else [None]:
                self._write_level(array, before, channel)
            if on_level:
                on_level()

    def _write_level(self, array: Any, before: Any, channel: int | None) -> None:
        one = () if channel is None else (slice(channel, channel + 1),)
        (height, width), (step_down, step_across) = array.shape[-2:], self.region
        for top in range(0, height, step_down):
            for left in range(0, width, step_across):
                bottom, right = min(top + step_down, height), min(left + step_across, width)
                window = before[(*one, slice(2 * top, 2 * bottom), slice(2 * left, 2 * right))]
                array[(*one, slice(top, bottom), slice(left, right))] = window[..., ::2, ::2]

    def describe(self, classes: Sequence[int], *, probabilities: bool) -> None:
        """Write the metadata of the groups.

        Parameters
        ----------
        classes : sequence of int
            The value in the image of each class, by which a viewer scales its display.
        probabilities : bool
            Whether they were written.
        """
        display = {"start": 0, "end": max(*classes, 1), "min": 0, "max": max(*classes, 1)}
        channel = {"color": "FFFFFF", "window": display, "label": "classes", "active": True}
        self._group("", {"multiscales": self._multiscales("classes"), "omero": {"channels": [channel]}})
        self._group("labels", {"labels": ["objects"]})
        # The image that the labels belong to is two groups up.
        about = {"image-label": {"source": {"image": "../../"}}}
        self._group(OBJECTS, {"multiscales": self._multiscales("objects")} | about)
        if probabilities:
            self._group(PROBABILITIES, {"multiscales": self._multiscales("probabilities", channels=True)})

    def _group(self, name: str, metadata: dict[str, Any]) -> None:
        group = require_zarr().open_group(
            self.path / name, mode="a", zarr_format=3 if self.version == "0.5" else 2
        )
        if self.version == "0.5":
            group.attrs["ome"] = {"version": "0.5"} | metadata
            return
        for entry in (*metadata.get("multiscales", ()), metadata.get("image-label", {})):
            entry["version"] = "0.4"
        group.attrs.update(metadata)

    def _multiscales(self, name: str, *, channels: bool = False) -> list[dict[str, Any]]:
        space = [
            {"name": axis, "type": "space"} | ({"unit": self.unit} if self.unit else {}) for axis in "yx"
        ]
        axes = [{"name": "c", "type": "channel"}] * channels + space
        scales = [[size * 2**level for size in self.pixel_size] for level in range(self.levels())]
        datasets = [
            {
                "path": str(level),
                "coordinateTransformations": [{"type": "scale", "scale": [1.0] * channels + scale}],
            }
            for level, scale in enumerate(scales)
        ]
        return [{"name": name, "axes": axes, "datasets": datasets, "type": "every second pixel"}]


def _even(size: tuple[int, ...]) -> tuple[int, ...]:
    """Round up to even numbers, of which chunks can be a half."""
    return tuple(side + side % 2 for side in size)


def _chunk(side: int) -> int:
    """Find the largest divisor of a side of a shard that is no larger than a chunk should be."""
    parts = range(-(-side // LARGEST_CHUNK), max(1, side // 64) + 1)
    return next((side // count for count in parts if side % count == 0), side)
