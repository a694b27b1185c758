import numpy as np
import pytest

from tinyunet.errors import DataError, DtypeError, ShapeError
from tinyunet.metrics import average_precision, seg, seg_per_object

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def test_seg_by_hand():
    labels = np.zeros((4, 10), int)
    labels[0, :5], labels[1, :4], labels[2, :6], labels[3, :4] = 1, 2, 3, 4
    segmentation = np.zeros_like(labels)
    segmentation[0, :5] = 9  # the same pixels
    segmentation[1, :5] = 8  # 4 of 5
    segmentation[2, :7] = 7  # 6 of 7
    segmentation[3, :2] = 6  # half of the object is not more than half
    segmentation[3, 6:9] = 5  # on the background: SEG does not mind
    assert seg_per_object(segmentation, labels).tolist() == [1, 4 / 5, 6 / 7, 0]
    assert round(seg(segmentation, labels), 6) == 0.664286


def test_seg_agrees_with_py_ctcmetrics(label_pair, tmp_path):
    metrics = pytest.importorskip("ctc_metrics.metrics", reason="needs the oracle py-ctcmetrics")
    match = pytest.importorskip("ctc_metrics.utils.representations").match
    imwrite = pytest.importorskip("tifffile").imwrite
    paths = [tmp_path / "result.tif", tmp_path / "truth.tif"]
    for path, image in zip(paths, label_pair, strict=True):
        imwrite(path, image.astype(np.uint16))
    labels_ref, _, _, _, ious = match(str(paths[1]), str(paths[0]))
    # The same quotients, added in another order.
    assert seg(*label_pair) == pytest.approx(metrics.seg([labels_ref], [ious]), rel=1e-14)
    assert 0.3 < seg(*label_pair) < 0.9


def test_average_precision_agrees_with_stardist(label_pair):
    oracle = pytest.importorskip("stardist.matching", reason="needs the oracle stardist")
    segmentation, labels = label_pair
    expected = [m.accuracy for m in oracle.matching(labels, segmentation, thresh=THRESHOLDS)]
    # Quotients of the same whole numbers.
    np.testing.assert_array_equal(average_precision(segmentation, labels, THRESHOLDS), expected)
    assert len(set(expected)) > 4


def test_average_precision_by_hand():
    labels = np.array([[1, 1, 1, 1, 0, 2, 2, 0]])
    segmentation = np.array([[1, 1, 1, 0, 0, 2, 2, 3]])
    # IoU 3/4 and 1; one object too many.
    assert average_precision(segmentation, labels, [0.5, 0.75, 0.76]).tolist() == [2 / 3, 2 / 3, 1 / 4]
    assert average_precision(segmentation, labels, 0.9).tolist() == [1 / 4]


def test_default_thresholds_are_those_of_the_data_science_bowl(label_pair):
    np.testing.assert_array_equal(average_precision(*label_pair), average_precision(*label_pair, THRESHOLDS))


def test_two_halves_of_an_object_match_it_once():
    assert average_precision(np.array([[1, 2]]), np.array([[1, 1]]), 0.5).tolist() == [1 / 2]


def test_numbers_may_have_gaps(label_pair):
    segmentation, labels = label_pair
    gaps = labels.astype(np.int64) * 10**12
    assert seg(segmentation, gaps) == seg(segmentation, labels)
    np.testing.assert_array_equal(
        average_precision(gaps, 3 * segmentation), average_precision(labels, segmentation)
    )


def test_images_without_objects():
    none, diagonal = np.zeros((3, 3), int), np.eye(3, dtype=int)
    np.testing.assert_array_equal(
        [seg(none, none), seg(diagonal, none), seg(none, diagonal)], [np.nan, np.nan, 0]
    )
    for pair, value in [((none, none), np.nan), ((diagonal, none), 0), ((none, diagonal), 0)]:
        np.testing.assert_array_equal(average_precision(*pair), [value] * 10)


def test_an_object_of_more_pixels_than_16_bits_count():
    """Four fifths of it are found."""
    labels = np.ones((260, 260), np.uint8)
    segmentation = labels.copy()
    segmentation[208:] = 0
    assert seg(segmentation, labels) == 0.8
    assert average_precision(segmentation, labels, [0.8, 0.81]).tolist() == [1, 0]


def test_an_image_all_of_objects_has_no_background():
    halves = np.array([[1, 1, 2, 2]])
    assert seg(halves, halves) == seg(halves * 10**12, halves) == 1
    assert average_precision(halves, halves, 0.95).tolist() == [1]


@pytest.mark.parametrize("measure", [seg, average_precision])
def test_bad_input(measure):
    ones = np.ones((3, 4), int)
    with pytest.raises(ShapeError, match=r"(?s)\(3, 4\).*\(4, 3\)"):
        measure(ones, ones.T)
    with pytest.raises(DtypeError, match=r"labels .*float32"):
        measure(ones, ones.astype(np.float32))
    with pytest.raises(DataError, match="-1"):
        measure(ones, -ones)
