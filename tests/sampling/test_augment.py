"""The augmenter against SciPy, `numpy.pad` and its documentation."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from scipy import ndimage

from tinyunet.errors import DataError, DtypeError, OptionError, ShapeError
from tinyunet.sampling.augment import Augmentation, Augmenter, sample_tile
from tinyunet.sampling.elastic import count_folded
from tinyunet.sampling.spline import spline_coefficients

GEOMETRY_ONLY = Augmentation(brightness=0, contrast=0, gamma=0)


def image_and_labels(seed, height, width, channels=1):
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((height, width, channels)).astype(np.float32)
    return image, rng.integers(0, 4, (height, width)).astype(np.uint8)


def image_of_its_coordinates(height, width):
    return np.moveaxis(np.indices((height, width)), 0, -1).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 57, 2), (3, 9, 1), (2, 2, 1), (1, 5, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_spline_coefficients_equal_scipy(shape, dtype, tolerance):
    image = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    coefficients = spline_coefficients(image)
    assert coefficients.dtype == dtype
    for channel in range(shape[2]):
        expected = ndimage.spline_filter(image[..., channel].astype(float), mode="mirror")
        expected = np.pad(expected, ((1, 2), (1, 2)), mode="reflect")
        np.testing.assert_allclose(coefficients[..., channel], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("height", "width"), [(60, 70), (20, 70), (6, 5), (1, 30)])
def test_off_gives_exact_crops_of_the_mirrored_image(height, width):
    image, labels = image_and_labels(0, height, width, 3)
    input_size, output_size, margin = 40, 24, 8
    mirrored = np.pad(image, ((64, 64), (64, 64), (0, 0)), mode="reflect")
    mirrored_labels = np.pad(labels, 64, mode="reflect")
    augmenter = Augmenter(
        [image], [labels], input_size=input_size, output_size=output_size, augmentation=Augmentation.off()
    )
    origins = set()
    for step in range(200):
        # The documented first draw: the output tile lies in the image or covers it.
        rng = np.random.default_rng([1, step])
        y, x = (rng.integers(min(0, n - output_size), max(0, n - output_size) + 1) for n in (height, width))
        origins.add((y, x))
        top, left = 64 + y - margin, 64 + x - margin
        tile = augmenter.sample(0, np.random.default_rng([1, step]))
        expected = mirrored[top : top + input_size, left : left + input_size]
        np.testing.assert_array_equal(tile.image, expected)
        np.testing.assert_array_equal(
            tile.labels, mirrored_labels[top + margin :, left + margin :][:output_size, :output_size]
        )
    least, most = np.min(list(origins), axis=0), np.max(list(origins), axis=0)
    assert (least >= np.minimum(0, [height - output_size, width - output_size])).all()
    assert (most <= np.maximum(0, [height - output_size, width - output_size])).all()
    assert len(origins) > 10


def test_output_tiles_reach_the_whole_image():
    image, labels = image_of_its_coordinates(12, 11), np.zeros((12, 11), int)
    augmenter = Augmenter([image], [labels], input_size=20, output_size=8, augmentation=Augmentation.off())
    seen = np.zeros(labels.shape, bool)
    for step in range(300):  # of 5 × 4 positions: a corner is missed with probability (19/20)^300 = 2e-7
        output = augmenter.sample(0, np.random.default_rng([2, step])).image[6:14, 6:14].astype(int)
        seen[output[..., 0], output[..., 1]] = True
    assert seen.all()


def test_flips_are_exact_and_all_occur():
    image, labels = image_and_labels(3, 20, 20)  # of the size of the tile: there is one position only
    augmentation = replace(Augmentation.off(), flips=True)
    augmenter = Augmenter([image], [labels], input_size=20, output_size=20, augmentation=augmentation)
    variants = {(a, b): image[::a, ::b] for a in (1, -1) for b in (1, -1)}
    found = set()
    for step in range(40):
        tile = augmenter.sample(0, np.random.default_rng([3, step]))
        (match,) = (key for key, variant in variants.items() if np.array_equal(tile.image, variant))
        np.testing.assert_array_equal(tile.labels, labels[:: match[0], :: match[1]])
        found.add(match)
    assert found == set(variants)


def coordinates_by_scipy(seed, augmentation, image_shape, input_size, output_size):
    """The points of a tile's pixels, written from the documentation, with the grid interpolated by SciPy."""
    rng = np.random.default_rng(seed)
    low_high = [(min(0, n - output_size), max(0, n - output_size) + 1) for n in image_shape]
    origin = np.array([rng.integers(*bounds) for bounds in low_high])
    angle = np.deg2rad(augmentation.rotation * rng.uniform(-1, 1, 4)[0])
    flips = rng.integers(2, size=2).astype(bool) & augmentation.flips
    points = augmentation.elastic_points
    grid = augmentation.elastic_sigma * rng.standard_normal((2, points, points))

    on_grid = np.indices((input_size, input_size)) * (points - 1) / (input_size - 1)
    field = [ndimage.map_coordinates(component, on_grid, order=3, mode="mirror") for component in grid]
    position = np.indices((input_size, input_size)) - (input_size - 1) / 2 + field
    y, x = (np.where(flip, -p, p) for flip, p in zip(flips, position, strict=True))
    rotated = (y + 1j * x) * np.exp(1j * angle)
    centre = origin + (output_size - 1) / 2
    return np.stack([rotated.real + centre[0], rotated.imag + centre[1]])


@pytest.mark.parametrize(
    "augmentation",
    [
        GEOMETRY_ONLY,
        replace(GEOMETRY_ONLY, rotation=0, elastic_points=4),
        replace(GEOMETRY_ONLY, elastic_sigma=0, flips=False),
        replace(GEOMETRY_ONLY, rotation=15),
    ],
)
@pytest.mark.parametrize("shape", [(90, 120), (30, 100)])
def test_equals_scipy_on_the_composed_coordinates(augmentation, shape):
    image, labels = image_and_labels(4, *shape, 2)
    augmenter = Augmenter([image], [labels], input_size=84, output_size=60, augmentation=augmentation)
    for step in range(5):
        coordinates = coordinates_by_scipy([4, step], augmentation, shape, 84, 60)
        tile = augmenter.sample(0, np.random.default_rng([4, step]))
        for channel in range(2):
            expected = ndimage.map_coordinates(
                image[..., channel].astype(float), coordinates, order=3, mode="mirror"
            )
            # Unit variance; float32 coefficients are off by up to 3e-6.
            np.testing.assert_allclose(tile.image[..., channel], expected, rtol=0, atol=1e-5)
        expected = ndimage.map_coordinates(
            labels, coordinates[:, 12:-12, 12:-12], order=0, mode="mirror", prefilter=False
        )
        np.testing.assert_array_equal(tile.labels, expected)


def test_image_and_labels_move_together():
    labels = (np.indices((100, 100)).sum(0) // 25).astype(np.int32)  # diagonal stripes
    augmenter = Augmenter(
        [labels[..., None].astype(np.float32)],
        [labels],
        input_size=70,
        output_size=50,
        augmentation=replace(GEOMETRY_ONLY, elastic_sigma=4),
        label_margin=10,
    )
    for step in range(10):
        image, moved, _ = augmenter.sample(0, np.random.default_rng([5, step]))
        inside = ndimage.maximum_filter(moved, 7) == ndimage.minimum_filter(moved, 7)
        inside = inside[5:-5, 5:-5]  # the filters do not see what is beyond the tile
        assert inside.any()
        # Three pixels from a step of 1 the cubic spline still rings, by less than 0.27^3 times the step.
        difference = image[5:-5, 5:-5, 0] - moved[5:-5, 5:-5]
        np.testing.assert_allclose(difference[inside], 0, atol=0.05)


def test_the_generator_alone_determines_the_tile():
    images, labels = zip(image_and_labels(6, 70, 60), image_and_labels(7, 30, 90), strict=True)
    sizes = {"input_size": 60, "output_size": 40}
    augmenter = Augmenter(images, labels, **sizes)
    for index in range(2):
        first = augmenter.sample(index, np.random.default_rng([0, 7]))
        augmenter.sample(1 - index, np.random.default_rng(1))
        again = augmenter.sample(index, np.random.default_rng([0, 7]))
        alone = sample_tile(images[index], labels[index], **sizes, rng=np.random.default_rng([0, 7]))
        other = augmenter.sample(index, np.random.default_rng([0, 8]))
        for tile in (again, alone):
            np.testing.assert_array_equal(tile.image, first.image)
            np.testing.assert_array_equal(tile.labels, first.labels)
        assert (other.image != first.image).mean() > 0.9
        assert first.image.dtype == np.float32
        assert first.labels.dtype == np.uint8


def test_disabling_one_part_keeps_the_others():
    image, labels = image_and_labels(8, 80, 80)
    sizes = {"input_size": 60, "output_size": 40}
    tiles = {
        name: sample_tile(
            image, labels, **sizes, augmentation=replace(Augmentation(), **off), rng=np.random.default_rng(8)
        )
        for name, off in {
            "all": {},
            "grey off": {"brightness": 0, "contrast": 0, "gamma": 0},
            "elastic off": {"elastic_sigma": 0},
            "elastic and grey off": {"elastic_sigma": 0, "brightness": 0, "contrast": 0, "gamma": 0},
        }.items()
    }
    np.testing.assert_array_equal(tiles["all"].labels, tiles["grey off"].labels)
    np.testing.assert_array_equal(tiles["elastic off"].labels, tiles["elastic and grey off"].labels)
    assert (tiles["all"].image != tiles["grey off"].image).mean() > 0.9
    assert (tiles["all"].labels != tiles["elastic off"].labels).any()


@pytest.mark.parametrize(
    "off", [{"rotation": 0}, {"flips": False}, {"brightness": 0}, {"contrast": 0}, {"gamma": 0}], ids=str
)
def test_a_disabled_part_is_still_drawn(off):
    """Otherwise everything drawn after it would change."""
    image, labels = image_and_labels(8, 80, 80)
    draws = [
        Augmenter(
            [image], [labels], input_size=60, output_size=40, augmentation=replace(Augmentation(), **changes)
        ).draw(0, np.random.default_rng(8))
        for changes in ({}, off)
    ]
    np.testing.assert_array_equal(draws[0].centre, draws[1].centre)
    np.testing.assert_array_equal(draws[0].grid, draws[1].grid)


def test_the_label_margin_surrounds_the_output_tile():
    image, labels = image_and_labels(9, 80, 80)
    sizes = {"input_size": 60, "output_size": 40}
    narrow = sample_tile(image, labels, **sizes, rng=np.random.default_rng(9))
    wide = sample_tile(image, labels, **sizes, label_margin=7, rng=np.random.default_rng(9))
    assert wide.labels.shape == (54, 54)
    np.testing.assert_array_equal(wide.labels[7:-7, 7:-7], narrow.labels)


def test_grey_values_vary_as_documented():
    image, labels = image_and_labels(10, 30, 30)
    low, high = float(image.min()), float(image.max())
    plain = dict(input_size=30, output_size=30)
    for step in range(20):
        _, brightness, contrast, gamma = _uniforms([10, step])
        changes = {
            "brightness": lambda x, u=brightness: x + 0.5 * u,
            "contrast": lambda x, u=contrast: x * np.exp(0.5 * u),
            "gamma": lambda x, u=gamma: low + (high - low) * ((x - low) / (high - low)) ** np.exp(0.5 * u),
        }
        for name, change in changes.items():
            augmentation = replace(Augmentation.off(), **{name: 0.5})
            rng = np.random.default_rng([10, step])
            tile = sample_tile(image, labels, **plain, augmentation=augmentation, rng=rng)
            # Values up to 4, in float32, through a power.
            np.testing.assert_allclose(tile.image, change(image.astype(float)), rtol=0, atol=1e-5)


def _uniforms(seed):
    rng = np.random.default_rng(seed)
    rng.integers(0, 1), rng.integers(0, 1)  # the position, of which there is one
    return rng.uniform(-1, 1, 4)


def test_gamma_keeps_a_constant_image_and_stays_finite_where_the_spline_overshoots():
    labels = np.zeros((40, 40), int)
    step = np.zeros((40, 40, 1), np.float32)
    step[:, 20:] = 1
    sizes = {"input_size": 40, "output_size": 40}
    only_gamma = replace(GEOMETRY_ONLY, gamma=0.8)
    overshot = sample_tile(step, labels, **sizes, augmentation=GEOMETRY_ONLY, rng=np.random.default_rng(11))
    assert overshot.image.min() < -0.01
    tile = sample_tile(step, labels, **sizes, augmentation=only_gamma, rng=np.random.default_rng(11))
    assert tile.image.min() >= 0
    assert tile.image.max() <= 1
    constant = np.full((40, 40, 1), 0.25, np.float32)
    tile = sample_tile(constant, labels, **sizes, augmentation=only_gamma, rng=np.random.default_rng(11))
    np.testing.assert_allclose(tile.image, 0.25, rtol=0, atol=1e-6)


def test_folds_are_reported():
    image, labels = image_and_labels(12, 60, 60)
    sizes = {"input_size": 60, "output_size": 60}
    for sigma, folds in ((0, False), (1, False), (60, True)):
        augmentation = replace(GEOMETRY_ONLY, elastic_sigma=sigma)
        tile = sample_tile(image, labels, **sizes, augmentation=augmentation, rng=np.random.default_rng(12))
        assert (tile.folded > 0) == folds
        assert tile.folded <= 60 * 60


def test_folds_are_those_of_the_whole_image_tile():
    """Folds outside the output tile count too."""
    image, labels = image_and_labels(12, 60, 60)
    bent = replace(GEOMETRY_ONLY, elastic_sigma=60)
    augmenter = Augmenter([image], [labels], input_size=60, output_size=20, augmentation=bent)
    draw = augmenter.draw(0, np.random.default_rng(12))
    tile = augmenter.sample(0, np.random.default_rng(12))
    assert tile.folded == count_folded(draw.grid, 60, 60) != count_folded(draw.grid, 20, 20)


def test_images_are_not_modified():
    image, labels = image_and_labels(13, 50, 50)
    before, labels_before = image.copy(), labels.copy()
    for augmentation in (Augmentation(), replace(Augmentation.off(), brightness=1, gamma=1)):
        sample_tile(
            image,
            labels,
            input_size=40,
            output_size=20,
            augmentation=augmentation,
            rng=np.random.default_rng(13),
        )
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(labels, labels_before)


@pytest.mark.parametrize("name", ["rotation", "brightness", "contrast", "gamma", "elastic_sigma"])
@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_magnitudes_are_checked(name, value):
    with pytest.raises(OptionError, match=name):
        Augmentation(**{name: value})


def test_the_elastic_deformation_is_the_papers():
    """Section 3.1: vectors of 10 pixels standard deviation on a grid of 3 by 3."""
    assert (Augmentation().elastic_sigma, Augmentation().elastic_points) == (10, 3)


def test_an_augmentation_cannot_change_under_a_running_training():
    with pytest.raises(FrozenInstanceError):
        Augmentation().rotation = 0


EIGHT = np.zeros((8, 8), int)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"images": []}, DataError),
        ({"images": [], "labels": []}, DataError),
        ({"images": [np.zeros((0, 8, 1), np.float32)], "labels": [np.zeros((0, 8), int)]}, ShapeError),
        ({"images": [np.zeros((8, 8, c), np.float32) for c in (1, 2)], "labels": [EIGHT] * 2}, ShapeError),
        ({"images": [np.zeros((9, 8, 1), np.float32)]}, ShapeError),
        ({"images": [np.zeros((8, 8), np.float32)]}, ShapeError),
        ({"images": [np.zeros((8, 8, 1))]}, DtypeError),
        ({"labels": [np.zeros((8, 8))]}, DtypeError),
        ({"output_size": 5}, ShapeError),
        ({"output_size": 10}, ShapeError),
        ({"output_size": 0}, ShapeError),
        ({"label_margin": 3}, ShapeError),
        ({"label_margin": -1}, ShapeError),
    ],
)
def test_mistakes_are_named(change, error):
    arguments = {
        "images": [np.zeros((8, 8, 1), np.float32)],
        "labels": [EIGHT],
        "input_size": 8,
        "output_size": 4,
    }
    Augmenter(**arguments)
    with pytest.raises(error, match="Augmenter: "):
        Augmenter(**arguments | change)
    with pytest.raises(OptionError, match="elastic_points"):
        Augmentation(elastic_points=1)
