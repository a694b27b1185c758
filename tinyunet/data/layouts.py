"""The files of a set: which are images, and which label file belongs to which image file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tinyunet.data.cell_tracking import LAYOUT as CELL_TRACKING
from tinyunet.data.decode import DECODERS, is_image
from tinyunet.errors import DataError, first_names

LAYOUTS = {
    "folder": "images/ with labels/ or masks/, matched by file name without suffix",
    "one folder": "X.png with X_mask.png; any text that all labels add to their image's name",
    "folder per image": "X/images/ with X/masks/, one mask per object (DSB 2018)",
    "stack": "X-volume.tif with X-labels.tif, or images.tif with labels.tif",
    "archive": "X.npz with images and labels, (N, H, W) or (N, H, W, C)",
    "films": CELL_TRACKING,
    "synthetic": "synthetic-cells, synthetic-dic or synthetic-membranes; another seed: synthetic-cells:7",
}
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagestr")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "gt", "labelstr")
# Texts that only labels add to names, letters only. Where images alone are wanted, such files are left out.
LABEL_WORDS = (
    "mask", "masks", "cpmasks", "label", "labels", "seg", "segmentation", "simplesegmentation", "gt",
    "groundtruth", "annotation", "annotations",
)  # fmt: skip
LITTER = ("thumbs.db", "desktop.ini", "readme", "license")  # left by Windows, or to be read by people
TEXT_SUFFIXES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yml", ".yaml", ".log", ".html")


class FilePair(NamedTuple):
    """An image file with its label files: none, one, or one per object."""

    image: Path
    labels: tuple[Path, ...] = ()


class Files(NamedTuple):
    """The files of a set in order, and what was inferred about them."""

    pairs: list[FilePair]
    inferred: str = ""
    one_label_per_object: bool = False


def find_files(path: Path, labels: bool) -> Files:
    """Find the image files of a set, each with its label files when labels are wanted."""
    if is_image(path):
        return Files([FilePair(path, (_labels_beside(path),) if labels else ())])
    image_folder = _subfolder(path, IMAGE_FOLDERS)
    if image_folder is not None:
        images = _files_in(image_folder)
        if not labels:
            return _only(images, "" if image_folder.name == "images" else f"images from {image_folder.name}/")
        label_folder = _label_folder(path, image_folder)
        files = _match(images, _files_in(label_folder))
        if image_folder.name == "images" and label_folder.name in ("labels", "masks"):
            return files
        folders = f"images from {image_folder.name}/, labels from {label_folder.name}/"
        return files._replace(inferred=", ".join(filter(None, [folders, files.inferred])))
    if samples := _sample_folders(path):
        return _folder_per_image(samples, labels)
    return _one_folder(path, labels)


def name_of(file: Path) -> str:
    """Return a file's name without suffix, in which an umlaut is one character (macOS may write two).

    The suffix of an OME-Zarr is .ome.zarr or .zarr.
    """
    stem = file.stem
    if file.suffix.lower() == ".zarr" and stem.lower().endswith(".ome"):
        stem = stem[: -len(".ome")]
    return unicodedata.normalize("NFC", stem)


# Folders.


def _files_in(folder: Path) -> list[Path]:
    """List the files of a folder without litter; 10.png comes after 9.png."""
    files = [file for file in folder.iterdir() if is_image(file) and not _is_litter(file)]
    if not files:
        raise DataError(
            f"{folder}: no files in this folder", LAYOUTS, f"put {first_names(DECODERS)} files there"
        )
    return sorted(files, key=_text_and_numbers)


def _is_litter(file: Path) -> bool:
    """Return whether a file is hidden, belongs to the operating system, or is text beside the images."""
    name = file.name.casefold()
    return (
        name.startswith((".", *LITTER)) or file.suffix.lower() in TEXT_SUFFIXES or name.endswith("_seg.npy")
    )  # the last is what Cellpose leaves beside its masks


def _text_and_numbers(file: Path) -> list[str | int]:
    """Split a10.png into ["a", 10, ".png"]: text and numbers alternate, so that any two names compare."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _subfolders(path: Path, names: Sequence[str]) -> list[Path]:
    return sorted(sub for sub in path.iterdir() if sub.is_dir() and sub.name.casefold() in names)


def _subfolder(path: Path, names: Sequence[str]) -> Path | None:
    found = _subfolders(path, names)
    if len(found) > 1:
        raise DataError(
            f"{path}: several folders of images: {', '.join(folder.name for folder in found)}",
            remedy="keep one of them, or give the path of the images alone",
        )
    return found[0] if found else None


def _label_folder(path: Path, image_folder: Path) -> Path:
    found = _subfolders(path, LABEL_FOLDERS)
    if len(found) != 1:
        raise DataError(
            f"{path}: expected one folder of labels beside {image_folder.name}/, found {len(found)}",
            {
                "looked for": " and ".join(f"{name}/" for name in ("labels", "masks"))
                + ", also label/, mask/, gt/, labelsTr/",
                "found": first_names([folder.name for folder in found]),
            },
            "put one label image for each image there; to predict, none are needed",
        )
    return found[0]


def _sample_folders(path: Path) -> list[Path]:
    """Return the subfolders if each has images/ of its own, as in the Data Science Bowl 2018."""
    subfolders = [sub for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith((".", "__"))]
    if not subfolders or not all(_subfolders(sub, IMAGE_FOLDERS) for sub in subfolders):
        return []
    return sorted(subfolders, key=_text_and_numbers)


def _folder_per_image(samples: list[Path], labels: bool) -> Files:
    pairs = []
    for sample in samples:
        image_folder = _subfolder(sample, IMAGE_FOLDERS)
        assert image_folder is not None
        images = _files_in(image_folder)
        if not labels:
            pairs += [FilePair(image) for image in images]
            continue
        if len(images) != 1:
            raise DataError(
                f"{image_folder}: expected one image in the folder of a sample",
                {"found": first_names([file.name for file in images])},
                "give every image a folder of its own, or put all images into one",
            )
        label_folder = _label_folder(sample, image_folder)
        masks = [file for file in label_folder.iterdir() if is_image(file) and not _is_litter(file)]
        pairs.append(FilePair(images[0], tuple(sorted(masks, key=_text_and_numbers))))
    if not labels or all(len(pair.labels) == 1 for pair in pairs):
        return Files(pairs, "one folder per image")
    return Files(pairs, "one folder per image, with one mask per object", one_label_per_object=True)


def _one_folder(path: Path, labels: bool) -> Files:
    """Find a stack with labels, images with labels of longer names, or images alone, in one folder."""
    everything = sorted(path.iterdir())
    stacks = {file: _label_file(file) for file in everything if _label_stem(file) is not None}
    labelled = [FilePair(file, (label,)) for file, label in stacks.items() if label is not None]
    if labels and len(labelled) == 1:
        return Files(labelled)
    files = [file for file in everything if is_image(file) and not _is_litter(file)]
    added = None if labelled else _added_in_one_folder(files)
    if added is not None and (labels or _letters("".join(added)) in LABEL_WORDS):
        label_names = {_decorate(name_of(file), added) for file in files}
        label_files = [file for file in files if name_of(file) in label_names]
        images = sorted((file for file in files if file not in label_files), key=_text_and_numbers)
        return (
            _match(images, label_files)
            if labels
            else _only(images, f"without the files that add {_shown(added)}")
        )
    if labels:
        raise DataError(
            f"{path}: expected images with labels, found {len(labelled)} stacks with labels",
            {**LAYOUTS, "found": first_names([file.name for file in everything])},
            "bring the files into one of these layouts, or name one stack",
        )
    label_stacks = [file for file in stacks.values() if file is not None]
    inferred = f"without {first_names([file.name for file in label_stacks])}" if label_stacks else ""
    return _only([file for file in _files_in(path) if file not in label_stacks], inferred)


def _only(images: list[Path], inferred: str = "") -> Files:
    return Files([FilePair(file) for file in images], inferred)


# Names.

Added = tuple[str, str]  # a prefix and a suffix


def _match(images: list[Path], labels: list[Path]) -> Files:
    """Pair files whose names are the same, or differ by one text that all have; none may remain."""
    for files in (images, labels):
        if len({name_of(file) for file in files}) < len(files):
            repeated = [a.name for a in files if any(name_of(a) == name_of(b) and a != b for b in files)]
            raise DataError(
                f"{files[0].parent}: several files of one name: {first_names(repeated)}",
                remedy="keep one of each",
            )
    by_stem = {name_of(file): file for file in labels}
    stems = {name_of(file) for file in images}
    if stems == by_stem.keys():
        return Files([FilePair(file, (by_stem[name_of(file)],)) for file in images])
    if (added := _added(stems, by_stem.keys())) is not None:
        pairs = [FilePair(file, (by_stem[_decorate(name_of(file), added)],)) for file in images]
        return Files(pairs, f"names of labels have {_shown(added)} in addition")
    if (added := _added(by_stem.keys(), stems)) is not None:
        by_image = {_decorate(stem, added): file for stem, file in by_stem.items()}
        pairs = [FilePair(file, (by_image[name_of(file)],)) for file in images]
        return Files(pairs, f"names of images have {_shown(added)} in addition")
    without_label, without_image = sorted(stems - by_stem.keys()), sorted(by_stem.keys() - stems)
    raise DataError(
        f"{images[0].parent.parent}: images and labels do not match by name",
        {
            "images without a label": f"{len(without_label)}: {first_names(without_label)}",
            "labels without an image": f"{len(without_image)}: {first_names(without_image)}",
        },
        f"give image and label the same name ({images[0].stem}.png in both folders), or let all labels add "
        "the same text",
    )


def _added(short: Collection[str], long: Collection[str]) -> Added | None:
    """Find the prefix and suffix that turn every short name into a long one, if there is one such pair."""
    if len(short) != len(long):
        return None
    found = {
        added
        for name in long
        for added in _around(min(short, key=len), name)
        if {_decorate(stem, added) for stem in short} == set(long)
    }
    return found.pop() if len(found) == 1 else None


def _added_in_one_folder(files: list[Path]) -> Added | None:
    """Find the prefix and suffix that turn half of the names into the other half, if one pair does."""
    names = {name_of(file) for file in files}
    if len(names) < len(files) or len(names) % 2 or not names:
        return None
    found = set()
    for name in names:
        for added in _around(min(names, key=len), name):  # the shortest name is an image's
            labels = {_decorate(stem, added) for stem in names} & names
            if {_decorate(stem, added) for stem in names - labels} == labels:
                found.add(added)
    return found.pop() if len(found) == 1 else None


def _around(stem: str, name: str) -> Iterator[Added]:
    """Yield what stands before and after each occurrence of a stem in a longer name."""
    if len(name) > len(stem):
        for match in re.finditer(f"(?={re.escape(stem)})", name):
            yield name[: match.start()], name[match.start() + len(stem) :]


def _decorate(stem: str, added: Added) -> str:
    return f"{added[0]}{stem}{added[1]}"


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.casefold())


def _shown(added: Added) -> str:
    return " and ".join(repr(text) for text in added if text)


# Stacks.


def _label_stem(image_file: Path) -> str | None:
    """Return the name of the label stack of an image stack; None unless it is named as an image stack."""
    if not _is_tiff(image_file):
        return None
    if image_file.stem == "images":
        return "labels"
    prefix = image_file.stem.removesuffix("-volume")
    return None if prefix == image_file.stem else f"{prefix}-labels"


def _is_tiff(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in (".tif", ".tiff") and not _is_litter(file)


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
