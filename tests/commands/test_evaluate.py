"""python -m tinyunet.evaluate: the right measures, of the right images, and their means."""

import json
import math

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.measure import label as components
from sklearn.metrics import f1_score, jaccard_score
from stardist.matching import matching

from tinyunet import metrics
from tinyunet.data import UNKNOWN
from tinyunet.metrics.mistakes import BORDER, MISTAKES, find_class_mistakes, find_mistakes
from tinyunet.metrics.scores import Prediction, score_image, summarise

PIXELS = {"pixel_error", "mean_iou", "iou_0", "iou_1", "dice_0", "dice_1"}
SEGMENTS = {"rand_error", "v_rand", "v_info", "warping_error", "split_merge_error"}
OBJECTS = {"seg", "average_precision", "average_precision_0.5", "average_precision_0.75"}


def membranes(shape=(40, 50), every=10):
    """Square cells, 1, between lines of membrane, 0."""
    y, x = np.indices(shape)
    return ((y % every > 0) & (x % every > 0)).astype(np.uint8)


def noisy(labels, seed=0, noise=0.45):
    """Probabilities of two classes that follow the labels, more or less."""
    rng = np.random.default_rng(seed)
    inside = np.clip(0.15 + 0.7 * (labels > 0) + rng.normal(0, noise, labels.shape), 0, 1).astype(np.float32)
    return np.stack([1 - inside, inside], axis=-1)


def write_labels(folder, labels):
    """An image set of these labels, by name; the images are dark noise."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name, label in labels.items():
        Image.fromarray(rng.integers(0, 50, label.shape).astype(np.uint8)).save(
            folder / "images" / f"{name}.png"
        )
        tifffile.imwrite(folder / "labels" / f"{name}.tif", label.astype(np.uint16))
    return folder


def write_predictions(folder, probabilities, objects=None):
    folder.mkdir(exist_ok=True)
    for name, array in probabilities.items():
        pages = np.moveaxis(array, 2, 0)
        tifffile.imwrite(folder / f"{name}_probabilities.tif", pages, photometric="minisblack")
    for name, array in (objects or {}).items():
        tifffile.imwrite(folder / f"{name}_instances.tif", array.astype(np.uint16))
    return folder


@pytest.fixture
def binary(tmp_path):
    """Three images of different sizes: truth, probabilities, and where both lie as files."""
    truth = {name: membranes((30 + 10 * i, 40)) for i, name in enumerate(("first", "second_one", "third"))}
    probabilities = {name: noisy(label, i) for i, (name, label) in enumerate(truth.items())}
    labels = write_labels(tmp_path / "labelled", truth)
    return truth, probabilities, write_predictions(tmp_path / "predicted", probabilities), labels


@pytest.fixture
def scored(command, tmp_path):
    """Evaluate and read scores.json, in which NaN is no number."""

    def run(*arguments):
        status, out, message = command(
            "evaluate", *arguments, "--out", tmp_path / "scores", "--pictures", "0"
        )
        assert status == 0, message

        def refuse(constant):
            raise AssertionError(f"scores.json holds {constant}")

        return json.loads((tmp_path / "scores" / "scores.json").read_text(), parse_constant=refuse), out

    return run


def test_pixels_of_binary_labels_against_scikit_learn(binary, scored):
    truth, probabilities, predicted, labels = binary
    record, _ = scored(predicted, labels)
    assert record["measures"].keys() == PIXELS | SEGMENTS
    assert [image["name"] for image in record["images"]] == list(truth)
    for image in record["images"]:
        pair = truth[image["name"]].ravel(), probabilities[image["name"]].argmax(axis=2).ravel()
        scores = image["scores"]
        assert scores["pixel_error"] == np.mean(pair[0] != pair[1])
        for c in (0, 1):
            assert scores[f"iou_{c}"] == pytest.approx(jaccard_score(*pair, pos_label=c), rel=1e-12)
            assert scores[f"dice_{c}"] == pytest.approx(f1_score(*pair, pos_label=c), rel=1e-12)
        assert scores["mean_iou"] == pytest.approx(jaccard_score(*pair, average="macro"), rel=1e-12)


def test_every_image_counts_the_same_whatever_its_size(binary, scored):
    _, _, predicted, labels = binary
    record, out = scored(predicted, labels)
    for name, measure in record["measures"].items():
        values = [image["scores"][name] for image in record["images"]]
        assert measure["mean"] == pytest.approx(sum(values) / 3, rel=1e-12)
        assert measure["spread"] == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-12)
        worst = max if name.endswith("error") else min
        assert dict(zip(("first", "second_one", "third"), values, strict=True))[measure["worst"]] == worst(
            values
        )
        assert name in out


def test_segments_are_the_challenges(tmp_path, scored):
    """V_Rand and V_Info of a stack at one threshold for all, as `metrics` has them of the whole stack."""
    truth = {f"s{i}": membranes((40, 50), every) for i, every in enumerate((8, 10, 13))}
    probabilities = {name: noisy(label, i, 0.1 + 0.1 * i) for i, (name, label) in enumerate(truth.items())}
    record, _ = scored(
        write_predictions(tmp_path / "predicted", probabilities), write_labels(tmp_path / "labelled", truth)
    )
    stack = np.stack([p[..., 1] for p in probabilities.values()]), np.stack(list(truth.values()))
    for name, measure in (("v_rand", metrics.v_rand), ("v_info", metrics.v_info)):
        found = record["measures"][name]
        assert found["mean"] == pytest.approx(measure(*stack), rel=1e-12)
        at = [found["threshold"]]
        one_by_one = [measure(p, label, thresholds=at) for p, label in zip(*stack, strict=True)]
        assert [image["scores"][name] for image in record["images"]] == pytest.approx(one_by_one, rel=1e-12)
    for image in record["images"]:
        classes, label = probabilities[image["name"]].argmax(axis=2), truth[image["name"]]
        four_connected = [components(mask, connectivity=1) for mask in (classes, label)]
        expected = metrics.rand_error(*four_connected, singletons=True)
        assert image["scores"]["rand_error"] == pytest.approx(expected, rel=1e-12)
        assert image["scores"]["warping_error"] == metrics.warping_error(classes, label)


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


@pytest.fixture
def nuclei(tmp_path):
    """Two images of numbered squares; predicted moved, halved, joined and invented ones."""
    truth = np.zeros((2, 40, 60), np.uint16)
    for number, (y, x) in enumerate([(2, 2), (2, 20), (2, 40), (20, 2), (20, 12), (20, 40)], 1):
        truth[:, y : y + 10, x : x + 10] = number
    truth[1][truth[1] == 6] = 0  # as many objects in both would be classes
    objects = np.zeros_like(truth)
    objects[0, 3:12, 2:12], objects[0, 2:12, 20:25], objects[0, 2:12, 25:30] = 7, 8, 9
    objects[0, 20:30, 2:22], objects[0, 32:38, 50:56], objects[0, 2:10, 41:50] = 10, 11, 12
    objects[1] = truth[1]
    found = {"a": objects[0], "b": objects[1]}
    probabilities = {name: np.eye(2, dtype=np.float32)[(o > 0).astype(int)] for name, o in found.items()}
    predicted = write_predictions(tmp_path / "predicted", probabilities, found)
    return truth, objects, predicted, write_labels(tmp_path / "labelled", {"a": truth[0], "b": truth[1]})


def test_objects_against_stardist(nuclei, scored):
    truth, objects, predicted, labels = nuclei
    record, out = scored(predicted, labels)
    assert record["kind"] == "instances"
    assert record["measures"].keys() == PIXELS | OBJECTS
    for i, image in enumerate(record["images"]):
        at = {t: matching(truth[i], objects[i], t).accuracy for t in np.arange(50, 100, 5) / 100}
        scores = image["scores"]
        assert scores["average_precision_0.5"] == pytest.approx(at[0.5], rel=1e-12)
        assert scores["average_precision_0.75"] == pytest.approx(at[0.75], rel=1e-12)
        assert scores["average_precision"] == pytest.approx(np.mean(list(at.values())), rel=1e-12)
        assert scores["seg"] == metrics.seg(objects[i], truth[i])
    assert record["images"][1]["scores"]["seg"] == 1
    assert record["mistakes"] == {
        "objects": 11,
        "missed": 1,
        "split": 1,
        "merged": 2,
        "added": 1,
        "border": 38,
    }
    assert "of 11 objects: 1 missed, 1 split, 2 merged, 1 added; at borders 38 wrong pixels" in out


def test_mistakes_are_painted_where_they_are(nuclei):
    truth, objects, _, _ = nuclei
    kinds = find_mistakes(objects[0], truth[0]).kinds
    at = {"missed": (25, 45), "split": (5, 22), "merged": (25, 15), "added": (35, 53), "border": (2, 5)}
    assert {name: MISTAKES[kinds[y, x] - 1] for name, (y, x) in at.items()} == {name: name for name in at}
    assert kinds[5, 5] == 0  # found, but for its border
    assert kinds[35, 5] == 0  # background, rightly
    assert not find_mistakes(truth[0], truth[0]).kinds.any()


def test_mistakes_do_not_depend_on_the_numbers(nuclei):
    truth, objects, _, _ = nuclei
    odd = np.where(objects[0] > 0, 60_000 - objects[0].astype(int) * 7, 0)
    one, other = find_mistakes(objects[0], truth[0]), find_mistakes(odd, truth[0] * 1000)
    assert one.counts == other.counts
    np.testing.assert_array_equal(one.kinds, other.kinds)


def test_half_an_object_is_not_more_than_half():
    """Exactly half of it in each: a predicted object across two true ones belongs to neither."""
    truth = np.repeat(np.array([[0, 1, 1, 2, 2, 0]]), 4, axis=0)
    across = np.repeat(np.array([[0, 0, 3, 3, 0, 0]]), 4, axis=0)
    counts = find_mistakes(across, truth).counts
    assert (counts["missed"], counts["added"], counts["merged"]) == (2, 1, 0)


def test_three_classes(tmp_path, scored):
    truth = np.zeros((30, 30), np.uint8)
    truth[5:25, 5:15], truth[5:25, 15:25] = 1, 2
    classes = truth.copy()
    classes[5:25, 5] = 0  # at the border
    classes[10:12, 9:11] = 2  # inside
    classes[20:22, 20:22] = 0
    classes[28, 28] = 1
    truth_of = {"a": truth, "b": truth}
    predicted = write_predictions(
        tmp_path / "predicted", {name: np.eye(3, dtype=np.float32)[classes] for name in truth_of}
    )
    record, out = scored(predicted, write_labels(tmp_path / "labelled", truth_of), "--kind", "classes")
    assert record["measures"].keys() == PIXELS | {"iou_2", "dice_2"}
    assert record["mistakes"] == {"border": 40, "confused": 8, "added": 2, "missed": 8}
    assert "wrong pixels inside and outside: 8 confused, 2 added, 8 missed; at borders 40 wrong pixels" in out
    kinds = find_class_mistakes(classes, truth).kinds
    at = {"border": (7, 5), "confused": (10, 9), "added": (28, 28), "missed": (20, 20)}
    assert {name: MISTAKES[kinds[y, x] - 1] for name, (y, x) in at.items()} == {name: name for name in at}


def test_images_that_lack_the_highest_class():
    """Two classes are labelled here, the network knows three: it is right to compare."""
    truth = np.zeros((20, 20), int)
    truth[:, 10:] = 1
    prediction = Prediction(np.eye(3, dtype=np.float32)[truth], None)
    assert score_image("x", prediction, truth, "classes", 2).values["iou_2"] == 1


@pytest.mark.parametrize("distance", range(4))
def test_how_far_a_border_reaches(distance):
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 1
    classes = truth.copy()
    classes[10, 10 + distance] = 0
    counts = find_class_mistakes(classes, truth).counts
    assert (counts["border"], counts["missed"]) == ((1, 0) if distance < BORDER else (0, 1))


def test_a_run_scores_what_its_training_saw(trained, scored):
    best = max(
        (json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines() if "mean_iou" in line),
        key=lambda record: record["mean_iou"],
    )
    record, out = scored(trained)
    assert record["measures"]["mean_iou"]["mean"] == pytest.approx(best["mean_iou"], rel=1e-6)
    assert record["measures"]["pixel_error"]["mean"] == pytest.approx(best["pixel_error"], rel=1e-6)
    assert [image["name"] for image in record["images"]] == ["1"]
    assert record["measures"]["mean_iou"]["spread"] is None
    assert f"network of step {best['step']} on 1 held-out image" in out


def test_a_run_and_its_predictions_score_the_same(trained, command, scored, tmp_path):
    data = _held_out(trained)
    command("predict", trained, data / "images", "--out", tmp_path / "predicted", "--tile", 16)
    record, _ = scored(tmp_path / "predicted", data)
    status, _, _ = command("evaluate", trained, "--out", tmp_path / "of_run", "--pictures", 0)
    of_run = json.loads((tmp_path / "of_run" / "scores.json").read_text())
    assert status == 0
    assert record["images"] == of_run["images"]


def test_objects_of_a_run_are_cut_unless_told(trained, command, monkeypatch):
    """As `predict` does with --split and --no-split; what that does is tested with the function."""
    depths = []

    def spy(probabilities, *, split_depth):
        depths.append(split_depth)
        return np.zeros(probabilities.shape[:2], int)

    monkeypatch.setattr("tinyunet.training.stored_run.label_instances", spy)
    assert command("evaluate", trained)[0] == 0
    assert command("evaluate", trained, "--no-split")[0] == 0
    assert depths == [1.0, None]


def test_symmetries_of_a_run_are_those_of_predict(trained, scored, command, tmp_path):
    """Averaged over eight, a run scores what `predict --symmetries 8` does, and not what one gives."""
    data = _held_out(trained)
    command("predict", trained, data / "images", "--out", tmp_path / "predicted", "--symmetries", 8)
    of_run, _ = scored(trained, "--symmetries", 8)
    of_folder, _ = scored(tmp_path / "predicted", data, "--overwrite")
    of_one, _ = scored(trained, "--overwrite")
    assert of_run["images"] == of_folder["images"] != of_one["images"]


def _held_out(run):
    """The image that a run held out, as a set of its own."""
    folder = run.parent / "held_out"
    source = json.loads((run / "config.json").read_text())["data"]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        pixels = np.asarray(Image.open(f"{source}/{part}/1.png"))
        Image.fromarray(pixels).save(folder / part / "1.png")
    return folder


def test_classes_or_objects_alone_are_probabilities_of_0_and_1(binary, scored, command, tmp_path):
    _, probabilities, _, labels = binary
    sharp = {name: np.eye(2, dtype=np.float32)[p.argmax(axis=2)] for name, p in probabilities.items()}
    expected, _ = scored(write_predictions(tmp_path / "sharp", sharp), labels)
    for part, ending in (("classes", "png"), ("instances", "tif")):
        folder = tmp_path / part
        folder.mkdir()
        for name, array in sharp.items():
            file = folder / f"{name}_{part}.{ending}"
            if ending == "png":
                Image.fromarray(array.argmax(axis=2).astype(np.uint8)).save(file)
            else:
                tifffile.imwrite(file, components(array.argmax(axis=2)).astype(np.uint16))
        command("evaluate", folder, labels, "--out", tmp_path / f"{part}_scores", "--pictures", 0)
        found = json.loads((tmp_path / f"{part}_scores" / "scores.json").read_text())
        assert found["images"] == expected["images"], part


def test_ground_truth_without_any_cell(tmp_path, scored):
    """Rand and information measures have no value there; the others have, and no mean is NaN."""
    truth = {"cells": membranes(), "none": np.zeros((40, 50), np.uint8)}
    predicted = write_predictions(tmp_path / "p", {name: noisy(label, 3) for name, label in truth.items()})
    record, _ = scored(predicted, write_labels(tmp_path / "l", truth))
    cells, none = (image["scores"] for image in record["images"])
    assert {name for name, value in none.items() if value is None} == {"rand_error", "v_rand", "v_info"}
    for name in ("rand_error", "v_rand", "v_info"):
        measure = record["measures"][name]
        assert (measure["mean"], measure["images"], measure["worst"]) == (cells[name], 1, "cells")
    assert record["measures"]["pixel_error"]["images"] == 2


def test_a_set_without_any_cell(tmp_path, scored, refused):
    truth = {"none": np.zeros((40, 50), np.uint8)}
    predicted = write_predictions(tmp_path / "p", {"none": noisy(truth["none"])})
    labels = write_labels(tmp_path / "l", truth)
    assert "nothing to learn or to judge" in refused("evaluate", predicted, labels)
    record, out = scored(predicted, labels, "--kind", "binary")
    assert record["measures"]["v_rand"]["mean"] is None
    assert "none has this value" in out


@pytest.mark.parametrize(("objects", "score"), [(0, 1.0), (1, 0.0)])
def test_no_objects(objects, score):
    """Nothing to find: found nothing is perfect, found something is not."""
    found = np.zeros((20, 20), np.uint8)
    found[5:10, 5:10] = objects
    prediction = Prediction(np.eye(2, dtype=np.float32)[found], found)
    _, (scores,) = summarise([score_image("x", prediction, np.zeros((20, 20), int), "instances", 2)])
    assert scores.values["seg"] == scores.values["average_precision"] == score
    assert scores.mistakes.counts["added"] == objects
    assert all(value is not None and math.isfinite(value) for value in scores.values.values())


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_unknown_pixels_do_not_count(kind):
    """The left half alone has the same scores of pixels, whatever was predicted in the unknown right half."""
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


def test_objects_in_unknown_pixels_are_neither_right_nor_wrong(nuclei):
    """Without the objects of which more than half is unknown, it is SEG and average precision as before."""
    truth, objects, _, _ = nuclei
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


def test_pictures_of_the_worst(binary, command, tmp_path):
    truth, _, predicted, labels = binary
    write_predictions(predicted, {"third": np.eye(2, dtype=np.float32)[1 - truth["third"]]})
    status, out, _ = command("evaluate", predicted, labels, "--out", tmp_path / "out", "--pictures", 1)
    assert status == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"scores.json", "third_errors.png"}
    assert np.asarray(Image.open(tmp_path / "out" / "third_errors.png")).std() > 20
    assert "wrote scores.json and 1 pictures" in out


def test_the_picture_of_a_tall_image_is_not_gigantic(command, trained, make_data, tmp_path):
    """Half as wide as the picture, this one would be 75,000 pixels tall."""
    tall = make_data("tall", n=1, shape=(1000, 8))
    assert command("predict", trained, tall, "--out", "predicted")[0] == 0
    status, _, message = command("evaluate", "predicted", tall, "--kind", "binary", "--out", "scores")
    assert status == 0, message
    with Image.open(tmp_path / "scores" / "0_errors.png") as picture:
        assert picture.height < 3000


def test_the_table_needs_no_folder(binary, command, tmp_path):
    _, _, predicted, labels = binary
    before = set(tmp_path.iterdir())
    status, out, _ = command("evaluate", predicted, labels)
    assert status == 0
    assert "v_rand" in out
    assert set(tmp_path.iterdir()) == before


def test_not_overwritten_unless_told(binary, refused, command, tmp_path):
    _, _, predicted, labels = binary
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "nothing was overwritten" in refused("evaluate", predicted, labels, "--out", tmp_path / "out")
    arguments = (predicted, labels, "--out", tmp_path / "out", "--overwrite", "--pictures", "0")
    assert command("evaluate", *arguments)[0] == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_nuclei_of_which_there_are_none(tmp_path, scored):
    """Where nothing is labelled: right if nothing was predicted, wrong if something was. Never NaN."""
    truth = {name: np.zeros((30, 30), np.uint16) for name in ("empty", "found", "lost")}
    truth["lost"][5:12, 5:12] = 1
    objects = {name: np.zeros((30, 30), np.uint16) for name in truth}
    objects["found"][5:12, 5:12] = 1
    predicted = write_predictions(
        tmp_path / "p", {n: np.eye(2, dtype=np.float32)[o] for n, o in objects.items()}, objects
    )
    record, _ = scored(predicted, write_labels(tmp_path / "l", truth), "--kind", "instances")
    scores = {image["name"]: image["scores"] for image in record["images"]}
    for name, value in (("empty", 1), ("found", 0), ("lost", 0)):
        assert scores[name]["seg"] == scores[name]["average_precision"] == value
    assert record["seg_over_objects"] == 0
    del truth["lost"], objects["lost"]
    (tmp_path / "p" / "lost_probabilities.tif").unlink()
    (tmp_path / "p" / "lost_instances.tif").unlink()
    labels = write_labels(tmp_path / "none", truth)
    record, out = scored(predicted, labels, "--kind", "instances", "--overwrite")
    assert record["seg_over_objects"] is None
    assert "SEG over the objects" not in out


def test_more_objects_than_16_bits_number(tmp_path, scored):
    """In 32-bit files, of labels and of predictions."""
    numbers = np.arange(1, 70_001, dtype=np.uint32).reshape(200, 350)
    folder = write_labels(tmp_path / "labelled", {"many": numbers})
    tifffile.imwrite(folder / "labels" / "many.tif", numbers)
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    tifffile.imwrite(predicted / "many_instances.tif", numbers[::-1])
    record, _ = scored(predicted, folder)
    assert record["measures"]["seg"]["mean"] == record["measures"]["average_precision"]["mean"] == 1
    assert record["mistakes"]["objects"] == 70_000


def test_objects_alone_are_not_three_classes(tmp_path, refused):
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:10], truth[5:15, 10:15] = 1, 2
    labels = write_labels(tmp_path / "labelled", {"a": truth})
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    tifffile.imwrite(predicted / "a_instances.tif", (truth > 0).astype(np.uint16))
    message = refused("evaluate", predicted, labels, "--kind", "classes")
    for text in ("labels are of several classes", "classes  3", "objects only", "NAME_classes.png"):
        assert text in message


# What is done to the folder of predictions, and what the message must say.
BAD = {
    "one image is not predicted": (
        lambda folder: (folder / "third_probabilities.tif").unlink(),
        ["not the same images", "1: third"],
    ),
    "one prediction too many": (
        lambda folder: (folder / "fourth_instances.tif").write_bytes(b""),
        ["not the same images", "1: fourth"],
    ),
    "other size": (
        lambda folder: write_predictions(folder, {"first": noisy(np.ones((31, 40)))}),
        ["first: the prediction and the labels differ in size", "(31, 40, 2)", "(30, 40)"],
    ),
    "other classes": (
        lambda folder: write_predictions(folder, {"first": np.full((30, 40, 3), 1 / 3, np.float32)}),
        ["3 classes", "2 classes (binary)", "--kind"],
    ),
    "scores in place of probabilities": (
        lambda folder: write_predictions(folder, {"first": noisy(np.ones((30, 40))) * 9}),
        ["first: probabilities run from 0 to 1, found"],
    ),
    "NaN": (
        lambda folder: write_predictions(folder, {"first": np.full((30, 40, 2), np.nan, np.float32)}),
        ["first: probabilities run from 0 to 1, found nan"],
    ),
    "damaged": (
        lambda folder: (folder / "first_probabilities.tif").write_bytes(b"II*\0nothing"),
        ["first_probabilities.tif", "damaged"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions(name, binary, refused):
    _, _, predicted, labels = binary
    change, expected = BAD[name]
    change(predicted)
    message = refused("evaluate", predicted, labels)
    for text in expected:
        assert text in message


def test_objects_of_another_size_or_none(nuclei, refused):
    _, _, predicted, labels = nuclei
    tifffile.imwrite(predicted / "a_instances.tif", np.ones((9, 9), np.uint16))
    assert "(9, 9)" in refused("evaluate", predicted, labels)
    tifffile.imwrite(predicted / "a_instances.tif", np.ones((40, 60), np.float32))
    assert "whole numbers" in refused("evaluate", predicted, labels)
    (predicted / "a_instances.tif").unlink()
    assert "a_instances.tif" in refused("evaluate", predicted, labels)


def test_folders_that_are_something_else(binary, trained, refused, tmp_path):
    _, _, predicted, labels = binary
    assert "no labels to compare" in refused("evaluate", predicted)
    assert "not a folder of predictions" in refused("evaluate", trained, labels)
    assert "not a folder of predictions" in refused("evaluate", labels, labels)
    assert "no such checkpoint" in refused("evaluate", labels)
    assert "no such checkpoint" in refused("evaluate", tmp_path / "nowhere")
    for options in (("--symmetries", 8), ("--no-split",)):
        assert "compared as it was predicted" in refused("evaluate", predicted, labels, *options)
    assert "pictures is -1" in refused("evaluate", predicted, labels, "--pictures", "-1")
