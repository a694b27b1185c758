import itertools

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number
from skimage.measure import label as components

from tinyunet.errors import DataError, DtypeError, ShapeError
from tinyunet.metrics import Mistake, pixel_error, warp_labels, warping_error, warping_mistakes
from tinyunet.metrics.warping import _is_simple


def topology(image):
    """Objects (4-connected) and pieces of background (8-connected, the outside is one of them)."""
    padded = np.pad(image, 1)
    return components(padded, connectivity=1).max(), components(~padded, connectivity=2).max()


def blobs(seed, shape=(40, 50)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > 0


def test_simple_points_of_all_neighbourhoods():
    """One 4-connected piece of foreground touches the pixel, and one 8-connected of background."""
    simple = 0
    for bits in itertools.product([0, 1], repeat=8):
        image = np.array([*bits[:4], 0, *bits[4:]], np.int8).reshape(3, 3)
        pieces = components(image, connectivity=1)
        touching = set(pieces[[0, 1, 1, 2], [1, 0, 2, 1]]) - {0}
        background = 1 - image
        background[1, 1] = 0
        expected = len(touching) == 1 and components(background, connectivity=2).max() == 1
        assert _is_simple(image, 1, 1) == expected, image
        image[1, 1] = 1
        assert _is_simple(image, 1, 1) == expected, image
        simple += expected
    assert 0 < simple < 256


@pytest.mark.parametrize("seed", range(5))
def test_warping_keeps_the_topology_and_lowers_the_disagreement(seed):
    labels, prediction = (
        blobs(seed),
        np.roll(blobs(seed), 2, axis=0) ^ (blobs(seed + 100) & blobs(seed + 200)),
    )
    warped = warp_labels(prediction, labels)
    assert topology(warped) == topology(labels)
    assert euler_number(np.pad(warped, 1), connectivity=1) == euler_number(np.pad(labels, 1), connectivity=1)
    flipped = warped != labels
    assert flipped.any()
    assert np.all(warped[flipped] == prediction[flipped])
    assert 0 < warping_error(prediction, labels) < pixel_error(prediction, labels)


@pytest.mark.parametrize("seed", range(5))
def test_warping_ends_where_every_flip_changes_the_topology(seed):
    labels, prediction = blobs(seed), blobs(seed + 100)
    warped = warp_labels(prediction, labels)
    for i, j in np.argwhere(warped != prediction)[::7]:
        flipped = warped.copy()
        flipped[i, j] ^= True
        assert topology(flipped) != topology(warped)


def test_the_error_is_never_below_the_best_of_all_warps():
    """All images that flips of simple points reach from a source of 3 × 4 pixels, by trying each flip."""
    rng = np.random.default_rng(0)
    best_found = 0
    for _ in range(6):
        source, target = rng.random((2, 3, 4)) < 0.5
        reached, waiting = {source.tobytes()}, [source]
        while waiting:
            padded = np.pad(waiting.pop(), 1).astype(np.int8)
            for i, j in np.ndindex(3, 4):
                if _is_simple(padded, i + 1, j + 1):
                    image = padded[1:-1, 1:-1].astype(bool)
                    image[i, j] ^= True
                    if image.tobytes() not in reached:
                        reached.add(image.tobytes())
                        waiting.append(image)
        best = min(np.mean(np.frombuffer(image, bool).reshape(3, 4) != target) for image in reached)
        assert warp_labels(target, source).tobytes() in reached
        assert warping_error(target, source) >= best
        best_found += warping_error(target, source) == best
    assert best_found >= 3  # greedy, but mostly right on so small an image


def two_cells():
    """Two cells of 8 × 6 pixels, with a gap of three columns."""
    image = np.zeros((12, 19), bool)
    image[2:10, 2:8] = image[2:10, 11:17] = True
    return image


def counts(prediction, labels):
    """The mistakes that occur, as {kind: (pixels, groups)}."""
    return {kind: tuple(n) for kind, n in warping_mistakes(prediction, labels).items() if n.pixels}


def test_moved_borders_are_no_mistake():
    labels = two_cells()
    shifted = np.roll(labels, (1, 1), (0, 1))
    assert pixel_error(shifted, labels) > 0.1
    assert warping_error(shifted, labels) == 0
    assert warping_error(ndimage.binary_erosion(labels, iterations=2), labels) == 0
    assert counts(shifted, labels) == {}
    assert warping_error(labels, labels) == 0


def test_borders_meet_in_the_middle():
    labels = np.zeros((5, 15), bool)
    labels[1:4, :3] = labels[1:4, 12:] = True
    prediction = labels.copy()
    prediction[1:4] = True
    left = prediction.copy()
    left[:, 7] = False
    np.testing.assert_array_equal(warp_labels(prediction, labels), left)


def merged(image):
    image[3:6, 8:11] = True
    return {Mistake.MERGER: (3, 1)}  # the bridge is three pixels wide


def cut(image):
    image[:, 4] = False
    return {Mistake.SPLIT: (1, 1)}  # both ends of the cut are notches; the last pixel between them is left


def cut_twice(image):
    image[:, 4] = image[:, 14] = False
    return {Mistake.SPLIT: (2, 2)}


def added(image):
    image[0, :2] = True
    return {Mistake.OBJECT_ADDED: (2, 1)}


def deleted(image):
    image[:, 9:] = False
    return {Mistake.OBJECT_DELETED: (1, 1)}  # an object shrinks to a point, and no further


def holed(image):
    image[4:6, 4:7] = False
    return {Mistake.HOLE_ADDED: (6, 1)}


@pytest.mark.parametrize("make", [merged, cut, cut_twice, added, deleted, holed])
def test_mistakes_are_named_and_counted(make):
    labels = two_cells()
    prediction = labels.copy()
    expected = make(prediction)
    assert counts(prediction, labels) == expected
    assert warping_error(prediction, labels) == sum(pixels for pixels, _ in expected.values()) / labels.size


def ring():
    image = np.zeros((9, 9), bool)
    image[1:8, 1:8] = True
    image[3:6, 3:6] = False
    return image


def test_a_hole_that_closes_or_opens_is_deleted():
    labels = ring()
    filled = ndimage.binary_fill_holes(labels)
    opened = labels.copy()
    opened[4, 5:] = False
    assert counts(filled, labels) == {Mistake.HOLE_DELETED: (1, 1)}
    assert counts(opened, labels) == {Mistake.HOLE_DELETED: (1, 1)}


def test_background_that_hangs_together_at_a_corner_is_one():
    bow = np.zeros((7, 7), bool)
    bow[1:6, 1:6] = True
    bow[2:5, 2:5] = bow[1, 1] = False  # a ring of one pixel, open at its corner
    broken = bow.copy()
    broken[3, 5] = False
    assert counts(broken, bow) == {Mistake.SPLIT: (1, 1)}


def test_a_bow_that_closes_to_a_ring_adds_a_hole():
    bow = ring()
    bow[4, 5:] = False
    assert counts(ring(), bow) == {Mistake.HOLE_ADDED: (2, 1)}  # the wall is two pixels thick


def test_cells_that_touch_at_a_corner_are_two():
    corner = np.array([[1, 0], [0, 1]])
    assert counts(np.ones((2, 2), int), corner) == {Mistake.MERGER: (2, 1)}


def test_an_object_that_touches_another_at_a_corner_is_added():
    labels = np.pad(np.ones((2, 2), int), (0, 2))
    prediction = labels.copy()
    prediction[2, 2] = 1
    assert counts(prediction, labels) == {Mistake.OBJECT_ADDED: (1, 1)}


def test_a_gap_that_is_open_at_its_corners_is_no_hole():
    """It cuts the object in two: above it and to the right, below it and to the left."""
    labels = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 0]])
    prediction = labels.copy()
    prediction[1, 1] = 0
    assert counts(prediction, labels) == {Mistake.SPLIT: (1, 1)}


def test_bad_input():
    binary = np.eye(3, 4, dtype=np.uint8)
    for measure in (warping_error, warping_mistakes, warp_labels):
        with pytest.raises(ShapeError, match=r"(?s)\(3, 4\).*\(4, 3\)"):
            measure(binary, binary.T)
        for wrong in (binary[None], binary[:0]):
            with pytest.raises(ShapeError, match="labels"):
                measure(wrong, wrong)
        with pytest.raises(DtypeError, match="float64"):
            measure(binary * 0.5, binary * 0.5)
        with pytest.raises(DataError, match="labels"):
            measure(np.arange(3)[None] > 1, np.arange(3)[None])
        with pytest.raises(DataError, match="prediction"):
            measure(np.arange(3)[None], np.arange(3)[None] > 1)
