"""Elastic deformation against `elasticdeform`, SciPy and cases with known results."""

import numpy as np
import pytest
from scipy import ndimage

from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError
from tinyunet.sampling.elastic import count_folded, deform, displacement_field, elastic_deform

# Images here have unit variance. Spline coefficients in float32 are off by up to 3e-6, and an image value is
# a mean of 16 of them.
TOLERANCE = 1e-5


def random_image(rng, shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def coordinates_by_scipy(displacement, height, width):
    """The field by two lookups of the grid per pixel, as in `elasticdeform` and in SciPy recipes."""
    _, p, q = displacement.shape
    at = np.meshgrid(np.linspace(0, p - 1, height), np.linspace(0, q - 1, width), indexing="ij")
    field = [ndimage.map_coordinates(component, at, order=3, mode="mirror") for component in displacement]
    return np.array(field) + np.indices((height, width))


@pytest.mark.parametrize(("height", "width", "p", "q"), [(64, 64, 3, 3), (40, 57, 3, 3), (33, 50, 2, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_elasticdeform(height, width, p, q, dtype):
    elasticdeform = pytest.importorskip("elasticdeform")
    rng = np.random.default_rng(0)
    image = random_image(rng, (height, width), dtype)
    labels = rng.integers(0, 5, (height, width))
    displacement = rng.normal(0, 10, (2, p, q))  # reaches far over the borders

    expected = elasticdeform.deform_grid([image, labels], displacement, order=[3, 0], mode="mirror")
    deformed, deformed_labels = deform([image, labels], displacement, order=[3, 0])

    assert deformed.dtype == dtype
    assert deformed_labels.dtype == labels.dtype
    np.testing.assert_allclose(
        deformed, expected[0], rtol=0, atol=TOLERANCE if dtype == np.float32 else 1e-12
    )
    np.testing.assert_array_equal(deformed_labels, expected[1])


@pytest.mark.parametrize("shape", [(48, 64, 3), (9, 7, 2), (2, 3, 1), (1, 6, 1)])
@pytest.mark.parametrize("sigma", [2, 40])
def test_equals_scipy_channel_by_channel(shape, sigma):
    rng = np.random.default_rng(1)
    image = random_image(rng, shape)
    displacement = rng.normal(0, sigma, (2, 3, 3))
    coordinates = coordinates_by_scipy(displacement, *shape[:2])
    deformed = deform(image, displacement)
    for channel in range(shape[2]):
        expected = ndimage.map_coordinates(
            image[..., channel].astype(float), coordinates, order=3, mode="mirror"
        )
        np.testing.assert_allclose(deformed[..., channel], expected, rtol=0, atol=TOLERANCE)


def test_a_constant_displacement_is_a_shift_of_the_mirrored_image():
    image = random_image(np.random.default_rng(2), (20, 30))
    displacement = np.empty((2, 3, 3))
    displacement[0], displacement[1] = 4, -7  # the output looks 4 rows down and 7 columns to the left
    expected = np.pad(image, 10, mode="reflect")[14:34, 3:33]
    np.testing.assert_array_equal(deform(image, displacement, order=0), expected)
    np.testing.assert_allclose(deform(image, displacement), expected, rtol=0, atol=TOLERANCE)


def test_the_field_passes_through_the_vectors():
    displacement = np.random.default_rng(3).normal(0, 10, (2, 3, 4))
    field = displacement_field(displacement, 21, 31)  # grid points at every tenth pixel
    np.testing.assert_allclose(field[:, ::10, ::10], displacement, rtol=0, atol=1e-12)


def test_image_and_labels_move_together():
    labels = (np.indices((96, 96)).sum(0) // 24).astype(np.uint8)  # diagonal stripes
    image, moved = elastic_deform(
        [labels.astype(np.float32), labels], sigma=6, order=[3, 0], rng=np.random.default_rng(4)
    )
    inside = ndimage.maximum_filter(moved, 7) == ndimage.minimum_filter(moved, 7)
    inside[[*range(8), *range(-8, 0)]] = inside[:, [*range(8), *range(-8, 0)]] = False  # steps just outside
    assert inside.mean() > 0.3
    assert (moved != labels).mean() > 0.1
    # Three pixels from a step of 1 the cubic spline still rings, by less than 0.27^3 times the step.
    np.testing.assert_allclose(image[inside], moved[inside], rtol=0, atol=0.05)


def test_sigma_points_and_draws_are_as_documented():
    image = random_image(np.random.default_rng(5), (32, 32))
    displacement = np.random.default_rng(6).normal(0, 3, (2, 4, 4))
    by_sigma = elastic_deform(image, sigma=3, points=4, rng=np.random.default_rng(6))
    np.testing.assert_array_equal(by_sigma, deform(image, displacement))
    assert (by_sigma != elastic_deform(image, sigma=3, points=4, rng=np.random.default_rng(7))).any()


def test_defaults_are_the_papers():
    image = random_image(np.random.default_rng(5), (32, 32))
    by_default = elastic_deform(image, rng=np.random.default_rng(6))
    by_numbers = elastic_deform(image, sigma=10, points=3, order=3, rng=np.random.default_rng(6))
    np.testing.assert_array_equal(by_default, by_numbers)


def test_without_displacement_nothing_moves_and_the_input_is_kept():
    rng = np.random.default_rng(8)
    image, labels = random_image(rng, (31, 32, 2)), rng.integers(0, 9, (31, 32)).astype(np.uint16)
    before = image.copy()
    same, same_labels = elastic_deform((image, labels), sigma=0, order=(3, 0), rng=rng)
    np.testing.assert_allclose(same, image, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(same_labels, labels)
    elastic_deform(image, sigma=5, rng=rng)
    np.testing.assert_array_equal(image, before)


def test_arrays_that_are_not_contiguous():
    image = random_image(np.random.default_rng(9), (40, 60, 2))
    displacement = np.random.default_rng(10).normal(0, 5, (2, 3, 3))
    view = image[::2, ::-3]
    for order in (0, 3):
        expected = deform(view.copy(), displacement, order=order)
        np.testing.assert_array_equal(deform(view, displacement, order=order), expected)


def test_folds_are_counted():
    rng = np.random.default_rng(11)
    displacement = rng.normal(0, 60, (2, 3, 3))
    height, width = 240, 300
    u_y, u_x = displacement_field(displacement, height, width)
    by_y_of_y, by_x_of_y = np.gradient(u_y)
    by_y_of_x, by_x_of_x = np.gradient(u_x)
    folded = (1 + by_y_of_y) * (1 + by_x_of_x) <= by_x_of_y * by_y_of_x
    assert 0.02 < folded.mean() < 0.9
    # Differences of neighbours against exact derivatives: they may disagree along the folds' outlines.
    assert count_folded(displacement, height, width) == pytest.approx(folded.sum(), rel=0.02)
    assert count_folded(displacement / 100, height, width) == 0


@pytest.mark.parametrize(
    ("arrays", "displacement", "order", "error"),
    [
        (np.zeros((8, 8)), np.zeros((3, 3)), 3, ShapeError),
        (np.zeros((8, 8)), np.zeros((2, 3, 1)), 3, ShapeError),
        (np.zeros((8, 8)), np.full((2, 3, 3), np.nan), 3, DataError),
        ([np.zeros((8, 8)), np.zeros((8, 9))], np.zeros((2, 3, 3)), 3, ShapeError),
        (np.zeros(8), np.zeros((2, 3, 3)), 3, ShapeError),
        (np.zeros((0, 8)), np.zeros((2, 3, 3)), 3, ShapeError),
        (np.zeros((8, 8), int), np.zeros((2, 3, 3)), 3, DtypeError),
        (np.zeros((8, 8), np.float16), np.zeros((2, 3, 3)), 3, DtypeError),
        (np.zeros((8, 8)), np.zeros((2, 3, 3)), 2, DataError),
        ([np.zeros((8, 8))], np.zeros((2, 3, 3)), [3, 0], DataError),
    ],
)
def test_mistakes_are_named(arrays, displacement, order, error):
    with pytest.raises(error, match="deform: "):
        deform(arrays, displacement, order=order)


@pytest.mark.parametrize("sigma", [-1, np.nan])
def test_sigma_must_be_a_standard_deviation(sigma):
    with pytest.raises(OptionError, match="sigma"):
        elastic_deform(np.zeros((8, 8)), sigma=sigma, rng=np.random.default_rng(0))
