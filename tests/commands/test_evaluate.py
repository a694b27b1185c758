"""python -m tinyunet.evaluate: the right measures of the right images, and their means."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from segmentations import membranes, noisy, squares
from skimage.measure import label as components
from sklearn.metrics import f1_score, jaccard_score
from stardist.matching import matching

from tinyunet import evaluate, metrics
from tinyunet.metrics.mistakes import MISTAKES, find_class_mistakes
from tinyunet.metrics.scores import THRESHOLDS_OF
from tinyunet.prediction.instances import label_instances

PIXELS = {"pixel_error", "mean_iou", "iou_0", "iou_1", "dice_0", "dice_1"}
SEGMENTS = {"rand_error", *THRESHOLDS_OF, "warping_error", "split_merge_error"}
OBJECTS = {"seg", "average_precision", "average_precision_0.5", "average_precision_0.75"}


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


def test_segments_are_those_of_the_challenge(tmp_path, scored):
    """V_Rand and V_Info use one threshold for a stack, as `metrics` does for the whole stack."""
    truth = {f"s{i}": membranes((40, 50), every) for i, every in enumerate((8, 10, 13))}
    probabilities = {name: noisy(label, i, 0.1 + 0.1 * i) for i, (name, label) in enumerate(truth.items())}
    record, _ = scored(
        write_predictions(tmp_path / "predicted", probabilities), write_labels(tmp_path / "labelled", truth)
    )
    stack = np.stack([p[..., 1] for p in probabilities.values()]), np.stack(list(truth.values()))
    for name, thresholds in THRESHOLDS_OF.items():
        measure = metrics.v_rand if name.startswith("v_rand") else metrics.v_info
        found = record["measures"][name]
        assert found["mean"] == pytest.approx(measure(*stack, thresholds=thresholds), rel=1e-12)
        chosen = [found["threshold"]]
        one_by_one = [measure(p, label, thresholds=chosen) for p, label in zip(*stack, strict=True)]
        assert [image["scores"][name] for image in record["images"]] == pytest.approx(one_by_one, rel=1e-12)
    for image in record["images"]:
        classes, label = probabilities[image["name"]].argmax(axis=2), truth[image["name"]]
        four_connected = [components(mask, connectivity=1) for mask in (classes, label)]
        expected = metrics.rand_error(*four_connected, singletons=True)
        assert image["scores"]["rand_error"] == pytest.approx(expected, rel=1e-12)
        assert image["scores"]["warping_error"] == metrics.warping_error(classes, label)


def test_names_the_threshold_at_which_the_objects_of_predict_are_right(tmp_path, scored):
    """A network that is sure: its membranes have a probability of 0.97, and of 0.5 here and there."""
    truth = membranes()
    inside = np.where(truth, 0.9999, np.where(np.indices(truth.shape).sum(axis=0) % 3, 0.97, 0.5))
    probabilities = {"sure": np.stack([1 - inside, inside], axis=-1).astype(np.float32)}
    record, out = scored(
        write_predictions(tmp_path / "predicted", probabilities),
        write_labels(tmp_path / "labelled", {"sure": truth}),
    )
    measures = record["measures"]
    assert measures["v_rand"]["mean"] < 0.5 < measures["v_rand_fine"]["mean"] == 1
    named = float(out.partition("--threshold ")[2].split()[0])
    assert named == measures["v_rand_fine"]["threshold"]
    objects = label_instances(probabilities["sure"], threshold=named, min_size=1, split_depth=None)
    np.testing.assert_array_equal(objects, components(truth, connectivity=1))


@pytest.fixture
def nuclei(tmp_path):
    """Two images of numbered squares; predicted moved, halved, joined and invented ones."""
    truth, objects = squares()
    found = {"a": objects[0], "b": objects[1]}
    probabilities = {name: np.eye(2, dtype=np.float32)[(o > 0).astype(int)] for name, o in found.items()}
    predicted = write_predictions(tmp_path / "predicted", probabilities, found)
    return truth, objects, predicted, write_labels(tmp_path / "labelled", {"a": truth[0], "b": truth[1]})


def test_objects_against_stardist(nuclei, scored):
    truth, objects, predicted, labels = nuclei
    record, out = scored(predicted, labels, "--kind", "instances")
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
    assert "of 11 objects: 1 missed, 1 split, 2 merged, 1 added; at borders 38 " in out


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
    assert "8 confused, 2 added, 8 missed; at borders 40 " in out
    kinds = find_class_mistakes(classes, truth).kinds
    at = {"border": (7, 5), "confused": (10, 9), "added": (28, 28), "missed": (20, 20)}
    assert {name: MISTAKES[kinds[y, x] - 1] for name, (y, x) in at.items()} == {name: name for name in at}


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


def test_objects_of_a_run_are_split_unless_switched_off(trained, command, monkeypatch):
    """As `predict` does with --split and --no-split; the effect is tested with the function."""
    depths = []

    def spy(probabilities, *, split_depth, **options):
        depths.append(split_depth)
        return np.zeros(probabilities.shape[:2], int)

    monkeypatch.setattr("tinyunet.prediction.segmentation.label_instances", spy)
    assert command("evaluate", trained)[0] == 0
    assert command("evaluate", trained, "--no-split")[0] == 0
    assert depths == [1.0, None]


def test_symmetries_of_a_run_are_those_of_predict(trained, scored, command, tmp_path):
    """With eight, a run gets the scores of `predict --symmetries 8`, not those of one."""
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
    """Measures of true segments have no value there; other measures have, and no mean is NaN."""
    truth = {"cells": membranes(), "none": np.zeros((40, 50), np.uint8)}
    predicted = write_predictions(tmp_path / "p", {name: noisy(label, 3) for name, label in truth.items()})
    record, _ = scored(predicted, write_labels(tmp_path / "l", truth))
    cells, none = (image["scores"] for image in record["images"])
    of_segments = {"rand_error", *THRESHOLDS_OF, "split_merge_error"}
    assert {name for name, value in none.items() if value is None} == of_segments
    for name in of_segments:
        measure = record["measures"][name]
        assert (measure["mean"], measure["images"], measure["worst"]) == (cells[name], 1, "cells")
    assert record["measures"]["pixel_error"]["images"] == 2


def test_a_set_without_any_cell(tmp_path, scored, refused):
    truth = {"none": np.zeros((40, 50), np.uint8)}
    predicted = write_predictions(tmp_path / "p", {"none": noisy(truth["none"])})
    labels = write_labels(tmp_path / "l", truth)
    assert "--kind" in refused("evaluate", predicted, labels)
    record, out = scored(predicted, labels, "--kind", "binary")
    assert record["measures"]["v_rand"]["mean"] is None
    assert "none has this value" in out
    assert "--threshold" not in out


def test_pictures_of_the_worst(binary, command, tmp_path):
    truth, _, predicted, labels = binary
    write_predictions(predicted, {"third": np.eye(2, dtype=np.float32)[1 - truth["third"]]})
    status, out, _ = command("evaluate", predicted, labels, "--out", tmp_path / "out", "--pictures", 1)
    assert status == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"scores.json", "third_errors.png"}
    assert np.asarray(Image.open(tmp_path / "out" / "third_errors.png")).std() > 20
    assert "wrote scores.json and 1 pictures" in out


def test_the_picture_of_a_tall_image_is_not_gigantic(command, trained, make_data, tmp_path):
    """At half the width of the picture it would be 75,000 pixels tall."""
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


def test_a_set_scores_as_scikit_learn_does_over_all_its_pixels(tmp_path, scored):
    """Three false pixels in each image without the lesion; and a constant answer, which finds nothing."""
    truth = {f"i{number}": np.zeros((32, 32 + number), np.uint8) for number in range(5)}
    truth["i3"][10:20, 10:20] = 1
    found = {name: label.copy() for name, label in truth.items()}
    for name in ("i0", "i1", "i2", "i4"):
        found[name][5, 5:8] = 1
    labels = write_labels(tmp_path / "l", truth)
    for name, classes in (("found", found), ("nothing", {name: 0 * label for name, label in truth.items()})):
        probabilities = {name: np.eye(2, dtype=np.float32)[c] for name, c in classes.items()}
        predicted = write_predictions(tmp_path / name, probabilities)
        record, out = scored(predicted, labels, "--kind", "binary", "--overwrite")
        pair = [np.concatenate([a.ravel() for a in arrays.values()]) for arrays in (truth, classes)]
        for measure, oracle in (("iou", jaccard_score), ("dice", f1_score)):
            expected = oracle(*pair, average=None)
            for number in (0, 1):
                set_wide = record["measures"][f"{measure}_{number}"]["set_wide"]
                assert set_wide == pytest.approx(expected[number], rel=1e-12)
                row = next(line for line in out.splitlines() if line.startswith(f"{measure}_{number} "))
                assert row.split()[2] == f"{expected[number]:.4f}"
        set_wide = record["measures"]["mean_iou"]["set_wide"]
        assert set_wide == pytest.approx(jaccard_score(*pair, average="macro"), rel=1e-12)
    assert record["measures"]["iou_1"]["images"] == 1


@pytest.mark.parametrize(("encoding", "signs"), [("ascii", "^v-"), ("cp1252", "^v–"), ("utf-8", "↑↓–")])
def test_the_table_in_an_encoding_without_arrows(tmp_path, encoding, signs):
    """As when Windows redirects the output to a file. A name that cannot be shown is escaped."""
    truth = {"zelle-λ": membranes()}
    predicted = write_predictions(tmp_path / "p", {name: noisy(label) for name, label in truth.items()})
    labels = write_labels(tmp_path / "l", truth)
    command = [
        sys.executable,
        "-m",
        "tinyunet.evaluate",
        predicted,
        labels,
        "--kind",
        "binary",
        "--out",
        "scores",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode(encoding)
    for sign in signs:
        assert sign in out
    assert ("zelle-λ" if encoding == "utf-8" else r"zelle-\u03bb") in out
    assert (tmp_path / "scores" / "scores.json").is_file()


def test_results_are_on_disk_before_anything_is_printed(binary, tmp_path, monkeypatch):
    """A reader that goes away, as `head` does, costs the table but no file."""

    class ClosedPipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    _, _, predicted, labels = binary
    monkeypatch.setattr("sys.stdout", ClosedPipe())
    with pytest.raises(SystemExit):
        evaluate.main([str(predicted), str(labels), "--out", str(tmp_path / "out"), "--pictures", "1"])
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_picture_that_cannot_be_written_does_not_cost_the_table(binary, command, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _, _, predicted, labels = binary
    monkeypatch.setattr("tinyunet.reporting.plots.plot_mistakes", full)
    status, out, message = command("evaluate", predicted, labels, "--out", tmp_path / "out")
    assert status == 2
    assert "No space left" in message
    assert "v_rand" in out


def test_overwritten_only_when_asked(binary, refused, command, tmp_path):
    _, _, predicted, labels = binary
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "nothing was overwritten" in refused("evaluate", predicted, labels, "--out", tmp_path / "out")
    arguments = (predicted, labels, "--out", tmp_path / "out", "--overwrite", "--pictures", "0")
    assert command("evaluate", *arguments)[0] == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_images_without_nuclei(tmp_path, scored, command):
    """They have no SEG, and an average precision of 0 only if something was predicted."""
    truth = {name: np.zeros((30, 30), np.uint16) for name in ("empty", "found", "lost")}
    truth["lost"][5:12, 5:12] = 1
    objects = {name: np.zeros((30, 30), np.uint16) for name in truth}
    objects["found"][5:12, 5:12] = 1
    predicted = write_predictions(
        tmp_path / "p", {n: np.eye(2, dtype=np.float32)[o] for n, o in objects.items()}, objects
    )
    record, _ = scored(predicted, write_labels(tmp_path / "l", truth), "--kind", "instances")
    scores = {image["name"]: image["scores"] for image in record["images"]}
    for name, values in (("empty", (None, None)), ("found", (None, 0)), ("lost", (0, 0))):
        assert (scores[name]["seg"], scores[name]["average_precision"]) == values
    assert record["seg_over_objects"] == record["measures"]["seg"]["set_wide"] == 0
    assert record["mistakes"]["added"] == 1
    del truth["lost"], objects["lost"]
    (tmp_path / "p" / "lost_probabilities.tif").unlink()
    (tmp_path / "p" / "lost_instances.tif").unlink()
    labels = write_labels(tmp_path / "none", truth)
    record, out = scored(predicted, labels, "--kind", "instances", "--overwrite")
    assert record["seg_over_objects"] is None
    assert "SEG over the objects" not in out
    status, out, _ = command(
        "evaluate", tmp_path / "p", labels, "--kind", "instances", "--out", tmp_path / "pictures"
    )
    assert status == 0
    assert "wrote scores.json and 1 pictures" in out  # of the image that has a score


def test_more_objects_than_16_bits_number(tmp_path, scored):
    """Labels and predictions may be 32-bit files."""
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
    for text in ("classes  3", "NAME_classes.png"):
        assert text in message


# How the folder of predictions is spoiled, and what the message must contain.
BAD = {
    "one image is not predicted": (
        lambda folder: (folder / "third_probabilities.tif").unlink(),
        ["1: third"],
    ),
    "one prediction too many": (
        lambda folder: (folder / "fourth_instances.tif").write_bytes(b""),
        ["1: fourth"],
    ),
    "other size": (
        lambda folder: write_predictions(folder, {"first": noisy(np.ones((31, 40)))}),
        ["first", "(31, 40, 2)", "(30, 40)"],
    ),
    "other classes": (
        lambda folder: write_predictions(folder, {"first": np.full((30, 40, 3), 1 / 3, np.float32)}),
        ["3 classes", "2 classes (binary)", "--kind"],
    ),
    "scores in place of probabilities": (
        lambda folder: write_predictions(folder, {"first": noisy(np.ones((30, 40))) * 9}),
        ["first"],
    ),
    "NaN": (
        lambda folder: write_predictions(folder, {"first": np.full((30, 40, 2), np.nan, np.float32)}),
        ["first", "nan"],
    ),
    "damaged": (
        lambda folder: (folder / "first_probabilities.tif").write_bytes(b"II*\0nothing"),
        ["first_probabilities.tif"],
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
    assert "(9, 9)" in refused("evaluate", predicted, labels, "--kind", "instances")
    tifffile.imwrite(predicted / "a_instances.tif", np.ones((40, 60), np.float32))
    assert "float32" in refused("evaluate", predicted, labels, "--kind", "instances")
    (predicted / "a_instances.tif").unlink()
    assert "a_instances.tif" in refused("evaluate", predicted, labels, "--kind", "instances")


def test_folders_that_are_something_else(binary, trained, refused, tmp_path):
    _, _, predicted, labels = binary
    assert "second argument" in refused("evaluate", predicted)
    assert "NAME_probabilities.tif" in refused("evaluate", trained, labels)
    assert "NAME_probabilities.tif" in refused("evaluate", labels, labels)
    assert "best.safetensors" in refused("evaluate", labels)
    assert "nowhere" in refused("evaluate", tmp_path / "nowhere")
    for options in (("--symmetries", 8), ("--no-split",)):
        assert "--symmetries" in refused("evaluate", predicted, labels, *options)
    assert "pictures is -1" in refused("evaluate", predicted, labels, "--pictures", "-1")


@pytest.mark.skipif(os.name == "nt", reason="Windows takes no paths of this length")
def test_results_below_many_folders(command, trained, tmp_path):
    deep = Path("/".join("a" * 1900))
    status, _, message = command("evaluate", trained, "--out", deep)
    assert status == 0, message
    assert (deep / "scores.json").is_file()
    for file in deep.iterdir():
        file.unlink()
    for folder in [deep, *deep.parents][:-1]:  # shutil.rmtree recurses, too
        folder.rmdir()
