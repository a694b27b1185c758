"""An image of which windows are read: one plane of a file, with one channel or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet.data.image_set import Image
from tinyunet.data.intensity import PIECE, Moments, Scale
from tinyunet.data.planes import PlaneChoice, choose
from tinyunet.errors import DataError

ROWS = 256  # of a strip whose grey values are summed
AXES = {"t": "time (t)", "p": "position (p)", "s": "scene (s)", "v": "view (v)"}
OTHER_REMEDY = "save one plane as an image of its own"
REMEDIES = {
    "t": "give a folder as --out, which gets the results of every time point; or save one as an image",
    "s": "save each scene as a file of its own (ZEN: Split Scenes)",
    "p": "save each position as a file of its own (NIS-Elements: Split Multipoints)",
}


@dataclass(frozen=True)
class WindowedImage:
    """An image of which windows are read.

    Parameters
    ----------
    path : Path
    array : array-like
        Gives a NumPy array for a tuple of slices and indices, one for each axis.
    axes : str
        One letter per axis of the array.
    pixel_size : (float, float)
        Height and width.
    unit : str
        As OME-Zarr writes it, such as "micrometer"; "" if unknown.
    channels : sequence of str
        Their names, as far as the file has them.
    colours : bool
        The channels are the colours of one picture.
    index : mapping of str to int
        What is read along an axis other than y and x; along others the first, but of c all.
    """

    path: Path
    array: Any
    axes: str
    pixel_size: tuple[float, float] = (1.0, 1.0)
    unit: str = ""
    channels: Sequence[str] = ()
    colours: bool = False
    index: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis of the array."""
        return dict(zip(self.axes, self.array.shape, strict=True))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        sizes = self.sizes
        return sizes["y"], sizes["x"], 1 if "c" in self.index else sizes.get("c", 1)

    @property
    def in_memory(self) -> bool:
        """Whether the file was decoded whole."""
        return isinstance(self.array, np.ndarray)

    @property
    def held(self) -> int:
        """Bytes that reading takes besides the windows: of an image decoded, or a part unpacked, whole."""
        held: int = self.array.nbytes if self.in_memory else getattr(self.array, "held", 0)
        return held

    def read(self, down: slice, across: slice) -> Image:
        """Read a window, (h, w, C)."""
        channel = self.index.get("c")
        channels = slice(None) if channel is None else slice(channel, channel + 1)
        wanted: dict[str, slice | int] = {**self.index, "y": down, "x": across, "c": channels}
        window = np.asarray(self.array[tuple(wanted.get(axis, 0) for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in "yxc"]
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

    def chosen(self, choice: PlaneChoice, *, but: str = "") -> WindowedImage:
        """Return the channel and the plane that are chosen.

        Parameters
        ----------
        choice : PlaneChoice
        but : str
            Axes that may be longer than 1 all the same.

        Raises
        ------
        DataError
            Nothing says which of several channels or planes; an axis that cannot be chosen is longer than 1;
            the pixels are no numbers.
        """
        if not {*"yx"} <= {*self.axes}:
            raise DataError(
                f"{self.path}: expected an image with the axes y and x", {"axes": self.axes}, "save it again"
            )
        if self.array.dtype.kind not in "buif" or min(self.array.shape) < 1:
            raise DataError(
                f"{self.path}: expected pixels that are numbers",
                {"type": self.array.dtype, "shape": self.array.shape},
                "save it again, as integers or floating-point numbers",
            )
        longer = {axis: size for axis, size in self.sizes.items() if axis not in f"yxcz{but}" and size > 1}
        if longer:
            raise DataError(
                f"{self.path}: expected one image with the axes y, x and perhaps c, found several along "
                + " and ".join(AXES.get(axis, f"its axis {axis}") for axis in longer),
                {AXES.get(axis, axis): size for axis, size in longer.items()},
                "; ".join(dict.fromkeys(REMEDIES.get(axis, OTHER_REMEDY) for axis in longer)),
            )
        index = choose(self.path, self.sizes, self.channels, choice, colours=self.colours)
        return replace(self, index={**self.index, **index})

    def at_each_time(self) -> Iterator[Image]:
        """Read the whole image at each point in time, (H, W, C)."""
        for time in range(self.sizes.get("t", 1)):
            frame = replace(self, index={**self.index, "t": time})
            yield np.ascontiguousarray(frame.read(slice(None), slice(None)))
