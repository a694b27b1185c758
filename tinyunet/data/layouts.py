"""Which files a path stands for, and which label file belongs to which image file."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from tinyunet.data.cell_tracking import LAYOUT as CELL_TRACKING
from tinyunet.data.decode import DECODERS
from tinyunet.errors import DataError, first_names

LAYOUTS = {
    "folder": "images/ with labels/ or masks/, matched by file name without suffix",
    "stack": "X-volume.tif with X-labels.tif, or images.tif with labels.tif",
    "archive": "X.npz with images and labels, (N, H, W) or (N, H, W, C)",
    "films": CELL_TRACKING,
    "made": "synthetic-cells or synthetic-membranes; with another seed: synthetic-cells:7",
}
LABEL_FOLDERS = ("labels", "masks")
LITTER = ("Thumbs.db", "desktop.ini")  # which Windows leaves in folders


def find_files(path: Path, labels: bool) -> list[tuple[Path, Path | None]]:
    """The image files that `path` stands for, each with its label file when labels are wanted."""
    if path.is_file():
        return [(path, _labels_beside(path) if labels else None)]
    if (path / "images").is_dir():
        images = _files_in(path / "images")
        return _matched(images, _files_in(_label_folder(path))) if labels else [(f, None) for f in images]
    stacks = [file for file in sorted(path.iterdir()) if _label_stem(file) is not None]
    if not labels:
        return [(file, None) for file in stacks or _files_in(path)]
    labelled = [(file, label) for file in stacks if (label := _label_file(file)) is not None]
    if len(labelled) != 1:
        raise DataError(
            f"{path}: expected images with labels, found {len(labelled)} stacks with labels",
            {**LAYOUTS, "found": first_names([file.name for file in sorted(path.iterdir())])},
            "bring the files into one of these layouts, or name one stack",
        )
    return [labelled[0]]


def name_of(file: Path) -> str:
    """A file's name without suffix; an umlaut is one character of it, though macOS may write two."""
    return unicodedata.normalize("NFC", file.stem)


def _files_in(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones; 10.png comes after 9.png."""
    files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith((".", *LITTER))]
    if not files:
        raise DataError(
            f"{folder}: no files in this folder", LAYOUTS, f"put {first_names(DECODERS)} files there"
        )
    return sorted(files, key=_text_and_numbers)


def _text_and_numbers(file: Path) -> list[str | int]:
    """a10.png as ["a", 10, ".png"]: text and numbers always in turn, so that any two names compare."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _label_folder(path: Path) -> Path:
    found = [path / name for name in LABEL_FOLDERS if (path / name).is_dir()]
    if len(found) != 1:
        raise DataError(
            f"{path}: expected one folder of labels beside images/, found {len(found)}",
            {"looked for": " and ".join(f"{name}/" for name in LABEL_FOLDERS)},
            "put one label image for each image there; to predict, none are needed",
        )
    return found[0]


def _matched(images: list[Path], labels: list[Path]) -> list[tuple[Path, Path | None]]:
    """Pairs of the same stem; every image has one label and every label one image."""
    by_stem = {name_of(file): file for file in labels}
    stems = {name_of(file) for file in images}
    for files in (images, labels):
        if len({name_of(file) for file in files}) < len(files):
            twice = [a.name for a in files if any(name_of(a) == name_of(b) and a != b for b in files)]
            raise DataError(
                f"{files[0].parent}: several files of one name: {first_names(twice)}",
                remedy="keep one of each",
            )
    without_label, without_image = sorted(stems - by_stem.keys()), sorted(by_stem.keys() - stems)
    if without_label or without_image:
        raise DataError(
            f"{images[0].parent.parent}: images and labels do not match by name",
            {
                "images without a label": f"{len(without_label)}: {first_names(without_label)}",
                "labels without an image": f"{len(without_image)}: {first_names(without_image)}",
            },
            f"give image and label the same name ({images[0].stem}.png in both folders)",
        )
    return [(file, by_stem[name_of(file)]) for file in images]


def _label_stem(image_file: Path) -> str | None:
    """What the label stack of this image stack is called; None if it is not named as an image stack."""
    if not _is_tiff(image_file):
        return None
    if image_file.stem == "images":
        return "labels"
    prefix = image_file.stem.removesuffix("-volume")
    return None if prefix == image_file.stem else f"{prefix}-labels"


def _is_tiff(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in (".tif", ".tiff")


def _label_file(image_file: Path) -> Path | None:
    stem = _label_stem(image_file)
    beside = sorted(image_file.parent.iterdir())
    return next((file for file in beside if file.stem == stem and _is_tiff(file)), None)


def _labels_beside(image_file: Path) -> Path:
    label_file = _label_file(image_file)
    if label_file is None:
        raise DataError(
            f"{image_file}: no labels found for this file",
            LAYOUTS,
            "name the files so; to predict, no labels are needed",
        )
    return label_file
