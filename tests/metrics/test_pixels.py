import numpy as np
import pytest

from tinyunet.errors import DataError, DtypeError, ShapeError
from tinyunet.metrics import confusion_matrix, dice, dice_from_counts, iou, iou_from_counts, pixel_error


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


def assert_scores_of_scikit_learn(ious, dices, labels, predictions):
    """Both divide the same whole numbers, once. The last class is in neither array."""
    oracle = pytest.importorskip("sklearn.metrics", reason="needs the oracle scikit-learn")
    options = {"labels": range(len(ious) - 1), "average": None}
    for ours, theirs in [(ious, oracle.jaccard_score), (dices, oracle.f1_score)]:
        expected = [*theirs(labels.ravel(), predictions.ravel(), **options), np.nan]
        np.testing.assert_allclose(ours, expected, rtol=1e-15)


@pytest.mark.parametrize("ignore", [None, 2])
def test_iou_and_dice_agree_with_scikit_learn(classes, ignore):
    prediction, labels = classes
    counted = np.full(labels.shape, True) if ignore is None else labels != ignore
    scores = [measure(prediction, labels, 5, ignore_label=ignore) for measure in (iou, dice)]
    assert_scores_of_scikit_learn(*scores, labels[counted], prediction[counted])


def test_counts_of_a_set_agree_with_scikit_learn_over_all_pixels():
    """Some of the images lack a class, in the truth or altogether."""
    labels, predictions = np.random.default_rng(0).integers(0, 3, (2, 6, 15, 20))
    labels[:4] %= 2
    predictions[:2] %= 2
    matrix = sum(confusion_matrix(p, t, 4) for p, t in zip(predictions, labels, strict=True))
    assert_scores_of_scikit_learn(iou_from_counts(matrix), dice_from_counts(matrix), labels, predictions)


def test_nothing_to_find_and_nothing_found_is_no_score():
    """The mean over images must not reward a network that never predicts a rare class."""
    rare = np.array([[1, 1, 0, 0]])
    images = [np.zeros_like(rare)] * 9 + [rare]
    nothing = np.zeros_like(rare)
    scores = np.array([iou(nothing, labels, 2) for labels in images])
    assert np.nanmean(scores, axis=0).tolist() == [(9 + 2 / 4) / 10, 0]


def test_iou_and_dice_by_hand():
    prediction, labels = np.array([1, 1, 1, 0]), np.array([1, 0, 1, 1])
    np.testing.assert_array_equal(iou(prediction, labels, 3), [0, 2 / 4, np.nan])
    np.testing.assert_array_equal(dice(prediction, labels, 3), [0, 2 * 2 / 6, np.nan])


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
    with pytest.raises(DtypeError, match="float64"):
        measure(zeros + 0.5, zeros)
    with pytest.raises(DataError, match="ignore_label"):
        measure(zeros, zeros, ignore_label=0)


def test_a_class_out_of_range():
    labels = np.array([[0, 255]])
    with pytest.raises(DataError, match=r"labels .*255"):
        iou(labels > 0, labels, 2)
    with pytest.raises(DataError, match=r"prediction .*2"):
        iou(np.array([[0, 2]]), np.array([[0, 1]]), 2)
    with pytest.raises(DataError, match=r"prediction .*-1"):
        iou(-(labels // 255), labels // 255, 2)
