import numpy as np
import pytest

from tinyunet.errors import DataError, DtypeError, ShapeError
from tinyunet.metrics import confusion_matrix, dice, iou, pixel_error


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (20, 30))
    prediction = np.where(rng.random(labels.shape) < 0.7, labels, rng.integers(0, 4, labels.shape))
    return prediction.astype(np.uint8), labels


def test_pixel_error_is_the_share_of_wrong_pixels():
    labels = np.array([[0, 1, 1, 255]])
    assert pixel_error(np.array([[1, 1, 1, 0]]), labels) == 2 / 4
    assert pixel_error(np.array([[1, 1, 1, 0]]), labels, ignore_label=255) == 1 / 3


@pytest.mark.parametrize("ignore", [None, 3])
def test_iou_and_dice_agree_with_scikit_learn(classes, ignore):
    oracle = pytest.importorskip("sklearn.metrics", reason="needs the oracle scikit-learn")
    prediction, labels = classes
    counted = np.full(labels.shape, True) if ignore is None else labels != ignore
    options = {"labels": range(5), "average": None, "zero_division": 1}  # class 4 is in neither array
    pair = labels[counted], prediction[counted]
    # Both divide the same whole numbers, once.
    np.testing.assert_allclose(
        iou(prediction, labels, 5, ignore_label=ignore), oracle.jaccard_score(*pair, **options), rtol=1e-15
    )
    np.testing.assert_allclose(
        dice(prediction, labels, 5, ignore_label=ignore), oracle.f1_score(*pair, **options), rtol=1e-15
    )


def test_iou_and_dice_by_hand():
    prediction, labels = np.array([1, 1, 1, 0]), np.array([1, 0, 1, 1])
    assert iou(prediction, labels, 3).tolist() == [0, 2 / 4, 1]
    assert dice(prediction, labels, 3).tolist() == [0, 2 * 2 / 6, 1]


def test_confusion_matrix_has_the_truth_in_rows():
    matrix = confusion_matrix(np.array([[1, 1, 0]]), np.array([[0, 0, 1]]), 2)
    assert matrix.tolist() == [[0, 2], [1, 0]]


def test_many_classes_in_eight_bits():
    """The number of a pair of classes, up to 399, is not computed in the type of the labels."""
    classes = np.arange(20, dtype=np.uint8)
    np.testing.assert_array_equal(confusion_matrix(classes, classes, 20), np.eye(20))


@pytest.mark.parametrize("measure", [pixel_error, lambda p, t, **kw: iou(p, t, 2, **kw)])
def test_bad_input(measure):
    zeros = np.zeros((3, 4), int)
    with pytest.raises(ShapeError, match=r"(?s)\(3, 4\).*\(4, 3\)"):
        measure(zeros, zeros.T)
    with pytest.raises(DtypeError, match=r"float64(?s:.*)argmax"):
        measure(zeros + 0.5, zeros)
    with pytest.raises(DataError, match="no pixel"):
        measure(zeros, zeros, ignore_label=0)


def test_a_class_outside_of_the_range_is_named():
    labels = np.array([[0, 255]])
    with pytest.raises(DataError, match="labels holds 0 to 255, the classes are 0 to 1"):
        iou(labels > 0, labels, 2)
    with pytest.raises(DataError, match="prediction holds 0 to 2"):
        iou(np.array([[0, 2]]), np.array([[0, 1]]), 2)
    with pytest.raises(DataError, match="prediction holds -1 to 0"):
        iou(-(labels // 255), labels // 255, 2)
