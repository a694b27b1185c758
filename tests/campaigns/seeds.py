"""Valid inputs of every kind, from which the campaign makes damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.helpers.films import write_film

SHAPE = (40, 36)
NETWORK = ("--base-channels", "2", "--depth", "1", "--tile", "16", "--holdout", "1")
RECIPE = ("--recipe", "paper", "--lr", "0.01", "--momentum", "0.9", "--schedule", "constant")
TRAINING = (*NETWORK, *RECIPE, "--validate-every", "1")
START = ("--tile", "16", "--holdout", "1", *RECIPE, "--validate-every", "1")  # with another's network
EXPORTED = {"bioimageio": "model.zip", "onnx": "model.onnx", "torch": "model.safetensors"}

Write = Callable[[Path, NDArray[np.uint8]], None]


def _pillow(convert: Callable[[NDArray[np.uint8]], Image.Image], **options: object) -> Write:
    return lambda path, grey: convert(grey).save(path, **options)


def _tiff(
    change: Callable[[NDArray[np.uint8]], NDArray[np.generic]] = lambda grey: grey, **options: object
) -> Write:
    return lambda path, grey: tifffile.imwrite(path, change(grey), **options)


def _colour(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)


def _upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = 3
    return exif


GREY = Image.fromarray
FORMATS: dict[str, Write] = {
    "grey.png": _pillow(GREY),
    "deep.png": _pillow(lambda grey: Image.fromarray(grey.astype(np.uint16) * 200)),
    "colour.png": _pillow(lambda grey: Image.fromarray(_colour(grey))),
    "palette.png": _pillow(lambda grey: Image.fromarray(_colour(grey)).quantize(16)),
    "bits.png": _pillow(lambda grey: Image.fromarray(grey > 128)),
    "opaque.png": _pillow(lambda grey: Image.fromarray(_colour(grey)).convert("RGBA")),
    "turned.jpg": _pillow(GREY, exif=_upside_down()),
    "colour.jpg": _pillow(lambda grey: Image.fromarray(_colour(grey))),
    "grey.bmp": _pillow(GREY),
    "grey.gif": _pillow(GREY),
    "lossless.webp": _pillow(lambda grey: Image.fromarray(_colour(grey)), lossless=True),
    "binary.pgm": _pillow(GREY),
    "binary.ppm": _pillow(lambda grey: Image.fromarray(_colour(grey))),
    "text.pgm": lambda path, grey: path.write_text(
        f"P2\n{grey.shape[1]} {grey.shape[0]}\n255\n" + " ".join(map(str, grey.ravel()))
    ),
    "grey.jp2": lambda path, grey: path.write_bytes(imagecodecs.jpeg2k_encode(grey, level=0)),
    "array.npy": lambda path, grey: np.save(path, grey),
    "plain.tif": _tiff(metadata=None),
    "lzw.tif": _tiff(compression="lzw", predictor=True),
    "deflate.tif": _tiff(compression="zlib"),
    "packbits.tif": _tiff(compression="packbits"),
    "zstd.tif": _tiff(compression="zstd"),
    "lzma.tif": _tiff(compression="lzma"),
    "jpeg.tif": _tiff(compression="jpeg"),
    "jpeg2000.tif": _tiff(compression="jpeg2000"),
    "tiled.tif": _tiff(tile=(16, 16), compression="lzw"),
    "big.tif": _tiff(bigtiff=True),
    "big-endian.tif": _tiff(lambda grey: grey.astype(np.uint16), byteorder=">"),
    "shown.ome.tif": _tiff(ome=True),
    "imagej.tif": _tiff(imagej=True),
    "stack.tif": _tiff(lambda grey: np.stack([grey] * 3), photometric="minisblack"),
    "float.tif": _tiff(lambda grey: grey.astype(np.float32)),
    "planar.tif": _tiff(
        lambda grey: np.moveaxis(_colour(grey), 2, 0), photometric="rgb", planarconfig="separate"
    ),
    "white.tif": _tiff(photometric="miniswhite"),
    "palette.tif": _pillow(lambda grey: Image.fromarray(_colour(grey)).quantize(16)),
    "bits.tif": _pillow(lambda grey: Image.fromarray(grey > 128), compression="group4"),
}


def discs(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Bright discs in noise, and where they are, as 0 and 255."""
    rng = np.random.default_rng(number)
    y, x = np.indices(SHAPE)
    label = np.zeros(SHAPE, bool)
    for row, column in rng.uniform(0, SHAPE, (5, 2)):
        label |= np.hypot(y - row, x - column) < 6
    grey = 60 + 120 * label + rng.normal(0, 20, SHAPE)
    return grey.clip(0, 255).astype(np.uint8), label * np.uint8(255)


def write_library(folder: Path) -> list[list[str]]:
    """Write valid inputs of every kind; returns the commands that add runs and predictions to them."""
    for part in ("data/images", "data/labels", "formats", "label-formats"):
        (folder / part).mkdir(parents=True)
    pairs = [discs(number) for number in range(3)]
    for number, (grey, label) in enumerate(pairs):
        Image.fromarray(grey).save(folder / f"data/images/{number}.png")
        Image.fromarray(label).save(folder / f"data/labels/{number}.png")
    write_film(folder / "film", frames=3)
    for name, write in FORMATS.items():
        write(folder / "formats" / name, pairs[1][0])
        write(folder / "label-formats" / name, pairs[1][1])
    images, labels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    np.savez(folder / "set.npz", images=images, labels=labels)
    return [
        ["train", "--data", "data", "--out", "run", "--steps", "2", *TRAINING],
        ["predict", "run", "data", "--out", "predicted"],
        ["predict", "run", "film", "--out", "predicted-film"],
        ["evaluate", "predicted", "data", "--out", "scores", "--pictures", "1"],
        ["evaluate", "predicted-film", "film"],
        ["evaluate", "run"],
        ["doctor", "data", "--out", "doctor", "--tile", "16", "--depth", "1"],
        ["report", "run", "--out", "report.html"],
        ["page of watch", "run"],
        *(["export", "run", "--out", name, "--format", form] for form, name in EXPORTED.items()),
        ["predict", "model.zip", "data", "--out", "predicted-exported"],
        ["train", "--data", "data", "--out", "tuned", "--steps", "1", *START, "--start-from", "model.onnx"],
    ]
