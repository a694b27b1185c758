"""Objects for other programs: drawn again from their files, they are the label image that was written."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import roifile
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import shape as geometry_of
from skimage.draw import polygon2mask

from tinyunet.data.class_table import ClassTable
from tinyunet.errors import OptionError
from tinyunet.exchange.objects import Objects, geojson, require_packages, rois, table, write_objects


@st.composite
def label_images(draw):
    """Blocks of a few numbers, in all types that label files have: holes, pieces, corners that touch."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    numbers = draw(st.sampled_from([[0, 1], [0, 1, 2], [0, 3, 900], [0, 70_000, 5]]))
    dtype = draw(
        st.sampled_from(["uint16", "int32", "uint32"] if max(numbers) < 2**16 else ["int32", "uint32"])
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    return rng.choice(numbers, (height, width), p=None).astype(dtype)


def objects_of(labels, seed=0, channels=1, classes=2, class_table=None):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 4000, (*labels.shape, channels)).astype(np.uint16)
    probabilities = rng.dirichlet(np.ones(classes), labels.shape).astype(np.float32)
    return Objects(labels, image, probabilities, class_table)


def drawn(rings, shape):
    """The pixels whose centres lie within an odd number of rings; no centre lies on a ring."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= polygon2mask(shape, np.array(ring)[:, ::-1] - 0.5)
    return inside


@given(label_images())
def test_polygons_drawn_again_are_the_label_image(labels):
    again = np.zeros_like(labels)
    for feature in json.loads(geojson(objects_of(labels)))["features"]:
        geometry, label = feature["geometry"], int(feature["properties"]["name"])
        whole = geometry_of(geometry)
        assert whole.is_valid
        assert whole.area == (labels == label).sum()
        many = geometry["type"] == "MultiPolygon"
        pieces = geometry["coordinates"] if many else [geometry["coordinates"]]
        again[drawn([ring for piece in pieces for ring in piece], labels.shape)] = label
    np.testing.assert_array_equal(again, labels)


@given(label_images())
def test_outlines_for_imagej_drawn_again_are_the_label_image(labels):
    again, names = np.zeros_like(labels), []
    for roi in read_rois(rois(objects_of(labels))):
        names.append(roi.name)
        pixels = drawn(roi.coordinates(multi=True) if roi.composite else [roi.coordinates()], labels.shape)
        again[pixels] = int(roi.name)
        rows, columns = np.nonzero(labels == int(roi.name))
        assert (roi.top, roi.left) == (rows.min(), columns.min())
        assert (roi.bottom, roi.right) == (rows.max() + 1, columns.max() + 1)
    np.testing.assert_array_equal(again, labels)
    assert names == sorted(names)  # as ImageJ lists them


def read_rois(content):
    from zipfile import ZipFile

    with ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return [roifile.ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]


def test_an_image_wider_than_16_bits():
    """ImageJ's whole numbers end at 65,535; outlines beyond are of floats."""
    labels = np.zeros((3, 70_000), np.int32)
    labels[1, 69_990:69_995] = 1
    [roi] = read_rois(rois(objects_of(labels)))
    np.testing.assert_array_equal(roi.coordinates().max(axis=0), [69_995, 2])


@given(label_images(), st.integers(1, 3))
def test_the_table_has_what_numpy_finds(labels, channels):
    objects = objects_of(labels, channels=channels)
    rows = list(csv.DictReader(io.StringIO(table(objects).decode())))
    assert [int(row["label"]) for row in rows] == np.setdiff1d(labels, [0]).tolist()
    for row in rows:
        pixels = labels == int(row["label"])
        y, x = np.nonzero(pixels)
        assert int(row["area"]) == len(y)
        box = [int(row[side]) for side in ("top", "left", "bottom", "right")]
        assert box == [y.min(), x.min(), y.max() + 1, x.max() + 1]
        found = [float(row[name]) for name in ("centroid_y", "centroid_x")]
        found += [float(row[f"mean_intensity_{c}"]) for c in range(channels)]
        np.testing.assert_allclose(
            found, [y.mean(), x.mean(), *objects.image[pixels].mean(axis=0)], rtol=1e-12
        )


@pytest.mark.parametrize(
    ("class_table", "names", "colour"),
    [
        (None, ["1", "2"], None),
        (ClassTable((0, 80, 200)), ["80", "200"], None),
        (ClassTable((0, 0xFF8000, 0x0000FF), coloured=True), ["#ff8000", "#0000ff"], [255, 128, 0]),
    ],
)
def test_an_object_has_the_class_that_is_most_probable_in_it(class_table, names, colour):
    """The background left out, and not the class of most of its pixels."""
    labels = np.array([[1, 1, 1, 0, 2]], np.uint16)
    probabilities = np.array([[[0.5, 0.5, 0], [0.3, 0.4, 0.3], [0, 0.4, 0.6], [1, 0, 0], [0.6, 0.1, 0.3]]])
    objects = Objects(labels, np.zeros((1, 5, 1), np.uint8), probabilities, class_table)
    features = json.loads(geojson(objects))["features"]
    classes = [feature["properties"]["classification"] for feature in features]
    assert [kind["name"] for kind in classes] == [f"class {name}" for name in names]
    assert colour is None or classes[0]["color"] == colour
    rows = csv.DictReader(io.StringIO(table(objects).decode()))
    assert [row["class"] for row in rows] == names


def test_files_of_other_formats_do_not_stay(tmp_path):
    """They would be of an older prediction."""
    objects = objects_of(np.eye(4, dtype=np.uint16))
    write_objects(tmp_path, "a", objects, ("geojson", "roi", "csv"))
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert first.keys() == {"a_objects.geojson", "a_rois.zip", "a_objects.csv"}
    write_objects(tmp_path, "a", objects, ("geojson", "roi", "csv"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == first
    write_objects(tmp_path, "a", objects, ("csv",))
    assert [file.name for file in tmp_path.iterdir()] == ["a_objects.csv"]


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "roifile", None)
    require_packages(["geojson", "csv"])
    with pytest.raises(OptionError, match=r"pip install roifile.*\[objects\]"):
        require_packages(["csv", "roi"])
