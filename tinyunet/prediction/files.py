"""The files of a predicted image: what `tinyunet.predict` writes and `tinyunet.evaluate` reads.

NAME_probabilities.tif   float32, one page per class; its description has the class table
NAME_classes.png         class numbers or colours, those of the labels that were trained on; numbers above
                         255 are in NAME_classes.tif
NAME_instances.tif       object numbers, 0 is background; 16 bits, or 32 above 65,535 objects
NAME_overlay.png         the image with the outline of each object
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tinyunet.data.atomic_write import replacing
from tinyunet.data.class_table import ClassTable
from tinyunet.data.decode import decode
from tinyunet.data.decode_tiff import require_an_end
from tinyunet.data.label_kind import apply_kind, colour_numbers, label_image
from tinyunet.data.writer import CLASSIC_TIFF, save_labels
from tinyunet.errors import DataError, first_names
from tinyunet.metrics.scores import Prediction

PROBABILITIES, CLASSES, INSTANCES = "probabilities.tif", "classes.png", "instances.tif"
HIGH_CLASSES = "classes.tif"  # numbers that 8 bits do not hold
OVERLAY = "overlay.png"
SEGMENTATIONS = (PROBABILITIES, CLASSES, HIGH_CLASSES, INSTANCES)  # what can be compared with labels

TABLE_KEY = "tinyunet_classes"  # in the description of NAME_probabilities.tif

# Palette of NAME_classes.png; the pixels themselves are the class numbers.
BACKGROUND = (0, 0, 0)
COLOURS = ((255, 255, 255), (230, 57, 70), (69, 123, 157), (244, 162, 97), (42, 157, 143))  # repeated


def write_prediction(
    folder: Path,
    name: str,
    prediction: Prediction,
    overlay: NDArray[np.uint8],
    table: ClassTable | None = None,
) -> None:
    """Write the four files of an image, each whole or not at all.

    Parameters
    ----------
    folder : Path
    name : str
        The image's.
    prediction : Prediction, with objects
    overlay : uint8 array, shape (H, W, 3)
        The image with outlined objects.
    table : ClassTable, optional
        The numbers or colours to write for the classes; 0..K-1 by default.

    Raises
    ------
    DataError
        There are more objects than 32 bits can number.
    """
    probabilities, objects = prediction.probabilities, prediction.objects
    assert objects is not None
    description = {} if table is None else {TABLE_KEY: table.to_json()}
    with (
        replacing(folder / f"{name}_{PROBABILITIES}") as file,
        tifffile.TiffWriter(file, bigtiff=probabilities.nbytes > CLASSIC_TIFF) as pages,
    ):
        for page in np.moveaxis(probabilities, 2, 0):  # one by one: pages of one column would become one
            pages.write(page, photometric="minisblack", contiguous=True, metadata=description)
    for part in (CLASSES, HIGH_CLASSES):  # of an older prediction
        (folder / f"{name}_{part}").unlink(missing_ok=True)
    _write_classes(folder, name, most_probable(probabilities), table)
    with replacing(folder / f"{name}_{INSTANCES}") as file:
        save_labels(file, objects)
    with replacing(folder / f"{name}_{OVERLAY}") as file:
        Image.fromarray(overlay).save(file, "PNG")


def most_probable(probabilities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The most probable class of each pixel, found row by row: argmax gives eight bytes per pixel."""
    classes = np.empty(probabilities.shape[:2], np.uint8)
    for row, scores in zip(classes, probabilities, strict=True):
        row[...] = scores.argmax(axis=1)
    return classes


def _write_classes(folder: Path, name: str, classes: NDArray[np.integer], table: ClassTable | None) -> None:
    """Write the class map in the files' own numbers or colours."""
    pixels = classes[..., None].astype(np.uint8) if table is None else table.pixels(classes)
    if pixels.dtype != np.uint8:
        with replacing(folder / f"{name}_{HIGH_CLASSES}") as file:
            save_labels(file, pixels[..., 0])
        return
    if table is not None and table.coloured:
        image = Image.fromarray(pixels)
    else:
        image = Image.fromarray(pixels[..., 0])
        palette = [BACKGROUND] * 256  # all of them: Pillow stores no more bits than colours
        for number, value in enumerate(table.values if table else range(256)):
            palette[value] = COLOURS[(number - 1) % len(COLOURS)] if number else BACKGROUND
        image.putpalette([value for colour in palette for value in colour])
    with replacing(folder / f"{name}_{CLASSES}") as file:
        image.save(file, "PNG")


def predicted_names(folder: Path) -> set[str]:
    """The names of the images whose predictions are in a folder."""
    endings = tuple(f"_{part}" for part in SEGMENTATIONS)
    if not folder.is_dir():
        return set()
    return {file.name.rpartition("_")[0] for file in folder.iterdir() if file.name.endswith(endings)}


def predicted_classes(folder: Path) -> ClassTable | None:
    """The numbers or colours of the classes in a folder of predictions; None if no file states them.

    Raises
    ------
    DataError
        Two files state different ones, or a file is damaged.
    """
    tables: dict[ClassTable, Path] = {}
    for file in sorted(folder.glob(f"*_{PROBABILITIES}")) if folder.is_dir() else ():
        if (table := _stated_classes(file)) is not None:
            tables.setdefault(table, file)
    if len(tables) > 1:
        raise DataError(
            f"{folder}: predictions of different classes",
            {str(file): table for table, file in tables.items()},
            "keep the predictions of each network in a folder of their own",
        )
    return next(iter(tables), None)


def _stated_classes(file: Path) -> ClassTable | None:
    try:
        with tifffile.TiffFile(file) as tiff:
            require_an_end(tiff)
            stored = (tiff.shaped_metadata or ({},))[0].get(TABLE_KEY)
        return None if stored is None else ClassTable.from_json(stored)
    except PermissionError:
        raise
    except Exception as error:  # tifffile raises half a dozen types for a damaged file
        raise DataError(
            f"{file}: damaged, its description cannot be read",
            {"reason": f"{type(error).__name__}: {error}"},
            "write the file with tinyunet.predict",
        ) from error


def read_prediction(folder: Path, name: str, num_classes: int, table: ClassTable | None = None) -> Prediction:
    """Read the files of an image; those that are missing are derived from the others.

    Class numbers and objects alone become probabilities of 0 and 1.

    Parameters
    ----------
    folder : Path
    name : str
        One of `predicted_names`.
    num_classes : int
        At least how many classes there are.
    table : ClassTable, optional
        The numbers or colours of the classes in class maps; 0..K-1 by default.

    Raises
    ------
    DataError
        A file is damaged, a class map has values that are not in the table, or there are more than two
        classes and only objects.
    """
    probabilities, classes, high_classes, instances = (folder / f"{name}_{part}" for part in SEGMENTATIONS)
    objects = read_label_image(instances) if instances.is_file() else None
    if probabilities.is_file():
        return Prediction(_read_pages(probabilities), objects)
    if high_classes.is_file():
        classes = high_classes
    if not classes.is_file():
        assert objects is not None
        return from_objects(name, objects, num_classes)
    if num_classes == 2 and (table is None or table.mask):
        return Prediction(np.eye(2, dtype=np.float32)[_read_mask(classes, table)], objects)
    chosen = read_label_image(classes) if table is None else _read_classes(classes, table)
    highest = max(int(chosen.max()), num_classes - 1)
    return Prediction(np.eye(highest + 1, dtype=np.float32)[chosen], objects)


def _read_classes(file: Path, table: ClassTable) -> NDArray[Any]:
    """Read a class map of one page, in the numbers or colours of a table, as class numbers (H, W)."""
    pages = decode(file, labels=True)
    if len(pages) != 1:
        raise DataError(
            f"{file}: expected one page", {"found": len(pages)}, "write the file with tinyunet.predict"
        )
    values = (colour_numbers if table.coloured else label_image)(pages[0], str(file))
    _require_known(file, values)
    return apply_kind([values], "classes", str(file), table.values, coloured=table.coloured).labels[0]


def _read_mask(file: Path, table: ClassTable | None) -> NDArray[Any]:
    """Read a mask as 0 and 1: in the numbers of the labels, in 0 and 1 or, as many programs write it, 255."""
    pixels = read_label_image(file)
    found = np.unique(pixels)
    pairs = [table.values] if table else []
    for background, foreground in [*pairs, (0, 1), (0, 255)]:
        if np.isin(found, (background, foreground)).all():
            return (pixels == foreground).astype(np.uint8)
    raise DataError(
        f"{file}: the labels are a mask, the prediction has other values",
        {"found": first_names([str(value) for value in found]), "expected": table or "0 and 1, or 0 and 255"},
        "compare it with labels of the classes that were predicted",
    )


def _require_known(file: Path, values: NDArray[np.integer]) -> None:
    if values.min() < 0:
        raise DataError(
            f"{file}: a prediction has no unknown pixels, found {values.min()}",
            remedy="write the file with tinyunet.predict",
        )


def from_objects(name: str, objects: NDArray[Any], num_classes: int) -> Prediction:
    """A prediction with the probability 1 inside the objects and 0 outside.

    Raises
    ------
    DataError
        There are more than two classes.
    """
    if num_classes > 2:
        raise DataError(
            f"{name}: the labels are of several classes, the predictions are objects only",
            {"classes": num_classes},
            remedy=f"add NAME_{CLASSES} or NAME_{PROBABILITIES}, as tinyunet.predict writes them",
        )
    foreground = (objects > 0).astype(np.uint8)
    return Prediction(np.eye(num_classes, dtype=np.float32)[foreground], objects)


def read_label_image(file: Path) -> NDArray[Any]:
    """Read a file that holds one page of whole numbers, (H, W).

    Raises
    ------
    DataError
        It is damaged, or holds something else.
    """
    pages = _read_pages(file)
    if pages.shape[2] != 1 or pages.dtype.kind not in "ui":
        raise DataError(
            f"{file}: expected one page of whole numbers",
            {"found": f"{pages.shape[2]} of {pages.dtype}"},
            "write the file with tinyunet.predict",
        )
    _require_known(file, pages)
    return pages[:, :, 0]


def _read_pages(file: Path) -> NDArray[Any]:
    """All pages of a file as channels, (H, W, pages)."""
    pages = decode(file, labels=True)
    if len({page.shape for page in pages}) != 1:
        raise DataError(
            f"{file}: damaged, expected pages of one size",
            {"found": ", ".join(str(page.shape) for page in pages) or "no page"},
            "write the file with tinyunet.predict",
        )
    return np.concatenate(pages, axis=2)
