"""ND2, of Nikon's NIS-Elements, read in windows by the library nd2.

A frame has all channels of one plane. One without compression is mapped into memory, of which a window
touches a part; a compressed one is unpacked whole, and the last is kept.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet.data.extras import not_installed
from tinyunet.data.image_set import Image
from tinyunet.data.windowed import WindowedImage
from tinyunet.errors import DataError

UNPACKING = 3  # sizes of a frame that are in memory while it is unpacked: 2.6 were measured


def open_nd2(path: Path) -> WindowedImage:
    """Open an ND2 file.

    Raises
    ------
    DataError
        It is damaged.
    OptionError
        nd2 is not installed.
    """
    try:
        import nd2
    except ImportError as error:
        raise not_installed("nd2", "nd2", "ND2 files are read") from error
    if not path.is_file():
        raise DataError(f"{path}: no such file", remedy="check the path")
    try:
        frames = _Frames(path, nd2.ND2File(path))
    except DataError:
        raise
    except Exception as error:  # nd2 raises half a dozen types for a damaged file
        raise DataError(
            f"{path}: cannot be read as ND2",
            {"reason": f"{type(error).__name__}: {error}"},
            "check that the copy is complete",
        ) from error
    channels: list[Any] = []
    with suppress(Exception):  # nd2 fails where descriptions are incomplete; pixels can be read all the same
        channels = getattr(frames.file.metadata, "channels", None) or []
    names = [] if frames.colours else [channel.channel.name or "" for channel in channels]
    return WindowedImage(path, frames, frames.axes, *_pixel_size(channels), names, frames.colours)


def _pixel_size(channels: list[Any]) -> tuple[tuple[float, float], str]:
    if not (channels and all(channels[0].volume.axesCalibrated[:2])):
        return (1.0, 1.0), ""
    width, height, _ = channels[0].volume.axesCalibration
    return (height, width), "micrometer"


class _Frames:
    """The frames of a file as an array, of which windows are read.

    Parameters
    ----------
    path : Path
    file : nd2.ND2File
    """

    def __init__(self, path: Path, file: Any):
        self.path, self.file = path, file
        weakref.finalize(self, file.close)
        sizes = dict(file.sizes)  # without axes of length 1
        self.colours = "S" in sizes
        if self.colours and "C" in sizes:
            raise DataError(
                f"{path}: several channels, each in colours",
                {"channels": sizes["C"]},
                "save one channel as an image of its own",
            )
        self._loops = {axis: size for axis, size in sizes.items() if axis not in "CYXS"}
        self._frame = {axis: size for axis, size in sizes.items() if axis in "CYXS"}
        self.axes = "".join([*self._loops, *self._frame]).replace("S", "c").lower()
        self.shape = (*self._loops.values(), *self._frame.values())
        self.dtype = file.dtype
        self._unpacked = bool(file.attributes.compressionType) or file.is_legacy
        self._last: tuple[int, Image] | None = None
        unpacked = int(np.prod(list(self._frame.values()))) * self.dtype.itemsize
        self.held = UNPACKING * unpacked if self._unpacked else 0  # bytes, see `WindowedImage.held`

    def __getitem__(self, key: tuple[int | slice, ...]) -> Image:
        """Read a part of one frame: an index for each loop, slices of the axes of the frame."""
        loops, number = len(self._loops), 0
        for index, size in zip(key[:loops], self._loops.values(), strict=True):
            assert isinstance(index, int)
            number = number * size + index
        return np.array(self._read(number)[key[loops:]])  # a copy: the file may be closed before it is used

    def _read(self, number: int) -> Image:
        last = self._last
        if last is not None and last[0] == number:
            return last[1]
        recorded = self.file.attributes.sequenceCount
        if number >= recorded:  # of which nd2 makes zeros
            raise DataError(
                f"{self.path}: frame {number} was not recorded",
                {"frames": f"0 to {recorded - 1} of {int(np.prod(list(self._loops.values())))}"},
                "the recording was stopped: choose another plane, or save the complete part",
            )
        try:
            frame: Image = self.file.read_frame(number)
        except Exception as error:  # zlib's and others, for a damaged frame
            raise DataError(
                f"{self.path}: frame {number} cannot be read",
                {"reason": f"{type(error).__name__}: {error}"},
                "check that the copy is complete",
            ) from error
        if frame.shape != tuple(self._frame.values()):
            raise DataError(
                f"{self.path}: frame {number} has another shape than the file states",
                {"frame": frame.shape, "file": tuple(self._frame.values())},
                "save the image again, as TIFF or OME-Zarr",
            )
        if self._unpacked:
            self._last = number, frame
        return frame
