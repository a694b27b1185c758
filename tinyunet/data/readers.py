"""From a path on the command line to an `ImageSet`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyunet.data.cell_tracking import LAYOUT as CELL_TRACKING
from tinyunet.data.cell_tracking import Truth, find_films, read_annotated, read_frames
from tinyunet.data.decode import decode
from tinyunet.data.image_set import Image, ImageSet, LabelKind, Labels
from tinyunet.data.label_kind import apply_kind, infer_kind, label_image
from tinyunet.data.layouts import LAYOUTS, find_files, name_of
from tinyunet.data.neurites import synthetic_membranes
from tinyunet.data.nuclei import synthetic_cells
from tinyunet.data.partly_annotated import ignore_far_background
from tinyunet.errors import DataError, describe, first_names

SYNTHETIC: dict[str, Callable[..., ImageSet]] = {
    "synthetic-cells": synthetic_cells,
    "synthetic-membranes": synthetic_membranes,
}

# One image before the labels are understood: its name, its pixels, its label values.
Record = tuple[str, Image, Labels | None]


def read_images(
    path: str | Path,
    *,
    labels: bool = True,
    kind: LabelKind | None = None,
    truth: Truth | None = None,
    partly_annotated: float | None = None,
) -> ImageSet:
    """Read a set of images, and their labels, from whatever `path` is.

    - a folder with ``images/`` and ``labels/`` or ``masks/``: PNG, TIFF, JPEG (images only), matched by name;
    - a TIFF stack ``X-volume.tif`` beside ``X-labels.tif`` (ISBI 2012), or ``images.tif`` beside
      ``labels.tif``, or the folder that holds one such pair;
    - ``X.npz`` with ``images`` and ``labels``, (N, H, W) or (N, H, W, C);
    - the Cell Tracking Challenge's ``01/t000.tif`` with ``01_GT/SEG/man_seg000.tif``, or the folder of such
      films: the annotated frames only, and `UNKNOWN` around cells that have a marker but no outline;
    - ``synthetic-cells`` or ``synthetic-membranes``, with ``:seed`` behind for another seed than 0.

    Without labels also one image file, or a folder of them. Files are sorted by name, numbers by value.
    Pixels stay as they are in the file: a 16-bit image stays 16-bit.

    Parameters
    ----------
    path : str or Path
    labels : bool
        False reads images to predict, and looks at no labels.
    kind : "binary", "classes" or "instances", optional
        Overrules what `infer_kind` would find.
    truth : "gold" or "silver", optional
        Of the Cell Tracking Challenge; gold where there is some when left out, else silver.
    partly_annotated : float, optional
        Only some cells are labelled: background further from them than this many pixels is `UNKNOWN`.

    Raises
    ------
    DataError
        Names the file, what was expected, what was found, and the remedy.
    """
    image_set = _read(path, labels, kind, truth)
    if partly_annotated is None or image_set.labels is None:
        return image_set
    return replace(
        image_set,
        labels=[ignore_far_background(label, partly_annotated) for label in image_set.labels],
        reason=f"{image_set.reason}; background over {partly_annotated:g} px from labels is unknown",
    )


def _read(path: str | Path, labels: bool, kind: LabelKind | None, truth: Truth | None) -> ImageSet:
    name, _, seed = str(path).partition(":")
    if name in SYNTHETIC:
        made = SYNTHETIC[name](seed=_seed(str(path), seed))
        return made if labels else ImageSet(made.images, made.names, source=made.source)
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", LAYOUTS, "check the path")
    if films := find_films(path):
        return _read_films(films, labels, kind, truth, str(path))
    if truth:
        raise DataError(f"{path}: {truth} truth is for films", {"films": CELL_TRACKING}, "leave --truth out")
    if path.suffix.lower() == ".npz":
        records = _read_npz(path, labels)
    else:
        records = [r for image, label in find_files(path, labels) for r in _read_pair(image, label)]
    return _understand(records, kind, str(path))


def _read_films(
    films: Sequence[Path], labels: bool, kind: LabelKind | None, truth: Truth | None, source: str
) -> ImageSet:
    if not labels:
        names, images = zip(*read_frames(films), strict=True)
        return ImageSet(list(images), list(names), source=source)
    records, reason = read_annotated(films, truth)
    return replace(_understand(records, kind or "instances", source), reason=reason)


def _seed(path: str, seed: str) -> int:
    if seed and not seed.isdecimal():
        raise DataError(f"{path}: the seed must be a whole number, found {seed!r}", LAYOUTS)
    return int(seed or 0)


def _understand(records: Sequence[Record], kind: LabelKind | None, source: str) -> ImageSet:
    """Records to a set: tell the kind of labels, number them accordingly."""
    images = ImageSet([r[1] for r in records], [r[0] for r in records], source=source)
    values = [r[2] for r in records if r[2] is not None]
    if not values:
        return images
    kind, reason = (kind, "as given") if kind else infer_kind(values, source)
    labels, num_classes = apply_kind(values, kind, source)
    return replace(images, labels=labels, kind=kind, num_classes=num_classes, reason=reason)


def _read_pair(image_file: Path, label_file: Path | None) -> list[Record]:
    """The pages of an image file with those of its label file."""
    images = decode(image_file)
    names = _page_names(name_of(image_file), len(images))
    if label_file is None:
        return [(name, image, None) for name, image in zip(names, images, strict=True)]
    labels = [label_image(page, str(label_file)) for page in decode(label_file, labels=True)]
    if len(labels) != len(images):
        raise DataError(
            f"{label_file}: not as many pages as its image file",
            {str(image_file): f"{len(images)} pages", str(label_file): f"{len(labels)} pages"},
            "give every page of the stack its label page",
        )
    return list(zip(names, images, labels, strict=True))


def _page_names(stem: str, pages: int) -> list[str]:
    digits = len(str(pages - 1))
    return [stem] if pages == 1 else [f"{stem}-{page:0{digits}d}" for page in range(pages)]


def _read_npz(path: Path, labels: bool) -> list[Record]:
    images = _npz_array(path, "images")
    if images.ndim not in (3, 4):
        raise DataError(
            f"{path}: images must be (N, H, W) or (N, H, W, C)", {"found": describe(images)}, "stack them so"
        )
    names = _page_names(path.stem, len(images))
    pages = images if images.ndim == 4 else images[..., None]
    if not labels:
        return [(name, page, None) for name, page in zip(names, pages, strict=True)]
    values = _npz_array(path, "labels")
    if values.shape not in (pages.shape[:3], (*pages.shape[:3], 1)):
        raise DataError(
            f"{path}: labels do not fit the images",
            {"images": describe(images), "labels": describe(values), "expected": pages.shape[:3]},
            "give every image one label image of its size",
        )
    values = values.reshape(*pages.shape[:3], 1)
    return [
        (name, page, label_image(label, f"{path}: {name}"))
        for name, page, label in zip(names, pages, values, strict=True)
    ]


def _npz_array(path: Path, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:  # a pickle could run anything
            if key in archive:
                return archive[key]
            found = first_names(archive.files)
    except Exception as error:  # zip, zlib and NumPy raise half a dozen types for a damaged archive
        raise DataError(
            f"{path}: {key} cannot be read, the archive is damaged or holds Python objects",
            {"decoder": f"{type(error).__name__}: {error}"},
            "write it again with numpy.savez_compressed and arrays of numbers",
        ) from error
    raise DataError(
        f"{path}: no array called {key}",
        {"expected": LAYOUTS["archive"], "found": found},
        f"save it as {key}=...",
    )
