"""Predicted objects in the forms of other programs.

NAME_objects.geojson   a polygon for each object, with its class: QuPath
NAME_rois.zip          an outline for each object: the ROI Manager of ImageJ and Fiji
NAME_objects.csv       a row for each object: size, place, class, mean grey values

Coordinates are pixels. In polygons and outlines they count from the corner of the image, so that the centre
of the first pixel is (0.5, 0.5); in the table, as in scikit-image, from the centre of the first pixel.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table

from tinyunet.data.atomic_write import replacing
from tinyunet.data.class_table import ClassTable
from tinyunet.exchange.outlines import Ring, outlines
from tinyunet.exchange.packages import require

ObjectFormat = Literal["geojson", "roi", "csv"]
FILES: dict[ObjectFormat, str] = {"geojson": "objects.geojson", "roi": "rois.zip", "csv": "objects.csv"}
PACKAGES: dict[ObjectFormat, tuple[str, ...]] = {
    "geojson": ("shapely",),
    "roi": ("shapely", "roifile"),
    "csv": (),
}
COLOURS = ((230, 57, 70), (69, 123, 157), (244, 162, 97), (42, 157, 143))  # of the classes, repeated
COLUMNS = {  # of scikit-image
    "area": "area",
    "centroid-0": "centroid_y",
    "centroid-1": "centroid_x",
    "bbox-0": "top",
    "bbox-1": "left",
    "bbox-2": "bottom",
    "bbox-3": "right",
}
INTENSITY = "mean_intensity"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: the same objects make the same bytes
MOVE, LINE, CLOSE = 0.0, 1.0, 4.0  # of a path in ImageJ's composite outlines


@dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Parameters
    ----------
    labels : integer array, shape (H, W)
        Their numbers; 0 is background.
    image : array, shape (H, W, C)
        Grey values as the image's file holds them.
    probabilities : array, shape (H, W, K)
        Those of the classes; class 0 is the background.
    table : ClassTable, optional
        The numbers or colours of the classes; 0..K-1 by default.
    """

    labels: NDArray[np.integer]
    image: NDArray[Any]
    probabilities: NDArray[np.floating]
    table: ClassTable | None = None

    def classes(self) -> dict[int, int]:
        """The class of each object: the most probable one over its pixels, the background left out."""
        numbers = np.setdiff1d(self.labels, [0])
        sums = [
            ndimage.sum_labels(self.probabilities[..., k], self.labels, numbers)
            for k in range(1, self.probabilities.shape[2])
        ]
        return dict(zip(numbers.tolist(), (np.argmax(sums, axis=0) + 1).tolist(), strict=True))

    def class_name(self, number: int) -> str:
        """Its number or colour in the label files."""
        return str(number) if self.table is None else self.table.name(number)


def require_packages(formats: Collection[ObjectFormat]) -> None:
    """Raise an OptionError unless the packages that the formats need are installed."""
    for form in formats:
        for package in PACKAGES[form]:
            require(package)


def write_objects(folder: Path, name: str, objects: Objects, formats: Collection[ObjectFormat]) -> None:
    """Write the objects of an image, each file whole or not at all; those of other formats are removed.

    Parameters
    ----------
    folder : Path
    name : str
        The image's.
    objects : Objects
    formats : collection of {"geojson", "roi", "csv"}
    """
    for form, part in FILES.items():
        path = folder / f"{name}_{part}"
        if form in formats:
            with replacing(path) as file:
                file.write(CONTENTS[form](objects))
        else:
            path.unlink(missing_ok=True)  # of an older prediction


def geojson(objects: Objects) -> bytes:
    """The objects as QuPath's detections, in the form of its own files: a collection of features."""
    classes = objects.classes()
    features = []
    for label, polygons in outlines(objects.labels):
        number = classes[label]
        one = len(polygons) == 1
        geometry = {
            "type": "Polygon" if one else "MultiPolygon",
            "coordinates": polygons[0] if one else polygons,
        }
        kind = {"name": f"class {objects.class_name(number)}", "color": _colour(objects, number)}
        properties = {"objectType": "detection", "name": str(label), "classification": kind}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
    return text.encode()


def _colour(objects: Objects, number: int) -> tuple[int, ...]:
    if objects.table is not None and objects.table.coloured:
        value = objects.table.values[number]
        return value >> 16, value >> 8 & 255, value & 255
    return COLOURS[(number - 1) % len(COLOURS)]


def rois(objects: Objects) -> bytes:
    """The outlines as an archive of ImageJ's regions of interest, called by the objects' numbers."""
    buffer = io.BytesIO()
    digits = len(str(objects.labels.max(initial=0)))
    with zipfile.ZipFile(buffer, "w") as archive:
        for label, polygons in outlines(objects.labels):
            name = f"{label:0{digits}d}"
            entry = zipfile.ZipInfo(f"{name}.roi", EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, _roi(name, [ring for rings in polygons for ring in rings]))
    return buffer.getvalue()


def _roi(name: str, rings: list[Ring]) -> bytes:
    """A traced outline; with holes or several pieces, a composite one, whose inside is found by even-odd."""
    roifile = require("roifile")
    points = np.concatenate([np.array(ring[:-1], np.int32) for ring in rings])
    roi = roifile.ImagejRoi.frompoints(points, name=name)
    roi.right, roi.bottom = points.max(axis=0).tolist()
    roi.roitype = roifile.ROI_TYPE.TRACED
    if len(rings) > 1:
        path = [value for ring in rings for value in _path(ring)]
        roi.roitype, roi.n_coordinates = roifile.ROI_TYPE.RECT, 0
        roi.integer_coordinates = roi.subpixel_coordinates = None
        roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
    content: bytes = roi.tobytes()
    return content


def _path(ring: Ring) -> list[float]:
    (x, y), *others = ring[:-1]
    return [MOVE, x, y, *(value for x, y in others for value in (LINE, x, y)), CLOSE]


def table(objects: Objects) -> bytes:
    """A row for each object, with a header; commas separate the columns."""
    properties = ("label", "area", "centroid", "bbox", "intensity_mean")
    measured = regionprops_table(objects.labels, objects.image, properties=properties)
    classes = objects.classes()
    channels = objects.image.shape[2]
    labels = measured["label"].tolist()
    columns = {"label": labels, "class": [objects.class_name(classes[label]) for label in labels]}
    columns |= {ours: measured[theirs].tolist() for theirs, ours in COLUMNS.items()}
    columns["area"] = [int(area) for area in columns["area"]]
    columns |= {f"{INTENSITY}_{c}": measured[f"intensity_mean-{c}"].tolist() for c in range(channels)}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


CONTENTS: dict[ObjectFormat, Callable[[Objects], bytes]] = {"geojson": geojson, "roi": rois, "csv": table}
