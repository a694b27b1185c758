"""Reading an `ImageSet` from the path that a user gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tinyunet.data.as_needed import mapped
from tinyunet.data.cell_tracking import LAYOUT as CELL_TRACKING
from tinyunet.data.cell_tracking import (
    Frame,
    Truth,
    find_films,
    list_frames,
    read_annotated,
    read_frame,
    read_frames,
)
from tinyunet.data.decode_plain import MOST_CHANNELS
from tinyunet.data.image_set import ImageSet, LabelKind
from tinyunet.data.large_sets import is_large, read_as_needed
from tinyunet.data.layouts import LAYOUTS, find_files
from tinyunet.data.monolayer import synthetic_dic
from tinyunet.data.neurites import synthetic_membranes
from tinyunet.data.nuclei import synthetic_cells
from tinyunet.data.partly_annotated import ignore_far_background
from tinyunet.data.pixel_sizes import PixelSizes
from tinyunet.data.planes import NO_CHOICE, PlaneChoice
from tinyunet.data.records import (
    LabelOptions,
    Record,
    not_found_text,
    page_names,
    read_objects,
    read_pair,
    understand,
    value_text,
)
from tinyunet.data.scaling import at_pixel_size
from tinyunet.errors import DataError, OutOfMemoryError, describe, first_names, shorten

SYNTHETIC: dict[str, Callable[..., ImageSet]] = {
    "synthetic-cells": synthetic_cells,
    "synthetic-dic": synthetic_dic,
    "synthetic-membranes": synthetic_membranes,
}

MOST_DIGITS = 18  # of a seed: Python refuses to convert thousands of them


def read_images(
    path: str | Path,
    *,
    labels: bool = True,
    kind: LabelKind | None = None,
    truth: Truth | None = None,
    partly_annotated: float | None = None,
    ignore: Collection[int] = (),
    class_values: Sequence[int] | None = None,
    coloured: bool = False,
    choice: PlaneChoice = NO_CHOICE,
    pixel_size: float | None = None,
    pixel_sizes: str | None = None,
) -> ImageSet:
    """Read a set of images and their labels.

    `path` is one of these:

    - a folder with ``images/`` and ``labels/`` or ``masks/`` (also ``imgs/``, ``gt/``, ``imagesTr/`` and
      others), matched by name; all labels or all images may add the same text, such as ``_mask``;
    - a folder with images and labels whose names differ by such a text;
    - a folder of folders, each with ``images/`` and ``masks/``, one mask per object (DSB 2018);
    - a TIFF stack ``X-volume.tif`` beside ``X-labels.tif`` (ISBI 2012), or ``images.tif`` beside
      ``labels.tif``, or the folder that holds one such pair;
    - ``X.npz`` with ``images`` and ``labels``, (N, H, W) or (N, H, W, C);
    - the Cell Tracking Challenge's ``01/t000.tif`` with ``01_GT/SEG/man_seg000.tif``, or the folder of such
      films: the annotated frames only, and `UNKNOWN` around cells that have a marker but no outline;
    - ``synthetic-cells``, ``synthetic-dic`` or ``synthetic-membranes``, with ``:seed`` appended for another
      seed than 0.

    Without labels also one image file, or a folder of them. Files are sorted by name, numbers by value. A
    folder that is an OME-Zarr counts as a file.
    Hidden files, text and litter of operating systems are left out. Grey values are not scaled.

    Parameters
    ----------
    path : str or Path
    labels : bool
        False reads the images only.
    kind : "binary", "classes" or "instances", optional
        The meaning of the labels; inferred from their values when left out.
    truth : "gold" or "silver", optional
        The annotation of a Cell Tracking Challenge film; gold where available when left out, else silver.
    partly_annotated : float, optional
        Only some cells are labelled: background further from them than this many pixels, of those to which
        images are scaled, is `UNKNOWN`.
    ignore : collection of int
        Label values that mean unknown; -1 always does. Colours are 0xRRGGBB.
    class_values : sequence of int, optional
        The file's number of each class, from a set that was read before; by default those that occur.
    coloured : bool
        Read labels as colours even where they show only greys, because the set read before had colours.
    choice : PlaneChoice
        The channel and the plane of files that have several.
    pixel_size : float, optional
        Height and width, in µm, of the pixels to which images and labels are scaled: see `at_pixel_size`.
    pixel_sizes : str, optional
        How large the images' pixels are, as `PixelSizes` takes it.

    Raises
    ------
    DataError
        Names the file, what was expected, what was found, and the remedy.
    """
    sizes = None if pixel_size is None else PixelSizes(path, pixel_sizes, labels=labels)

    def growth(name: str) -> float:
        """By what the pixels of an image are multiplied."""
        return 1.0 if sizes is None or pixel_size is None else math.prod(sizes.factors(name, pixel_size))

    options = LabelOptions(kind, truth, ignore, class_values, coloured)
    image_set = _read(path, labels, options, choice, growth)
    if ignore and image_set.labels is not None:
        image_set = replace(image_set, reason=f"{image_set.reason}; {_ignored_text(image_set, ignore)}")
    if sizes is not None and pixel_size is not None:
        image_set = at_pixel_size(image_set, pixel_size, sizes)
    if partly_annotated is None or image_set.labels is None:
        return image_set
    return replace(
        image_set,
        labels=mapped(lambda label: ignore_far_background(label, partly_annotated), image_set.labels),
        reason=f"{image_set.reason}; background over {partly_annotated:g} px from labels is unknown",
    )


def image_readers(
    path: str | Path, choice: PlaneChoice = NO_CHOICE
) -> list[tuple[str, Callable[[], ImageSet]]]:
    """List the files of a set without labels, each with a function that reads it.

    Reading them one by one keeps one file in memory at a time, and one that cannot be read does not cost the
    others. Names and pixels are those of ``read_images(path, labels=False, choice=choice)``. An archive or a
    synthetic set is one entry.
    """
    files = Path(path)
    if films := find_films(files):
        _require_no_choice(str(path), choice)
        frames = [frame for film in films for frame in list_frames(film)]
        return [(str(frame.image), partial(_read_frame, frame)) for frame in frames]
    read = partial(read_images, labels=False, choice=choice)
    if files.is_dir():
        pairs = find_files(files, labels=False).pairs
        return [(str(pair.image), partial(read, pair.image)) for pair in pairs]
    return [(str(path), partial(read, path))]


def inferred_layout(path: str | Path) -> str:
    """Describe what `image_readers` infers about the folders and names of a set; "" if nothing."""
    files = Path(path)
    return "" if find_films(files) or not files.is_dir() else find_files(files, labels=False).inferred


def _ignored_text(image_set: ImageSet, ignore: Collection[int]) -> str:
    values = ", ".join(value_text(value, image_set.coloured) for value in ignore)
    text = f"{values} {'is' if len(ignore) == 1 else 'are'} unknown"
    return f"{text}, but no label has {', '.join(image_set.not_found)}" if image_set.not_found else text


def _read_frame(frame: Frame) -> ImageSet:
    return ImageSet([read_frame(frame)], [frame.name], source=str(frame.image))


def _read(
    path: str | Path,
    labels: bool,
    options: LabelOptions,
    choice: PlaneChoice,
    growth: Callable[[str], float],
) -> ImageSet:
    name, _, seed = str(path).partition(":")
    if name in SYNTHETIC:
        _require_no_options(str(path), options)
        _require_no_choice(str(path), choice)
        made = SYNTHETIC[name](seed=_seed(str(path), seed))
        return made if labels else ImageSet(made.images, made.names, source=made.source)
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", LAYOUTS, "check the path")
    if films := find_films(path):
        _require_no_choice(str(path), choice)
        return _read_films(films, labels, options, str(path))
    if options.truth:
        raise DataError(
            f"{path}: {options.truth} truth is for films", {"films": CELL_TRACKING}, "leave --truth out"
        )
    if path.suffix.lower() == ".npz":
        _require_no_choice(str(path), choice)
        return understand(_read_npz(path, labels), options, str(path))
    files = find_files(path, labels)
    if is_large(files, choice, growth):
        return read_as_needed(files, options, str(path), choice)
    notes: dict[str, str] = {}
    if files.one_label_per_object:
        found = set[int]()
        records = [read_objects(pair, notes, choice, options.ignore, found) for pair in files.pairs]
        understood = options._replace(kind=options.kind or "instances", ignore=())
        images = understand(records, understood, str(path), notes, files.inferred)
        return replace(images, not_found=not_found_text(options.ignore, found, False))
    records = [record for pair in files.pairs for record in read_pair(pair, notes, choice)]
    return understand(records, options, str(path), notes, files.inferred)


def _require_no_options(path: str, options: LabelOptions) -> None:
    given = {name: value for name, value in options._asdict().items() if value}
    if given:
        raise DataError(
            f"{path}: the labels of a synthetic set are known",
            {f"--{name.replace('_', '-')}": value for name, value in given.items()},
            "leave these options out",
        )


def _require_no_choice(path: str, choice: PlaneChoice) -> None:
    chosen = {"--channel": choice.channel, "--z": choice.z}
    if given := {name: value for name, value in chosen.items() if value is not None}:
        raise DataError(
            f"{path}: synthetic sets, archives and films have no channels or planes to choose from",
            given,
            "leave these options out",
        )


def _read_films(films: Sequence[Path], labels: bool, options: LabelOptions, source: str) -> ImageSet:
    if not labels:
        names, images = zip(*read_frames(films), strict=True)
        return ImageSet(list(images), list(names), source=source)
    notes: dict[str, str] = {}
    frames, reason = read_annotated(films, options.truth, notes)
    records = [Record(name, image, label[..., None], name) for name, image, label in frames]
    options = options._replace(kind=options.kind or "instances")
    return replace(understand(records, options, source, notes), reason=reason)


def _seed(path: str, seed: str) -> int:
    if seed and (not seed.isdecimal() or len(seed) > MOST_DIGITS):
        raise DataError(
            f"{shorten(path)}: the seed must be a whole number of at most {MOST_DIGITS} digits",
            {"found": shorten(seed)},
        )
    return int(seed or 0)


def _read_npz(path: Path, labels: bool) -> list[Record]:
    images = _npz_array(path, "images")
    if images.ndim not in (3, 4):
        raise DataError(
            f"{path}: images must be (N, H, W) or (N, H, W, C)", {"found": describe(images)}, "stack them so"
        )
    names = page_names(path.stem, len(images))
    if images.ndim == 3 and images.shape[2] <= MOST_CHANNELS < images.shape[1]:
        raise DataError(
            f"{path}: images can be one image in colours, or many of few columns",
            {"found": describe(images)},
            "save one image as images[None], (1, H, W, C)",
        )
    pages = images if images.ndim == 4 else images[..., None]
    if not labels:
        return [Record(name, page) for name, page in zip(names, pages, strict=True)]
    values = _npz_array(path, "labels")
    if values.shape not in (pages.shape[:3], (*pages.shape[:3], 1)):
        raise DataError(
            f"{path}: labels do not fit the images",
            {"images": describe(images), "labels": describe(values), "expected": pages.shape[:3]},
            "give every image one label image of its size",
        )
    values = values.reshape(*pages.shape[:3], 1)
    return [
        Record(name, page, label, f"{path}: {name}")
        for name, page, label in zip(names, pages, values, strict=True)
    ]


def _npz_array(path: Path, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:  # a pickle could run any code
            if isinstance(array := archive.get(key), np.ndarray):  # bytes, if another program packed it
                return array
            found = first_names(archive.files)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{path}: too little memory to read {key}",
            {"reason": error},
            "close other programs, or split the archive",
        ) from error
    except Exception as error:  # zip, zlib and NumPy raise half a dozen types for a damaged archive
        raise DataError(
            f"{path}: {key} cannot be read, the archive is damaged or holds Python objects",
            {"decoder": f"{type(error).__name__}: {error}"},
            "write it again with numpy.savez_compressed and arrays of numbers",
        ) from error
    raise DataError(
        f"{path}: no array called {key}",
        {"expected": LAYOUTS["archive"], "members": found},
        f"save it as {key}=...",
    )
