"""Objects numbered block by block against those of the whole image."""

import numpy as np
import pytest
from scipy import ndimage

from tinyunet.errors import OutOfMemoryError
from tinyunet.prediction.blocks import Block, Numbering, ObjectOptions, number_objects
from tinyunet.prediction.instances import label_instances


def grid(shape, height, width):
    """Blocks of this size, row by row; those at the end are smaller."""
    rows, columns = (
        [slice(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(shape, (height, width), strict=True)
    )
    return [Block(down, across) for down in rows for across in columns]


def blobs(seed, shape=(120, 133)):
    """Smooth noise: large components with necks, and holes of all sizes."""
    rng = np.random.default_rng(seed)
    return ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.6, 4)) > rng.uniform(-0.05, 0.05)


def in_blocks(mask, height, width, **options):
    objects = np.zeros(mask.shape, np.uint32)
    blocks = grid(mask.shape, height, width)
    for _ in number_objects(Numbering(mask, objects, objects, blocks, ObjectOptions(**options))):
        pass
    return objects


@pytest.mark.parametrize("split_depth", [None, 0.3, 1])
@pytest.mark.parametrize("seed", range(8))
def test_blocks_of_any_size_give_the_objects_of_the_whole(seed, split_depth):
    """Bit for bit; of one pixel's width, not square, larger than the image, and with holes across borders."""
    mask = blobs(seed)
    options = {"min_size": 5, "max_hole": [0, 3, 30, 200][seed % 4], "split_depth": split_depth}
    whole = label_instances(mask, **options)
    assert whole.max() > 3
    for height, width in ((32, 32), (17, 50), (120, 7), (60, 133), (500, 500)):
        np.testing.assert_array_equal(in_blocks(mask, height, width, **options), whole)


@pytest.mark.parametrize("split_depth", [None, 1])
def test_a_spiral_through_all_blocks_is_one_object(split_depth):
    """Its ends meet only by way of many other blocks."""
    mask = np.zeros((40, 40), bool)
    row, column, length, step = 1, 1, 37, (0, 1)
    while length > 2:
        for _ in range(length):
            mask[row, column] = True
            row, column = row + step[0], column + step[1]
        step = (step[1], -step[0])
        length -= 2 if step[0] == 0 else 0
    whole = label_instances(mask, min_size=1, max_hole=0, split_depth=split_depth)
    found = in_blocks(mask, 8, 8, min_size=1, max_hole=0, split_depth=split_depth)
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("mask", [np.ones((20, 30), bool), np.zeros((20, 30), bool), np.eye(25, dtype=bool)])
@pytest.mark.parametrize("split_depth", [None, 1])
def test_all_nothing_and_corners(mask, split_depth):
    whole = label_instances(mask, min_size=1, split_depth=split_depth)
    np.testing.assert_array_equal(in_blocks(mask, 7, 8, min_size=1, split_depth=split_depth), whole)


def test_an_object_too_large_for_memory_is_named_unless_it_is_not_to_be_cut():
    mask = np.zeros((200, 200), bool)
    mask[20, 10:170] = mask[20:90, 10] = True
    with pytest.raises(OutOfMemoryError, match="70 × 160 pixels, from row 20, column 10") as error:
        in_blocks(mask, 32, 32, min_size=1, memory=100_000)
    assert "--no-split" in str(error.value)
    found = in_blocks(mask, 32, 32, min_size=1, memory=100_000, split_depth=None)
    np.testing.assert_array_equal(found, mask)
