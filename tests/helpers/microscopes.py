"""Files as microscopes write them.

pylibCZIrw and zarr write theirs. Nothing writes ND2, so `write_nd2` does it, by what the library nd2 reads:
named chunks aligned to 4096 bytes, metadata in Nikon's binary form ("CLX lite"), and a map of the chunks at
the end. It has no more of the format than the tests need.
"""

import struct
import zlib
from pathlib import Path

import numpy as np

MAGIC, ALIGNMENT = 0x0ABECEDA, 4096
PADDED_NAME = 4072  # with the header of the chunk and 8 bytes of its data, pixels begin after 4096
SIGNATURE = b"ND2 FILE SIGNATURE CHUNK NAME01!"
MAP, END = b"ND2 FILEMAP SIGNATURE NAME 0001!", b"ND2 CHUNK MAP SIGNATURE 0000001!"
TIME_LOOP, POSITION_LOOP, Z_LOOP = 1, 2, 4
LOSSLESS, UNCOMPRESSED = 0, 2


def write_nd2(
    path, frames, names, loops="", *, pixel_size=0.0, colours=False, compressed=False, recorded=None
):
    """Write frames (…, C, H, W), or in colours (…, H, W, 3), to an ND2 file of version 3.

    Parameters
    ----------
    path : Path
    frames : array
        Its first axes are the loops.
    names : sequence of str
        Those of the channels; one of a picture in colours.
    loops : str
        A letter for each loop, of t, z and p.
    pixel_size : float
        In micrometres; 0 for a file that is not calibrated.
    colours : bool
    compressed : bool
        Pack the frames with zlib, as NIS-Elements does without loss.
    recorded : int
        How many frames were recorded before the experiment was stopped; all by default.
    """
    counts, size = frames.shape[: len(loops)], frames.shape[len(loops) :]
    height, width = size[:2] if colours else size[1:]
    components = 3 if colours else len(names)
    pages = frames.reshape(-1, *size)
    recorded = len(pages) if recorded is None else recorded
    bits = 8 * frames.dtype.itemsize
    attributes = {
        "uiWidth": width, "uiWidthBytes": width * components * bits // 8, "uiHeight": height,
        "uiComp": components, "uiBpcInMemory": bits, "uiBpcSignificant": bits,
        "uiSequenceCount": recorded, "eCompression": LOSSLESS if compressed else UNCOMPRESSED,
    }  # fmt: skip
    planes = {
        f"a{i}": {
            "uiCompCount": components // len(names), "sDescription": name, "uiColor": 0xFFFFFF,
            "pFluorescentProbe": {"m_sName": name},
        }
        for i, name in enumerate(names)
    }  # fmt: skip
    metadata = {
        "bCalibrated": pixel_size > 0, "dCalibration": float(pixel_size or 1),
        "sPicturePlanes": {"uiCount": len(names), "sPlaneNew": planes},
    }  # fmt: skip
    chunks = {
        b"ImageAttributesLV!": _lite({"SLxImageAttributes": attributes}),
        b"ImageMetadataSeqLV|0!": _lite({"SLxPictureMetadata": metadata}),
    }
    if loops:
        levels = [*zip(loops, counts, strict=True)]
        chunks[b"ImageMetadataLV!"] = _lite({"SLxExperiment": _experiment(levels)})
    for number, page in enumerate(pages[:recorded]):
        pixels = (page if colours else np.moveaxis(page, 0, -1)).tobytes()
        pixels = zlib.compress(pixels) if compressed else pixels
        chunks[b"ImageDataSeq|%d!" % number] = struct.pack("d", float(number)) + pixels
    Path(path).write_bytes(_file(chunks))
    return path


def _experiment(loops):
    (letter, count), *inner = loops
    parameters = {"uiCount": count}
    if letter == "t":
        parameters |= {"dStart": 0.0, "dPeriod": 100.0, "dDuration": 100.0 * count}
    elif letter == "z":
        parameters |= {"dZStep": 0.5}
    else:
        parameters["Points"] = {f"p{i}": {"dPosX": float(i), "dPosY": 0.0} for i in range(count)}
    kind = {"t": TIME_LOOP, "p": POSITION_LOOP, "z": Z_LOOP}[letter]
    level = {"eType": kind, "uLoopPars": parameters}
    return level | ({"ppNextLevelEx": {"n0": _experiment(inner)}} if inner else {})


def _lite(values):
    """Nikon's binary form of nested values: type, name, value; of a level its items and their offsets."""
    content = b""
    for name, value in values.items():
        coded = (name + "\0").encode("utf-16-le")
        head = lambda kind, coded=coded: struct.pack("BB", kind, len(coded) // 2) + coded  # noqa: E731
        if isinstance(value, dict):
            items, start = _lite(value), 2 + len(coded) + 12
            content += head(11) + struct.pack("<IQ", len(value), start + len(items)) + items
            content += bytes(8 * len(value))
        elif isinstance(value, bool):
            content += head(1) + struct.pack("B", value)
        elif isinstance(value, int):
            content += head(3) + struct.pack("I", value)
        elif isinstance(value, float):
            content += head(6) + struct.pack("d", value)
        else:
            content += head(8) + (value + "\0").encode("utf-16-le")
    return content


def _file(chunks):
    content = struct.pack("IIQ32s64s", MAGIC, 32, 64, SIGNATURE, b"Ver3.0".ljust(64, b"\0"))
    entries = b""
    for name, data in chunks.items():
        content += bytes(-len(content) % ALIGNMENT)
        entries += name + struct.pack("QQ", len(content), len(data))
        padded = name.ljust(PADDED_NAME, b"\0")
        content += struct.pack("IIQ", MAGIC, len(padded), len(data)) + padded + data
    at = len(content)
    data = entries + END + struct.pack("Q", at)
    return content + struct.pack("IIQ", MAGIC, len(MAP), len(data)) + MAP + data


def write_czi(path, frames, names, loops="", *, pixel_size=0.0, colours=False):
    """Write frames (…, C, H, W), or in colours (…, H, W, 3), blue first, to a CZI file by pylibCZIrw."""
    from pylibCZIrw import czi

    Path(path).unlink(missing_ok=True)
    with czi.create_czi(str(path)) as file:
        for place in np.ndindex(frames.shape[: len(loops)]):
            plane = dict(zip(loops.upper(), place, strict=True))
            pixels = frames[place]
            for channel in range(1 if colours else len(pixels)):
                page = pixels if colours else pixels[channel][..., None]
                file.write(page, plane={**plane, "C": channel})
        metres = pixel_size * 1e-6
        file.write_metadata("x", dict(enumerate(names)), scale_x=metres, scale_y=metres)
    return path


def write_ome_zarr(path, frames, names, loops="", *, pixel_size=0.0):
    """Write frames (…, C, H, W) to an OME-Zarr 0.5 of one level."""
    import zarr

    axes = [
        {"name": name, "type": "space", **({"unit": "micrometer"} if pixel_size else {})}
        for name in [*loops, "c", "y", "x"]
    ]
    scale = [{"type": "scale", "scale": [*[1.0] * (len(axes) - 2), *[pixel_size or 1.0] * 2]}]
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array(
        "0", shape=frames.shape, chunks=(*[1] * len(loops), 1, 16, 16), dtype=frames.dtype
    )
    array[...] = frames
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": datasets}],
        "omero": {"channels": [{"label": name} for name in names]},
    }
    return path
