"""Scores of single images and of sets: what each measure counts, and where mistakes are marked."""

import numpy as np
import pytest
from segmentations import membranes, noisy, squares
from sklearn.metrics import f1_score, jaccard_score
from stardist.matching import matching, matching_dataset

from tinyunet import metrics
from tinyunet.data import UNKNOWN, ImageSet
from tinyunet.metrics.mistakes import BORDER, MISTAKES, find_class_mistakes, find_mistakes
from tinyunet.metrics.scores import (
    Prediction,
    Scored,
    score_image,
    score_images,
    summarise,
    with_few_maps,
    worst_first,
)

PIXELS = {"pixel_error", "mean_iou", "iou_0", "iou_1", "dice_0", "dice_1"}


def test_a_gap_in_a_membrane_is_a_merger():
    """One pixel joins two cells: it is the only one that warping cannot undo."""
    truth, classes = membranes(), membranes()
    classes[10, 5] = 1
    prediction = Prediction(np.eye(2, dtype=np.float32)[classes], None)
    _, (scores,) = summarise([score_image("gap", prediction, truth, "binary", 2)])
    assert scores.values["split_merge_error"] == scores.values["warping_error"] == 1 / truth.size
    assert scores.mistakes.counts == {
        "objects": 20, "missed": 0, "split": 0, "merged": 2, "added": 0, "border": 1,
    }  # fmt: skip


def test_an_empty_prediction_is_not_the_best_of_all_by_its_threshold():
    """At threshold 1 no prediction has splits or mergers; the measure must not be taken there."""
    truth = membranes()
    _, (scores,) = summarise([score_image("noise", Prediction(noisy(truth), None), truth, "binary", 2)])
    assert scores.values["split_merge_error"] > 0


def test_mistakes_are_marked_where_they_are():
    truth, objects = squares()
    kinds = find_mistakes(objects[0], truth[0]).kinds
    at = {"missed": (25, 45), "split": (5, 22), "merged": (25, 15), "added": (35, 53), "border": (2, 5)}
    assert {name: MISTAKES[kinds[y, x] - 1] for name, (y, x) in at.items()} == {name: name for name in at}
    assert kinds[5, 5] == 0  # found, but for its border
    assert kinds[35, 5] == 0  # background, rightly
    assert not find_mistakes(truth[0], truth[0]).kinds.any()


def test_mistakes_do_not_depend_on_the_numbers():
    truth, objects = squares()
    odd = np.where(objects[0] > 0, 60_000 - objects[0].astype(int) * 7, 0)
    one, other = find_mistakes(objects[0], truth[0]), find_mistakes(odd, truth[0] * 1000)
    assert one.counts == other.counts
    np.testing.assert_array_equal(one.kinds, other.kinds)


def test_half_an_object_is_not_more_than_half():
    """An object with exactly half in each of two true ones belongs to neither."""
    truth = np.repeat(np.array([[0, 1, 1, 2, 2, 0]]), 4, axis=0)
    across = np.repeat(np.array([[0, 0, 3, 3, 0, 0]]), 4, axis=0)
    counts = find_mistakes(across, truth).counts
    assert (counts["missed"], counts["added"], counts["merged"]) == (2, 1, 0)


def test_images_that_lack_the_highest_class():
    """Labels with two classes can be compared with a network that knows three."""
    truth = np.zeros((20, 20), int)
    truth[:, 10:] = 1
    prediction = Prediction(np.eye(3, dtype=np.float32)[truth], None)
    values = score_image("x", prediction, truth, "classes", 2).values
    assert (values["iou_2"], values["dice_2"], values["mean_iou"]) == (None, None, 1)


@pytest.mark.parametrize("distance", range(4))
def test_how_far_a_border_reaches(distance):
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 1
    classes = truth.copy()
    classes[10, 10 + distance] = 0
    counts = find_class_mistakes(classes, truth).counts
    assert (counts["border"], counts["missed"]) == ((1, 0) if distance < BORDER else (0, 1))


@pytest.mark.parametrize(("objects", "precision"), [(0, None), (1, 0.0)])
def test_no_objects(objects, precision):
    """With nothing to find, an empty prediction has no score, and any object is added and wrong."""
    found = np.zeros((20, 20), np.uint8)
    found[5:10, 5:10] = objects
    prediction = Prediction(np.eye(2, dtype=np.float32)[found], found)
    _, (scores,) = summarise([score_image("x", prediction, np.zeros((20, 20), int), "instances", 2)])
    assert (scores.values["seg"], scores.values["average_precision"]) == (None, precision)
    assert scores.mistakes.counts["added"] == objects


def as_prediction(classes, objects=None, num_classes=2):
    return Prediction(np.eye(num_classes, dtype=np.float32)[classes], objects)


def rare_lesions():
    """Ten images, two of which have a lesion."""
    truth = np.zeros((10, 64, 64), int)
    truth[3, 20:40, 20:40] = truth[7, 5:15, 30:50] = 1
    return truth


@pytest.mark.parametrize("kind", ["binary", "instances"])
def test_finding_nothing_scores_nothing(kind):
    truth, some = rare_lesions(), rare_lesions()
    some[~truth.any(axis=(1, 2)), 5, 5:8] = 1  # finds the lesions, and three false pixels in each empty image
    measured = {}
    for name, classes in (("nothing", np.zeros_like(truth)), ("some", some)):
        scores = [
            score_image(f"{i}", as_prediction(c, c), t, kind, 2)
            for i, (c, t) in enumerate(zip(classes, truth, strict=True))
        ]
        measured[name], completed = summarise(scores)
        oracle = jaccard_score(truth.ravel(), classes.ravel(), average=None)
        for number in (0, 1):
            assert measured[name][f"iou_{number}"].set_wide == oracle[number]
        assert measured[name]["mean_iou"].score == pytest.approx(oracle.mean(), rel=1e-12)
    nothing, some = measured["nothing"], measured["some"]
    for lesion in ("iou_1", "dice_1"):
        assert (nothing[lesion].set_wide, nothing[lesion].mean, nothing[lesion].images) == (0, 0, 2)
        assert some[lesion].images == 10
    for value in ("set_wide", "mean"):
        assert getattr(nothing["mean_iou"], value) < 0.5 < getattr(some["mean_iou"], value)
    if kind == "instances":
        for name in ("seg", "average_precision"):
            assert (nothing[name].set_wide, nothing[name].mean, nothing[name].images) == (0, 0, 2)
        assert (some["seg"].set_wide, some["seg"].images) == (1, 2)
        assert some["average_precision"].set_wide == pytest.approx(2 / 10, rel=1e-12)
        assert worst_first(completed, "average_precision")[-2:] == [3, 7]
    else:
        assert nothing["split_merge_error"].images == 2


def test_pixels_of_a_set_against_scikit_learn():
    """Label images of several sizes: unknown pixels, a rare class, one only predicted, and one nowhere."""
    rng = np.random.default_rng(3)
    truth = [rng.integers(0, 2, (20 + 7 * i, 30)) for i in range(4)]
    truth[2][3:9, 4:8] = 2
    classes = [np.where(rng.random(t.shape) < 0.2, rng.integers(0, 3, t.shape), t) for t in truth]
    classes[1][0, :5] = 3
    truth = [np.where(rng.random(t.shape) < 0.1, UNKNOWN, t) for t in truth]
    scores = [
        score_image(f"{i}", as_prediction(c, num_classes=5), t, "classes", 5)
        for i, (c, t) in enumerate(zip(classes, truth, strict=True))
    ]
    measures, completed = summarise(scores)
    labelled = [t != UNKNOWN for t in truth]
    pair = [
        np.concatenate([a[k] for a, k in zip(arrays, labelled, strict=True)]) for arrays in (truth, classes)
    ]
    for name, oracle in (("iou", jaccard_score), ("dice", f1_score)):
        for number, expected in enumerate(oracle(*pair, average=None, labels=range(4))):
            assert measures[f"{name}_{number}"].set_wide == pytest.approx(expected, rel=1e-12)
        nowhere = measures[f"{name}_4"]
        assert (nowhere.set_wide, nowhere.mean, nowhere.images, nowhere.score) == (None, None, 0, None)
    assert measures["mean_iou"].set_wide == pytest.approx(jaccard_score(*pair, average="macro"), rel=1e-12)
    assert measures["pixel_error"].set_wide == pytest.approx(np.mean(pair[0] != pair[1]), rel=1e-12)
    for image, c, t in zip(completed, classes, truth, strict=True):
        expected = jaccard_score(t[t != UNKNOWN], c[t != UNKNOWN], average="macro")
        assert image.values["mean_iou"] == pytest.approx(expected, rel=1e-12)
    assert measures["iou_2"].images == 4  # predicted in images that do not have it


def test_objects_of_a_set_against_stardist():
    """Objects found, added and missed are added up over the images."""
    truth, objects = squares()
    truth, objects = [*truth, np.zeros_like(truth[0])], [*objects, objects[0]]
    scores = [
        score_image(f"{i}", as_prediction((o > 0).astype(int), o), t, "instances", 2)
        for i, (o, t) in enumerate(zip(objects, truth, strict=True))
    ]
    measures, _ = summarise(scores)
    at = {
        threshold: matching_dataset(truth, objects, threshold, by_image=False, show_progress=False).accuracy
        for threshold in np.arange(50, 100, 5) / 100
    }
    for name, expected in (("_0.5", at[0.5]), ("_0.75", at[0.75]), ("", np.mean(list(at.values())))):
        assert measures[f"average_precision{name}"].set_wide == pytest.approx(expected, rel=1e-12)
    each = np.concatenate([metrics.seg_per_object(*pair) for pair in zip(objects, truth, strict=True)])
    assert measures["seg"].set_wide == each.mean()
    assert (measures["seg"].images, measures["average_precision"].images) == (2, 3)


def test_predictions_that_know_different_classes():
    """Files of class numbers show only the classes that an image has."""
    truth = np.zeros((8, 8), int)
    truth[:4] = 1
    other = np.where(truth == 1, 2, 0)
    scores = [score_image("a", as_prediction(truth), truth, "classes", 2)]
    scores += [score_image("b", as_prediction(other, num_classes=3), truth, "classes", 2)]
    for order in (scores, scores[::-1]):
        measures, completed = summarise(order)
        assert (measures["iou_1"].set_wide, measures["iou_2"].set_wide) == (0.5, 0)
        assert all(image.values.keys() == measures.keys() for image in completed)


def test_seg_of_a_cell_beside_unknown_pixels():
    """A predicted object that is mostly unknown covers the cell: SEG counts it, and nothing was missed."""
    labels, objects = np.zeros((60, 60), int), np.zeros((60, 60), int)
    labels[10:20, 10:20], labels[:, 20:] = 1, UNKNOWN
    objects[10:20, 10:45] = 7
    scores = score_image("x", as_prediction((objects > 0).astype(int), objects), labels, "instances", 2)
    assert round(scores.values["seg"], 4) == 0.2857
    assert scores.values["average_precision_0.5"] == 0
    assert (scores.mistakes.counts["missed"], scores.mistakes.counts["added"]) == (0, 0)


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_unknown_pixels_do_not_count(kind):
    """Per-pixel scores are those of the left half, whatever was predicted in the unknown right half."""
    truth, wrong = membranes((40, 50)).astype(np.int32), membranes((40, 50), 7)
    labels = np.where(np.arange(50) < 25, truth, UNKNOWN)
    probabilities = np.where(np.arange(50)[:, None] < 25, noisy(truth), noisy(wrong))
    half, whole = (
        score_image("x", Prediction(p, None), t, kind, 2)
        for p, t in ((probabilities[:, :25], truth[:, :25]), (probabilities, labels))
    )
    for name in PIXELS:
        assert whole.values[name] == pytest.approx(half.values[name], rel=1e-12)
    assert whole.mistakes.counts["border"] <= half.mistakes.counts["border"] + 40  # the half's own edge
    assert not whole.mistakes.kinds[:, 25:].any()
    other = score_image(
        "x", Prediction(np.where(labels[..., None] < 0, 0.5, probabilities), None), labels, kind, 2
    )
    assert other.values == whole.values
    for name, curve in whole.by_threshold.items():
        np.testing.assert_array_equal(curve, other.by_threshold[name])


def test_objects_in_unknown_pixels_are_neither_right_nor_wrong():
    """Average precision leaves out the objects that are unknown in more than half of their pixels."""
    truth, objects = squares()
    labels = truth[0].astype(np.int32)
    labels[30:, 45:] = UNKNOWN  # object 11, which is added there, lies in it
    labels[:, 58:] = UNKNOWN
    grown = objects[0].copy()
    grown[2:10, 50:60] = 12  # reaches into it, by less than half: stays, whole
    prediction = Prediction(np.eye(2, dtype=np.float32)[(grown > 0).astype(int)], grown)
    scores = score_image("x", prediction, labels, "instances", 2)
    judged = np.where(grown == 11, 0, grown)
    assert scores.values["seg"] == metrics.seg(judged, truth[0])
    assert scores.values["average_precision_0.5"] == matching(truth[0], judged, 0.5).accuracy
    assert scores.mistakes.counts["added"] == 0
    assert scores.mistakes.kinds[2:10, 50:58].all()
    assert not scores.mistakes.kinds[2:10, 58:].any()


def test_a_set_is_scored_one_image_after_the_other():
    """No prediction is made before the scores of the last one were taken."""
    labels = [membranes(), membranes(every=7)]
    images = ImageSet([np.zeros((40, 50, 1))] * 2, ["a", "b"], labels, "binary", 2)
    made = []

    def predictions():
        for number, label in enumerate(labels):
            made.append(number)
            yield Prediction(noisy(label), None, seconds=number + 1.0)

    scored = score_images(images, predictions())
    for number, name in enumerate(images.names):
        prediction, scores = next(scored)
        assert (made[-1], scores.name, prediction.seconds) == (number, name, number + 1)
        expected = score_image(name, prediction, labels[number], "binary", 2)
        assert scores.values == expected.values
    with pytest.raises(ValueError, match="shorter"):
        list(score_images(images, iter([Prediction(noisy(labels[0]), None)])))


def test_only_the_worst_and_the_best_images_keep_their_maps():
    """The maps of all images would fill the memory; no score depends on that."""
    truth = np.zeros((12, 12), np.uint8)
    truth[2:8, 2:8] = 1
    scored = []
    for number, wrong in enumerate([3, 1, 5, 0, 4, 2]):
        classes = truth.copy()
        classes[2 : 2 + wrong, 2:8] = 0
        prediction = Prediction(np.eye(2, dtype=np.float32)[classes], None)
        scored.append(Scored(prediction, score_image(str(number), prediction, truth, "classes", 2)))
    scores = with_few_maps(iter(scored), "classes", 2)
    assert [image.name for image in scores if image.mistakes.kinds.size] == ["1", "2", "3", "4"]
    assert worst_first(scores, "mean_iou")[:2] == [2, 4]
    assert [image.values for image in scores] == [one.scores.values for one in scored]
    assert not any(image.mistakes.kinds.size for image in with_few_maps(iter(scored), "classes", 0))
