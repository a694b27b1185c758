import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import entropy
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

from tinyunet.errors import DataError, DtypeError, ShapeError
from tinyunet.metrics import information_score, rand_error, thin_borders, v_info, v_rand
from tinyunet.metrics.segments import FINE_THRESHOLDS

# Sums of at most 4,200 shares in float64, in another order.
CLOSE = {"rel": 1e-12, "abs": 1e-12}


def as_singletons(segmentation):
    """The same image with a number of its own for each pixel that was 0."""
    apart = segmentation.copy()
    apart[apart == 0] = np.arange(np.sum(apart == 0)) + apart.max() + 1
    return apart


@pytest.mark.parametrize("singletons", [False, True])
def test_rand_error_counts_the_ordered_pairs(label_pair, singletons):
    segmentation, labels = (image[:20, :20] for image in label_pair)
    true = labels[labels > 0]
    ours = (as_singletons(segmentation) if singletons else segmentation)[labels > 0]
    together, truly = ours[:, None] == ours, true[:, None] == true
    f_score = np.sum(together & truly) / (np.sum(together) / 2 + np.sum(truly) / 2)
    assert rand_error(segmentation, labels, singletons=singletons) == pytest.approx(1 - f_score, **CLOSE)


@pytest.mark.parametrize("singletons", [False, True])
def test_rand_error_agrees_with_scikit_image_but_for_a_pixels_pair_with_itself(label_pair, singletons):
    segmentation, labels = label_pair
    apart = as_singletons(segmentation) if singletons else segmentation
    expected, _, _ = adapted_rand_error(labels, apart)
    pixels = np.sum(labels > 0)
    pairs = sum(np.sum(np.bincount(image[labels > 0]) ** 2) for image in (apart, labels)) / 2
    hits = pairs * (1 - rand_error(segmentation, labels, singletons=singletons))
    assert 1 - (hits - pixels) / (pairs - pixels) == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("singletons", [False, True])
def test_information_score_agrees_with_the_variation_of_information(label_pair, singletons):
    segmentation, labels = label_pair
    apart = as_singletons(segmentation) if singletons else segmentation
    entropies = sum(entropy(np.bincount(image[labels > 0]), base=2) for image in (apart, labels))
    variation = variation_of_information(labels, apart, ignore_labels=(0,)).sum()  # in bits
    expected = 1 - variation / entropies
    assert information_score(segmentation, labels, singletons=singletons) == pytest.approx(expected, **CLOSE)


def test_two_equal_objects_merged_by_hand():
    labels = np.array([[1, 1, 0, 2, 2]])
    merged = np.ones_like(labels)
    # Σ p² = 2 · ½², Σ s² = 1, Σ t² = 2 · ½²: F = ½ / ¾. One segment tells nothing about the object.
    assert rand_error(merged, labels) == pytest.approx(1 / 3)
    assert information_score(merged, labels) == pytest.approx(0)


def test_only_the_grouping_counts(label_pair):
    segmentation, labels = label_pair
    numbers = np.random.default_rng(0).permutation(1000)[: segmentation.max() + 1] * 10**9
    renamed = np.where(segmentation > 0, 1 + numbers[segmentation], 0)
    for measure in (rand_error, information_score):
        assert measure(renamed, labels) == pytest.approx(measure(segmentation, labels), **CLOSE)
    assert rand_error(labels, labels) == 0
    assert information_score(labels, labels) == pytest.approx(1)
    assert information_score(np.ones_like(labels), np.ones_like(labels)) == 1


def test_thinning_leaves_lines_of_one_pixel_and_no_dead_ends():
    cells = np.ones((9, 12), bool)
    cells[:, 4:9] = False  # a membrane five pixels wide
    cells[4, :2] = False  # and one that ends inside the left cell
    expected = np.ones((9, 12), int)
    expected[:, 6] = 0
    expected[:, 7:] = 2
    np.testing.assert_array_equal(thin_borders(cells), expected)
    np.testing.assert_array_equal(thin_borders(np.zeros((2, 3), bool)), np.ones((2, 3)))


def test_thinned_segments_do_not_touch(label_pair):
    segments = thin_borders(label_pair[1] % 5 > 1)
    for a, b in [(segments[1:], segments[:-1]), (segments[:, 1:], segments[:, :-1])]:
        assert not np.any((a != b) & (a > 0) & (b > 0))


def membranes(labels, width):
    """Mask of cells that fill the plane, with membranes of about 2 · width pixels between them."""
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    filled = labels[tuple(nearest)]
    edges = (ndimage.maximum_filter(filled, 3) != filled) | (ndimage.minimum_filter(filled, 3) != filled)
    return ndimage.distance_transform_edt(~edges) >= width


def test_the_width_of_membranes_hardly_matters():
    rng = np.random.default_rng(0)
    centres = np.zeros((60, 80), int)
    for i, j in np.ndindex(3, 4):  # twelve cells on an uneven grid
        centres[tuple(rng.integers(7, 14, 2) + np.array([20 * i, 20 * j]))] = 1 + 4 * i + j
    truth, thick = membranes(centres, 1), membranes(centres, 3)
    unthinned = 1 - rand_error(ndimage.label(thick)[0], ndimage.label(truth)[0], singletons=True)
    assert v_rand(thick * 1.0, truth) > 0.99 > 0.8 > unthinned
    assert v_rand(truth * 1.0, truth) == 1
    assert v_info(truth * 1.0, truth) == pytest.approx(1)


def score_by_loops(foreground, truth, threshold):
    """V_Rand and V_Info of one section at one threshold, as the definition reads, with a dense table."""
    cells = label(truth > 0, connectivity=1)
    markers = label(foreground > threshold, connectivity=1)
    segments = watershed(foreground <= threshold, markers, connectivity=1, watershed_line=True)
    inside = cells > 0
    p = np.zeros((segments.max() + 1 + inside.sum(), cells.max()))
    np.add.at(p, (as_singletons(segments)[inside], cells[inside] - 1), 1 / inside.sum())
    s, t = p.sum(axis=1), p.sum(axis=0)
    rand = np.sum(p**2) / (np.sum(s**2) / 2 + np.sum(t**2) / 2)
    return rand, 2 * (entropy(s) + entropy(t) - entropy(p.ravel())) / (entropy(s) + entropy(t))


@pytest.fixture
def stack(label_pair):
    """Two sections (probabilities, truth) that are best at different thresholds."""
    truth = np.stack([membranes(labels, 1) for labels in label_pair])
    noise = np.random.default_rng(1).normal(0, 0.7, truth.shape)
    foreground = ndimage.gaussian_filter(truth + noise, (0, 1, 1)).clip(0, 1)
    foreground[1] **= 2.5
    return foreground, truth.astype(np.uint8) * 255


def test_v_rand_and_v_info_by_their_definition(stack):
    foreground, truth = stack
    scores = np.array(
        [
            [score_by_loops(f, t, threshold) for f, t in zip(foreground, truth, strict=True)]
            for threshold in np.linspace(0.1, 0.9, 9)  # at 0 and 1 no marker or one: not the best
        ]
    )
    for measure, score in [(v_rand, scores[..., 0]), (v_info, scores[..., 1])]:
        assert score.min() + 0.1 < score.max() < 1  # the thresholds differ
        for n in range(2):
            assert measure(foreground[n], truth[n]) == pytest.approx(score[:, n].max(), **CLOSE)
        assert measure(foreground, truth) == pytest.approx(score.mean(axis=1).max(), **CLOSE)


def test_a_network_that_is_sure_needs_finer_thresholds(stack):
    """The odds of being inside times 20: in the same order, but half as sure pixels are above 0.9."""
    unsure, truth = stack
    sure = 20 * unsure / (1 + 19 * unsure)
    scores = np.array(
        [
            [score_by_loops(f, t, threshold) for f, t in zip(sure, truth, strict=True)]
            for threshold in FINE_THRESHOLDS[1:-1]  # at 0 and 1 no marker or one: not the best
        ]
    ).mean(axis=1)
    for measure, fine in [(v_rand, scores[:, 0].max()), (v_info, scores[:, 1].max())]:
        assert measure(sure, truth, thresholds=FINE_THRESHOLDS) == pytest.approx(fine, **CLOSE)
        assert measure(sure, truth) < fine - 0.05


def test_a_pixel_at_the_threshold_is_border_and_no_foreground_is_one_segment():
    truth = np.array([[1, 1, 0, 1, 1]])
    foreground = np.array([[0.6, 0.6, 0.3, 0.6, 0.6]])
    for threshold, score in [(0.3, 1), (0.2, 2 / 3), (0.6, 2 / 3), (1, 2 / 3)]:  # 2/3: both cells are one
        assert v_rand(foreground, truth, thresholds=[threshold]) == pytest.approx(score)


def test_the_thresholds_begin_at_zero():
    """A network that is sure of the membranes only, and never of the cells."""
    truth = np.array([[1, 1, 0, 1, 1]])
    for measure in (v_rand, v_info):
        assert measure(0.05 * truth, truth) == pytest.approx(1)


def test_gaps_in_real_membranes_cost_more_than_their_width():
    folder = Path(os.environ.get("TINYUNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "isbi2012_em_train.npz").exists():
        pytest.skip(f"no isbi2012_em_train.npz in {folder}: set TINYUNET_DATA to its folder")
    truth = np.load(folder / "isbi2012_em_train.npz")["labels"][0, :256, :256]
    inside = truth > 0
    thick = ndimage.binary_erosion(inside)
    holed = inside.copy()
    holed[:, 100:108] = True
    assert v_rand(inside * 1.0, truth) == 1
    assert v_rand(thick * 1.0, truth, thresholds=[0.5]) > 0.99
    assert v_rand(holed * 1.0, truth, thresholds=[0.5]) < 0.95


@pytest.mark.parametrize("measure", [rand_error, information_score])
def test_bad_label_images(measure):
    ones = np.ones((3, 4), int)
    with pytest.raises(ShapeError, match=r"(?s)\(3, 4\).*\(4, 3\)"):
        measure(ones, ones.T)
    with pytest.raises(DtypeError, match=r"segmentation .*float64"):
        measure(ones * 1.0, ones)
    with pytest.raises(DataError, match="-1"):
        measure(-ones, ones)
    with pytest.raises(DataError, match="all are 0"):
        measure(ones, 0 * ones)
    with pytest.raises(DataError):
        measure(ones[:0], ones[:0])


@pytest.mark.parametrize("measure", [v_rand, v_info])
def test_bad_challenge_input(measure):
    truth = np.ones((3, 4), np.uint8)
    with pytest.raises(ShapeError, match=r"(?s)\(3, 4\).*\(4, 3\)"):
        measure(truth * 1.0, truth.T)
    for shape in [(4,), (0, 4)]:
        with pytest.raises(ShapeError):
            measure(np.ones(shape), np.ones(shape, int))
    with pytest.raises(DtypeError, match=r"labels .*float64"):
        measure(truth * 1.0, truth * 1.0)
    with pytest.raises(DataError, match="255"):
        measure(np.array([[1, 255]]), truth[:1, :2])
    measure(np.full((3, 4), np.nextafter(np.float32(1), np.float32(2))), truth)  # rounding is no mistake
    with pytest.raises(DataError, match="nan"):
        measure(np.full((3, 4), np.nan), truth)
    for third in (2, -1):
        with pytest.raises(DataError, match="labels"):
            measure(np.ones((1, 3)), np.array([[0, 1, third]]))
    with pytest.raises(DataError, match="all are 0"):
        measure(truth * 1.0, 0 * truth)
    with pytest.raises(DataError, match="thresholds"):
        measure(truth * 1.0, truth, thresholds=[])
