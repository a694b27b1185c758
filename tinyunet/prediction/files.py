"""The files of a predicted image: what `tinyunet.predict` writes and `tinyunet.evaluate` reads.

NAME_probabilities.tif   float32, one page per class
NAME_classes.png         class numbers, coloured
NAME_instances.tif       16-bit object numbers, 0 is background
NAME_overlay.png         the image with the outline of each object
"""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tinyunet.data.decode import decode
from tinyunet.data.writer import save_labels
from tinyunet.errors import DataError
from tinyunet.metrics.scores import Prediction

PROBABILITIES, CLASSES, INSTANCES = "probabilities.tif", "classes.png", "instances.tif"
OVERLAY = "overlay.png"
SEGMENTATIONS = (PROBABILITIES, CLASSES, INSTANCES)  # the files that can be compared with labels

# Colours of the classes in NAME_classes.png; the pixels themselves are the class numbers.
BACKGROUND = (0, 0, 0)
COLOURS = ((255, 255, 255), (230, 57, 70), (69, 123, 157), (244, 162, 97), (42, 157, 143))  # repeated


def write_prediction(folder: Path, name: str, prediction: Prediction, overlay: NDArray[np.uint8]) -> None:
    """Write the four files of an image.

    Parameters
    ----------
    folder : Path
    name : str
        The image's.
    prediction : Prediction, with objects
    overlay : uint8 array, shape (H, W, 3)
        The image with outlined objects.

    Raises
    ------
    DataError
        There are more objects than 16 bits can number.
    """
    probabilities, objects = prediction.probabilities, prediction.objects
    assert objects is not None
    with tifffile.TiffWriter(folder / f"{name}_{PROBABILITIES}") as file:
        for page in np.moveaxis(probabilities, 2, 0):  # one by one: pages of one column would become one
            file.write(page, photometric="minisblack", contiguous=True)
    classes = Image.fromarray(probabilities.argmax(axis=2).astype(np.uint8))
    palette = [BACKGROUND, *islice(cycle(COLOURS), 255)]  # all 256: Pillow stores no more bits than colours
    classes.putpalette([value for colour in palette for value in colour])
    classes.save(folder / f"{name}_{CLASSES}")
    save_labels(folder / f"{name}_{INSTANCES}", objects)
    Image.fromarray(overlay).save(folder / f"{name}_{OVERLAY}")


def predicted_names(folder: Path) -> set[str]:
    """The names of the images whose predictions are in a folder."""
    endings = tuple(f"_{part}" for part in SEGMENTATIONS)
    if not folder.is_dir():
        return set()
    return {file.name.rpartition("_")[0] for file in folder.iterdir() if file.name.endswith(endings)}


def read_prediction(folder: Path, name: str, num_classes: int) -> Prediction:
    """Read the files of an image; those that are missing are derived from the others.

    Class numbers and objects alone become probabilities of 0 and 1.

    Parameters
    ----------
    folder : Path
    name : str
        One of `predicted_names`.
    num_classes : int
        At least how many classes there are.

    Raises
    ------
    DataError
        A file is damaged, or there are more than two classes and only objects.
    """
    probabilities, classes, instances = (folder / f"{name}_{part}" for part in SEGMENTATIONS)
    objects = read_label_image(instances) if instances.is_file() else None
    if probabilities.is_file():
        return Prediction(_read_pages(probabilities), objects)
    if not classes.is_file():
        assert objects is not None
        return from_objects(name, objects, num_classes)
    chosen = read_label_image(classes)
    highest = max(int(chosen.max()), num_classes - 1)
    return Prediction(np.eye(highest + 1, dtype=np.float32)[chosen], objects)


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
