"""Files without compression that are read by hand: PGM, PPM and .npy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tinyunet.data.decoded import Decoded, as_numbers
from tinyunet.errors import DataError, describe

# A magic number, then width, height and the highest value, with spaces or comments between them.
HEADER = re.compile(rb"P([2356])" + 3 * rb"(?:\s+|\s*#[^\n]*\n)+(\d+)" + rb"\s")
MOST_CHANNELS = 4  # more values than this along the last axis of an array are columns


def decode_pnm(path: Path, labels: bool) -> Decoded:
    """Read a PGM or PPM file with the values that it holds (Pillow would stretch them to 255 or 65535)."""
    content = path.read_bytes()
    header = HEADER.match(content)
    if header is None:
        raise ValueError("no header of a PGM or PPM file")
    kind, width, height, highest = map(int, header.groups())
    shape = height, width, 3 if kind in (3, 6) else 1
    if not 0 < highest < 65536:
        raise ValueError(f"a highest value of {highest}")
    stored = np.dtype("u1" if highest < 256 else ">u2")
    if kind in (2, 3):
        values = np.array(re.sub(rb"#[^\n]*", b"", content[header.end() :]).split(), np.int64)
    else:
        values = np.frombuffer(content, stored, int(np.prod(shape)), header.end())
    if values.max(initial=0) > highest:
        raise ValueError(f"a value of {values.max()} above the highest value {highest}")
    notes = [] if highest in (255, 65535) else [f"values up to {highest}"]
    return Decoded([values.reshape(shape).astype(stored.newbyteorder("="))], notes)


def decode_npy(path: Path, labels: bool) -> Decoded:
    """Read an array (H, W) or (H, W, C) with at most 4 channels."""
    pixels = np.load(path, allow_pickle=False)  # a pickle could run any code
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] > MOST_CHANNELS):
        raise DataError(
            f"{path}: expected one image, (H, W) or (H, W, C) with at most {MOST_CHANNELS} channels",
            {"found": describe(pixels)},
            "save several images as images=..., labels=... with numpy.savez",
        )
    return Decoded([np.ascontiguousarray(as_numbers(np.atleast_3d(pixels)))], [])
