"""The weight map against one distance transform per cell, and against cases that are computed by hand."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError
from tinyunet.sampling.weight_map import (
    class_weights,
    label_cells,
    nearest_two_cells,
    separate_touching,
    weight_map,
)

DATA = Path(os.environ.get("TINYUNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
# d is the float32 rounding of a square root below 1000. The border is at most 10 in float32; see NEGLIGIBLE.
DISTANCE_TOLERANCE = 5e-5
WEIGHT_TOLERANCE = 1e-5


def two_distances(labels):
    """One distance transform per cell, sorted."""
    cells = [value for value in np.unique(labels) if value != 0]
    distances = [ndimage.distance_transform_edt(labels != value) for value in cells]
    distances += [np.full(labels.shape, np.inf)] * 2  # there may be fewer than two cells
    return np.sort(distances, axis=0)[:2]


def border(labels, w0=10.0, sigma=5.0):
    d1, d2 = two_distances(labels)
    return np.where(labels == 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)


def scattered(seed, shape, cells, density):
    """Small cells anywhere, many of them in several pieces."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < density, rng.integers(1, cells + 1, shape), 0)


def discs(seed, shape, cells):
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    y, x = np.indices(shape)
    for value in range(1, cells + 1):
        centre_y, centre_x, radius = *(rng.random(2) * shape), rng.uniform(3, 9)
        labels[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = value
    return labels


IMAGES = {
    "scattered": scattered(0, (50, 70), 30, 0.02),
    "dense": scattered(1, (40, 40), 5, 0.9),
    "in pieces": scattered(2, (60, 40), 3, 0.01),
    "a row": scattered(3, (1, 60), 4, 0.1),
    "a column": scattered(4, (60, 1), 4, 0.1),
    "discs": discs(5, (120, 90), 25),
    "two far corners": np.pad([[1]], ((0, 40), (0, 60))) + np.pad([[2]], ((40, 0), (60, 0))),
    "negative numbers": -scattered(6, (30, 30), 6, 0.05),
}


@pytest.mark.parametrize("name", IMAGES)
def test_distances_equal_one_transform_per_cell(name):
    d1, d2 = nearest_two_cells(IMAGES[name])
    expected = two_distances(IMAGES[name])
    np.testing.assert_allclose(d1, expected[0], rtol=0, atol=DISTANCE_TOLERANCE)
    np.testing.assert_allclose(d2, expected[1], rtol=0, atol=DISTANCE_TOLERANCE)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("most", [0.5, 5, 7.3])
def test_distances_up_to_a_limit(name, most):
    limited = nearest_two_cells(IMAGES[name], max_distance=most)
    for found, expected in zip(limited, two_distances(IMAGES[name]), strict=True):
        expected[expected > most] = np.inf
        np.testing.assert_allclose(found, expected, rtol=0, atol=DISTANCE_TOLERANCE)


@pytest.mark.parametrize("name", IMAGES)
def test_distances_of_the_background_alone(name):
    inside = IMAGES[name] != 0
    alone = nearest_two_cells(IMAGES[name], max_distance=9, only_background=True)
    for found, everywhere in zip(alone, nearest_two_cells(IMAGES[name], max_distance=9), strict=True):
        assert np.isinf(found[inside]).all()
        np.testing.assert_array_equal(found[~inside], everywhere[~inside])


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("w0", "sigma"), [(10, 5), (3, 12)])
def test_weights_equal_one_transform_per_cell(name, w0, sigma):
    labels = IMAGES[name]
    weights = weight_map(labels, w0=w0, sigma=sigma, class_balance=False)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, 1 + border(labels, w0, sigma), rtol=0, atol=WEIGHT_TOLERANCE)


def test_weights_of_real_nuclei():
    file = DATA / "dsb2018_fluo_520x696.npz"
    if not file.exists():
        pytest.skip(f"needs {file.name}; its folder is named by TINYUNET_DATA")
    with np.load(file) as archive:
        images = archive["labels"]
    most_cells = np.argsort([image.max() for image in images])[-3:]
    for image in images[most_cells]:
        crop = image[100:300, 200:440]
        assert len(np.unique(crop)) > 20
        expected = class_weights([crop != 0], 2)[(crop != 0).astype(int)] + border(crop)
        np.testing.assert_allclose(weight_map(crop), expected, rtol=0, atol=WEIGHT_TOLERANCE)


@pytest.mark.parametrize("gap", [1, 2, 5, 12])
def test_two_cells_with_a_gap(gap):
    labels = np.zeros((7, 20 + gap), int)
    labels[:, :10], labels[:, 10 + gap :] = 4, 9
    # Pixel k of the gap is k pixels from one cell and gap + 1 - k from the other.
    expected = 10 * np.exp(-((gap + 1) ** 2) / 50)
    weights = weight_map(labels, class_balance=False)
    np.testing.assert_allclose(weights[:, 10 : 10 + gap], 1 + expected, rtol=1e-6)
    np.testing.assert_array_equal(weights[labels != 0], 1)


@pytest.mark.parametrize("labels", [np.zeros((9, 9), int), np.eye(9, dtype=int), np.full((9, 9), 3)])
def test_fewer_than_two_cells_have_no_border(labels):
    np.testing.assert_array_equal(weight_map(labels, class_balance=False), 1)
    assert np.isinf(nearest_two_cells(labels)[1]).all()


def test_no_border_without_w0():
    np.testing.assert_array_equal(weight_map(IMAGES["discs"], w0=0, class_balance=False), 1)


def test_class_balance_gives_each_class_half_of_the_weight():
    foreground = IMAGES["discs"] != 0
    weights = weight_map(IMAGES["discs"], w0=0)
    # A float32 sum of 10,800 weights.
    assert weights[foreground].sum() == pytest.approx(foreground.size / 2, rel=1e-5)
    assert weights[~foreground].sum() == pytest.approx(foreground.size / 2, rel=1e-5)
    assert weights.mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("value", [0, 5])
def test_an_image_of_one_class_weighs_one(value):
    np.testing.assert_array_equal(weight_map(np.full((6, 7), value)), 1)


def test_class_weights_of_several_images():
    images = [np.array([[0, 0, 0, 0], [0, 0, 2, 2]]), np.array([0, 0, 0, 2])]
    # 9 pixels of class 0 and 3 of class 2; class 1 does not occur.
    np.testing.assert_allclose(class_weights(images, 3), [12 / (2 * 9), 0, 12 / (2 * 3)], rtol=1e-6)
    np.testing.assert_array_equal(class_weights([], 2), 0)


def test_given_class_weights():
    labels = np.array([[0, 0, 0, 7]])
    np.testing.assert_array_equal(weight_map(labels, class_balance=[0.5, 3])[0], [0.5, 0.5, 0.5, 3])


def test_weights_of_several_classes():
    labels = np.array([[1, 1, 0, 2, 0]])
    classes = np.array([[1, 1, 0, 2, 0]])
    expected = np.array([[5, 5, 2, 7, 2]]) + border(labels)
    weights = weight_map(labels, classes=classes, class_balance=[2, 5, 7])
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    balanced = weight_map(labels, classes=classes, w0=0)
    np.testing.assert_allclose(balanced, [[5 / 6, 5 / 6, 5 / 6, 5 / 3, 5 / 6]], rtol=1e-6)


def test_ignored_pixels_weigh_nothing_and_are_no_cell():
    labels = np.array([[1, 0, 0, 255, 255, 0, 0, 2]])
    weights = weight_map(labels, ignore_label=255)
    without = np.where(labels == 255, 0, labels)
    # Four pixels of background and two of cells count for the balance.
    expected = np.where(labels == 0, 6 / 8, 6 / 4) + border(without)
    expected[labels == 255] = 0
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    classes = np.where(labels == 0, 0, 1)
    classes[labels == 255] = -1
    np.testing.assert_array_equal(weight_map(labels, classes=classes, ignore_label=-1), weights)


def test_an_image_whose_pixels_are_all_ignored_weighs_nothing():
    assert not weight_map(np.full((4, 5), 255), ignore_label=255).any()


def touches_by_filters(labels):
    """A pixel touches another cell if the largest or the smallest cell number around it is not its own."""
    largest = ndimage.maximum_filter(labels, 3)
    smallest = ndimage.minimum_filter(np.where(labels == 0, labels.max() + 1, labels), 3)
    return (labels != 0) & ((largest != labels) | (smallest != labels))


@pytest.mark.parametrize("name", ["scattered", "dense", "discs", "a row"])
def test_touching_cells_are_separated(name):
    labels = IMAGES[name]
    separated = separate_touching(labels)
    np.testing.assert_array_equal(separated, np.where(touches_by_filters(labels), 0, labels))
    assert separated.dtype == labels.dtype
    assert not touches_by_filters(separated).any()


def test_the_separation_leaves_a_gap_of_two_pixels_and_outer_rims_alone():
    labels = np.array([[0, 1, 1, 1, 2, 2, 2, 0, 3, 3]])
    np.testing.assert_array_equal(separate_touching(labels), [[0, 1, 1, 0, 0, 2, 2, 0, 3, 3]])


def test_cells_of_a_mask_are_4_connected():
    mask = np.array([[1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 1, 1]], bool)
    np.testing.assert_array_equal(label_cells(mask), [[1, 1, 0, 2], [0, 0, 3, 0], [4, 0, 3, 3]])


@pytest.mark.parametrize(
    ("labels", "options", "error"),
    [
        (np.zeros((2, 3, 4), int), {}, ShapeError),
        (np.zeros((0, 4), int), {}, ShapeError),
        (np.zeros((3, 4)), {}, DtypeError),
        (np.full((3, 4), 2**40), {}, DataError),
        (np.eye(3, dtype=int), {"class_balance": [1.0]}, DataError),
        (np.eye(3, dtype=int), {"class_balance": [1.0, -1.0]}, DataError),
        (np.eye(3, dtype=int), {"class_balance": [[1.0, 2.0], [3.0, 4.0]]}, DataError),
        (np.eye(3, dtype=int), {"classes": np.zeros((3, 4), int)}, ShapeError),
        (np.eye(3, dtype=int), {"classes": np.full((3, 3), -1)}, DataError),
        (np.eye(3, dtype=int), {"sigma": 0}, OptionError),
        (np.eye(3, dtype=int), {"w0": -1}, OptionError),
    ],
)
def test_mistakes_are_named(labels, options, error):
    with pytest.raises(error, match="weight_map: "):
        weight_map(labels, **options)


@pytest.mark.parametrize("value", [-1, 2])
def test_a_class_out_of_range(value):
    with pytest.raises(DataError, match=str(value)):
        class_weights([np.array([[0, value]])], 2)


@pytest.mark.parametrize("dtype", [bool, "u1", "i8", "u8", ">u2"])
def test_the_type_of_the_labels_does_not_matter(dtype):
    labels = np.pad(np.ones((3, 4), np.int32), 5)
    typed = labels.astype(dtype)
    np.testing.assert_array_equal(class_weights([typed], 2), class_weights([labels], 2))
    for function in (weight_map, separate_touching, label_cells, nearest_two_cells):
        np.testing.assert_array_equal(function(typed), function(labels))
