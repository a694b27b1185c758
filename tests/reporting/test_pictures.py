"""Pictures of large images need little memory beside themselves."""

import tracemalloc

import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from tinyunet.reporting.pictures import RED, STRIP, grey_or_colour, outlined, overlay


@pytest.mark.parametrize("height", [1, STRIP - 1, STRIP, STRIP + 1, 2 * STRIP + 7])
def test_outlines_in_strips_are_those_of_the_whole(height):
    rng = np.random.default_rng(0)
    objects = rng.integers(-1, 3, (height, 40)).astype(np.int32)
    picture = rng.integers(0, 255, (height, 40, 3)).astype(np.uint8)
    outlines = find_boundaries(objects.clip(0), mode="inner")
    expected = np.where(outlines[:, :, np.newaxis], np.array(RED, np.uint8), picture)
    np.testing.assert_array_equal(outlined(picture, objects), expected)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_darkest_and_brightest_percent_are_clipped(channels):
    image = np.zeros((10, 100, channels), np.float32)
    image[..., 0] = np.arange(1000).reshape(10, 100)
    if channels == 3:
        image[...] = image[..., :1]
    expected = 255 * ((image[..., :1] - 9.99) / (989.01 - 9.99)).clip(0, 1)
    assert abs(grey_or_colour(image).astype(float) - expected).max() <= 1


def test_an_overlay_needs_little_memory():
    """Beside the picture, three bytes per pixel, twice: a float picture for the percentiles."""
    image = np.random.default_rng(0).integers(0, 255, (2048, 1024, 1)).astype(np.uint8)
    objects = np.zeros(image.shape[:2], np.int32)
    overlay(image[:10], objects[:10])  # imports
    tracemalloc.start()
    try:
        overlay(image, objects)
        assert tracemalloc.get_traced_memory()[1] < 25 * image.size
    finally:
        tracemalloc.stop()
