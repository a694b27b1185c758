"""Every measure takes every type of whole numbers, and the type does not change the value."""

import numpy as np
import pytest

from tinyunet import metrics
from tinyunet.metrics.contingency import contingency

WHOLE_NUMBERS = [bool, "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u8"]
CLASSES = ("confusion_matrix", "dice", "iou")
PROBABILITIES = ("v_info", "v_rand")
NOT_OF_PAIRS = ("Mistake", "iou_from_counts", "dice_from_counts", "thin_borders")
MEASURES = [*sorted(set(metrics.__all__) - set(NOT_OF_PAIRS)), "contingency"]


def value(name, prediction, labels):
    """The value of the measure of this name for a binary image."""
    if name == "contingency":
        return contingency("test", prediction, labels).toarray()
    if name in PROBABILITIES:
        prediction = prediction * 1.0
    return getattr(metrics, name)(prediction, labels, *([2] if name in CLASSES else []))


@pytest.mark.parametrize("dtype", WHOLE_NUMBERS)
@pytest.mark.parametrize("name", MEASURES)
def test_the_type_of_binary_images_does_not_matter(name, dtype):
    prediction, labels = np.random.default_rng(0).integers(0, 2, (2, 12, 15))
    expected = value(name, prediction, labels)
    for pair in [
        (prediction.astype(dtype), labels.astype(dtype)),
        (prediction.astype(dtype), labels),
        (prediction, labels.astype(dtype)),
    ]:
        np.testing.assert_array_equal(value(name, *pair), expected)


@pytest.mark.parametrize("dtype", WHOLE_NUMBERS[1:])
def test_the_type_of_label_images_does_not_matter(label_pair, dtype):
    for name in ("average_precision", "information_score", "rand_error", "seg", "seg_per_object"):
        expected = value(name, *label_pair)
        np.testing.assert_array_equal(value(name, *(image.astype(dtype) for image in label_pair)), expected)


def test_labels_that_float64_cannot_tell_apart_are_two():
    labels = np.array([[0, 2**63 + 1, 2**63 + 2]], np.uint64)
    assert metrics.seg_per_object(labels, labels).tolist() == [1, 1]
