"""From napari's layers to images and labels, and back; arrays only, without napari.

A layer is an image or a stack of slices: (…, H, W), in colours (…, H, W, 3). To train on, its labelled slices
are the images. If there is only one, its quarters are, so that one of them can be held out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinyunet.data import UNKNOWN
from tinyunet.data.atomic_write import make_folder, replacing
from tinyunet.data.class_table import ClassTable
from tinyunet.data.image_set import Image, Labels
from tinyunet.errors import DataError, describe
from tinyunet.prediction.files import most_probable
from tinyunet.prediction.instances import label_instances
from tinyunet.prediction.object_rule import ObjectRule

MICROMETRE = "micrometer"  # as pint writes it
Output = Literal["objects", "classes"]
Place = tuple[slice, ...]  # one for each axis of a labels layer; of length 1 but for the last two


def with_channels(data: Any, rgb: bool) -> Any:
    """Give an image layer's array its last axis: (…, H, W) becomes (…, H, W, 1); transparency is left out."""
    return data[..., :3] if rgb else data[..., np.newaxis]


def pixel_size(layer: Any) -> tuple[float, float] | None:
    """Return the height and width of a layer's pixels in µm; None unless its units are lengths.

    A layer that is shown upside down has a negative scale.
    """
    units, scales = layer.units[-2:], layer.scale[-2:]
    if not all(unit.is_compatible_with(MICROMETRE) for unit in units):  # such as pixels, the default
        return None
    down, across = (
        (abs(float(scale)) * unit).to(MICROMETRE).magnitude for scale, unit in zip(scales, units, strict=True)
    )
    return float(down), float(across)


def class_values(classes: Labels, table: ClassTable | None) -> NDArray[np.int32]:
    """Turn classes into the numbers of the labels that were trained on; colours stay numbered 0..K-1."""
    if table is None or table.coloured:
        return classes.astype(np.int32)
    return np.array(table.values, np.int32)[classes]


def as_labels(
    probabilities: NDArray[np.float32], output: Output, table: ClassTable | None, rule: ObjectRule
) -> NDArray[np.int32]:
    """Make the labels (H, W) that show a prediction (H, W, K)."""
    if output == "objects":
        return label_instances(probabilities, min_size=rule.min_size, split_depth=rule.split_depth).astype(
            np.int32
        )
    return class_values(most_probable(probabilities), table)


def places_to_train_on(labels: NDArray[Any], ignore: Collection[int] = ()) -> list[Place]:
    """Find the images to train on: the slices with labels, or the labelled quarters of the only one.

    Parameters
    ----------
    labels : integer array, shape (…, H, W)
    ignore : collection of int
        Values that mean unknown; -1 always does. A slice that holds only these and 0 is left out.

    Raises
    ------
    DataError
        Fewer than two are labelled, and one has to be held out.
    """
    slices = [
        place for place in map(_slice_at, np.ndindex(labels.shape[:-2])) if _has_labels(labels[place], ignore)
    ]
    if len(slices) > 1:
        return slices
    quarters = [quarter for place in slices for quarter in _quarters(place, labels.shape)]
    labelled = [place for place in quarters if _has_labels(labels[place], ignore)]
    if len(labelled) < 2:
        raise DataError(
            "the labels are too few: one part is trained on, and another held out",
            {"slices with labels": len(slices), "quarters with labels": len(labelled)},
            "label a second slice of the stack, or objects in at least two quarters of the image",
        )
    return labelled


def _slice_at(index: tuple[int, ...]) -> Place:
    return (*(slice(i, i + 1) for i in index), slice(None), slice(None))


def _quarters(place: Place, shape: tuple[int, ...]) -> list[Place]:
    """Cut a slice in four of the same size; an odd last row or column is left out."""
    (*_, height, width), halves = shape, []
    for side in (height // 2, width // 2):
        halves.append((slice(0, side), slice(side, 2 * side)))
    return [(*place[:-2], rows, columns) for rows in halves[0] for columns in halves[1]]


def _has_labels(labels: NDArray[Any], ignore: Collection[int]) -> bool:
    return not np.isin(labels, [0, UNKNOWN, *ignore]).all()


@dataclass(frozen=True, eq=False)
class LayerSet:
    """The images and labels of two layers.

    Parameters
    ----------
    images : array, shape (N, H, W, C)
    labels : integer array, shape (N, H, W)
    places : list of N places in the labels layer
    shape : tuple of int
        That of the labels layer.
    """

    images: Image
    labels: Labels
    places: Sequence[Place]
    shape: tuple[int, ...]

    def save(self, path: Path) -> None:
        """Write an archive that `tinyunet.data.read_images` reads, and that also holds the places."""
        bounds = [
            [index.indices(n)[:2] for index, n in zip(place, self.shape, strict=True)]
            for place in self.places
        ]
        make_folder(path.parent)
        with replacing(path, durable=True) as file:
            np.savez_compressed(
                file, images=self.images, labels=self.labels, places=np.array(bounds), shape=self.shape
            )


def layer_set(image: Any, labels: Any, *, rgb: bool = False, ignore: Collection[int] = ()) -> LayerSet:
    """Take the images to train on out of two layers.

    Parameters
    ----------
    image : array, shape (…, H, W), or (…, H, W, 3) if `rgb`
    labels : integer array, shape (…, H, W)
    rgb : bool
    ignore
        As in `places_to_train_on`.

    Raises
    ------
    DataError
        The layers differ in shape, or too little is labelled.
    """
    pixels, labels = with_channels(image, rgb), np.asarray(labels)
    if pixels.shape[:-1] != labels.shape:
        raise DataError(
            "the image layer and the labels layer differ in size",
            {"image": describe(pixels[..., 0]), "labels": describe(labels)},
            "choose the labels that were drawn on this image",
        )
    places = places_to_train_on(labels, ignore)
    height, width = labels[places[0]].shape[-2:]
    images = [np.asarray(pixels[place]).reshape(height, width, -1) for place in places]
    return LayerSet(
        np.stack(images),
        np.stack([labels[place].reshape(height, width) for place in places]),
        places,
        labels.shape,
    )


def stored_places(path: Path) -> tuple[list[Place], tuple[int, ...]] | None:
    """Read the places in the labels layer, and its shape; None if `LayerSet.save` did not write the file."""
    if path.suffix != ".npz":
        return None
    with np.load(path, allow_pickle=False) as archive:
        if "places" not in archive:
            return None
        places = [tuple(slice(*map(int, bounds)) for bounds in place) for place in archive["places"]]
        return places, tuple(map(int, archive["shape"]))
