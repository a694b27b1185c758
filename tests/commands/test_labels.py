"""What label files mean reaches every command: their numbers and colours, unknown pixels, the layout."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint

SMALL = [
    "--base-channels", "2", "--depth", "1", "--tile", "20", "--steps", "2", "--validate-every", "2",
    "--holdout", "1", "--schedule", "constant",
]  # fmt: skip
DOCTOR = ["--tile", "20", "--depth", "1", "--holdout", "1", "--overwrite"]


def write_set(folder, images, labels):
    """`folder` with images/ and labels/ of PNG, or of TIFF where 8 bits do not suffice."""
    for part, arrays in {"images": images, "labels": labels}.items():
        (folder / part).mkdir(parents=True)
        for number, array in enumerate(arrays):
            if array.dtype == np.uint8:
                Image.fromarray(array).save(folder / part / f"{number}.png")
            else:
                tifffile.imwrite(folder / part / f"{number}.tif", array)
    return folder


def numbered_set(folder, values, seed=0, number_of_images=3):
    """Images of bands in noise, and labels in which band k has the k-th value; a colour is a triple."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for n in range(number_of_images):
        rows = np.array_split(np.roll(np.arange(40), 7 * n), 2 * len(values))
        band = np.zeros(40, int)
        for k, part in enumerate(rows):
            band[part] = k % len(values)
        classes = np.repeat(band[:, None], 36, axis=1)
        images.append((40 * classes + rng.normal(60, 10, classes.shape)).clip(0, 255).astype(np.uint8))
        labels.append(np.array(values)[classes])
    dtype = np.uint8 if np.max(values) <= 255 else np.uint32
    return write_set(folder, images, [label.astype(dtype) for label in labels])


GREY = (0, 128, 255)
HIGH = (0, 7, 70_000)
COLOURS = ((0, 0, 0), (0, 255, 0), (255, 0, 0))
TABLES = {  # the values, the files that hold them, and their names in what is printed
    "grey": (GREY, "classes.png", "0, 128, 255"),
    "high": (HIGH, "classes.tif", "0, 7, 70000"),
    "colours": (COLOURS, "classes.png", "#000000, #00ff00, #ff0000"),
    "coloured mask": (((0, 0, 0), (0, 255, 0)), "classes.png", "#000000, #00ff00"),
    "mask": ((0, 255), "classes.png", "0, 255"),
    "mask without 0": ((1, 2), "classes.png", "1, 2"),
    "high mask": ((0, 1000), "classes.tif", "0, 1000"),
}


def pixels_of(file):
    return tifffile.imread(file) if file.suffix == ".tif" else np.asarray(Image.open(file))


@pytest.mark.parametrize("name", TABLES)
def test_numbers_and_colours_of_the_files_come_back(command, tmp_path, name):
    """Every command states them, class maps have them, and evaluate reads these as it reads probabilities."""
    values, suffix, stated = TABLES[name]
    data = numbered_set(tmp_path / "data", values)
    kind = () if "mask" in name else ("--kind", "classes")
    status, out, message = command("train", "--data", data, "--out", "run", *kind, *SMALL)
    assert (status, stated in out) == (0, True), out + message
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").classes["coloured"] == ("colour" in name)
    assert stated in command("doctor", data, *kind, *DOCTOR)[1]
    status, out, message = command("predict", "run", data, "--out", "predicted")
    assert (status, stated in out) == (0, True), out + message
    chosen = tifffile.imread(tmp_path / "predicted" / "0_probabilities.tif").argmax(axis=0)
    np.testing.assert_array_equal(pixels_of(tmp_path / "predicted" / f"0_{suffix}"), np.array(values)[chosen])
    measures = {}
    for what in ("probabilities", "classes"):
        status, out, message = command("evaluate", "predicted", data, "--out", what, "--pictures", "0")
        assert (status, stated in out) == (0, True), out + message
        record = json.loads((tmp_path / what / "scores.json").read_text())
        assert record["classes"] == stated.split(", ")
        assert record["kind"] == ("classes" if kind else "binary")
        measures[what] = record["measures"]["pixel_error"], record["measures"]["mean_iou"]
        for file in (tmp_path / "predicted").glob("*_probabilities.tif"):
            file.unlink()
        for file in (tmp_path / "predicted").glob("*_instances.tif"):
            file.unlink()
    assert measures["probabilities"] == measures["classes"]
    assert stated in command("evaluate", "run")[1]
    status, out, message = command("report", "run")
    assert (status, stated in out) == (0, True), message
    assert stated in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("trained_on", [(0, 255), (0, 1), (1, 2)])
@pytest.mark.parametrize("compared_with", [(0, 255), (0, 1), (0, 7), (3, 9)])
def test_masks_of_any_two_values_are_compared(command, tmp_path, trained_on, compared_with):
    """What a network of masks wrote fits labels in two other values, and so does another program's mask."""
    data = numbered_set(tmp_path / "data", trained_on)
    assert command("train", "--data", data, "--out", "run", *SMALL)[0] == 0
    assert command("predict", "run", data, "--out", "predicted")[0] == 0
    labels = numbered_set(tmp_path / "labels", compared_with)
    errors = []
    for out in ("own", "other"):
        status, _, message = command("evaluate", "predicted", labels, "--out", out, "--pictures", "0")
        assert status == 0, message
        errors.append(json.loads((tmp_path / out / "scores.json").read_text())["measures"]["pixel_error"])
        for file in (tmp_path / "predicted").glob("*_probabilities.tif"):
            chosen = tifffile.imread(file).argmax(axis=0)
            mask = Image.fromarray((255 * chosen).astype(np.uint8))
            mask.save(file.with_name(file.name.replace("probabilities.tif", "classes.png")))
            file.unlink()
    assert errors[0] == errors[1]


def test_a_mask_of_one_value_is_told_by_the_masks_of_the_training(command, tmp_path):
    """Only background, in a set whose background is 1."""
    data = numbered_set(tmp_path / "data", (1, 2))
    assert command("train", "--data", data, "--out", "run", *SMALL)[0] == 0
    assert command("predict", "run", data, "--out", "predicted")[0] == 0
    for file in (data / "labels").iterdir():
        Image.fromarray(np.ones((40, 36), np.uint8)).save(file)
    status, out, message = command("evaluate", "predicted", data, "--kind", "binary")
    assert (status, "binary, 0 % foreground" in out) == (0, True), out + message


def test_each_class_has_a_colour_of_its_own(command, tmp_path):
    """In the palette of a class map, where numbers five apart had the same."""
    data = numbered_set(tmp_path / "data", (0, 1, 6))
    assert command("train", "--data", data, "--out", "run", "--kind", "classes", *SMALL)[0] == 0
    assert command("predict", "run", data, "--out", "predicted")[0] == 0
    palette = np.array(Image.open(tmp_path / "predicted" / "0_classes.png").getpalette()).reshape(-1, 3)
    assert len({tuple(palette[value]) for value in (0, 1, 6)}) == 3


@pytest.fixture
def run(command, tmp_path):
    """Trained on classes 0, 128 and 255."""
    data = numbered_set(tmp_path / "data", GREY)
    assert command("train", "--data", data, "--out", "run", *SMALL)[0] == 0
    return tmp_path / "run"


def relabel(data, values):
    """Give the classes other values, in their order."""
    for file in (data / "labels").iterdir():
        label = np.asarray(Image.open(file))
        Image.fromarray(np.array(values, np.uint8)[np.searchsorted(GREY, label)]).save(file)


def test_other_numbers_than_those_of_the_run_are_refused(command, refused, run, tmp_path, unchanged):
    """With the same order, so that checksums of classes 0..2 are the same."""
    assert command("predict", run, tmp_path / "data", "--out", "predicted")[0] == 0
    relabel(tmp_path / "data", (0, 100, 200))
    for arguments in (["evaluate", run], ["report", run], ["evaluate", "predicted", tmp_path / "data"]):
        message = refused(*arguments)
        for text in (str(tmp_path / "data"), "0, 100, 200", "0, 128, 255"):
            assert text in message
    with unchanged(run):
        message = refused("train", "--resume", run, "--steps", "4")
    for text in (str(tmp_path / "data"), "0, 100, 200", "0, 128, 255"):
        assert text in message


def test_class_maps_of_other_numbers_are_refused(command, refused, run, tmp_path):
    assert command("predict", run, tmp_path / "data", "--out", "predicted")[0] == 0
    for file in (tmp_path / "predicted").iterdir():
        if not file.name.endswith("classes.png"):
            file.unlink()
    pixels = np.full((40, 36), 77, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "predicted" / "1_classes.png")
    message = refused("evaluate", "predicted", tmp_path / "data")
    for text in ("1_classes.png", "77", "0, 128, 255"):
        assert text in message


def test_predictions_of_two_networks_are_not_mixed(command, refused, run, tmp_path):
    data = numbered_set(tmp_path / "other", (3, 4, 5), number_of_images=5)
    assert command("train", "--data", data, "--out", "second", *SMALL)[0] == 0
    assert command("predict", run, tmp_path / "data", "--out", "predicted")[0] == 0
    assert (
        command("predict", "second", data / "images" / "4.png", "--out", "predicted", "--overwrite")[0] == 0
    )
    message = refused("evaluate", "predicted", data)
    for text in ("3, 4, 5", "0, 128, 255", "4_probabilities.tif"):
        assert text in message


def test_masks_of_another_colour_are_refused(command, refused, tmp_path):
    for name, colour in {"green": (0, 255, 0), "red": (255, 0, 0)}.items():
        numbered_set(tmp_path / name, ((0, 0, 0), colour))
    assert command("train", "--data", "green", "--out", "run", *SMALL)[0] == 0
    assert command("predict", "run", "red", "--out", "predicted")[0] == 0
    message = refused("evaluate", "predicted", "red")
    for text in ("#000000, #ff0000", "#000000, #00ff00"):
        assert text in message


@pytest.mark.parametrize("name", ["grey", "colours"])
def test_labels_that_lack_a_class_are_read_as_in_training(command, tmp_path, name):
    """Two of three classes would be a mask; black and white of a colour mask would be grey."""
    values = {"grey": GREY, "colours": ((0, 0, 0), (255, 255, 255), (255, 0, 0))}[name]
    data = numbered_set(tmp_path / "data", values)
    assert command("train", "--data", data, "--out", "run", "--kind", "classes", *SMALL)[0] == 0
    fewer = numbered_set(tmp_path / "fewer", values[:2])
    assert command("predict", "run", fewer, "--out", "predicted")[0] == 0
    status, out, message = command("evaluate", "predicted", fewer, "--out", "scores", "--pictures", "0")
    assert (status, "3 classes" in out) == (0, True), out + message


def test_runs_that_stored_no_table_or_a_damaged_one(command, refused, run, tmp_path):
    best = load_checkpoint(run / "best.safetensors")
    damaged = (
        {"values": [0, 1]},
        {"values": [0, 1, 1], "coloured": False},
        {"values": [0, 1], "coloured": True},
    )
    for table in damaged:
        save_checkpoint(run / "best.safetensors", replace(best, classes=table))
        assert str(run) in refused("predict", run, tmp_path / "data", "--out", "p")
        assert str(run) in refused("evaluate", run)
    save_checkpoint(run / "best.safetensors", replace(best, classes={}))
    assert command("predict", run, tmp_path / "data", "--out", "predicted")[0] == 0
    chosen = tifffile.imread(tmp_path / "predicted" / "0_probabilities.tif").argmax(axis=0)
    np.testing.assert_array_equal(pixels_of(tmp_path / "predicted" / "0_classes.png"), chosen)
    assert command("evaluate", run)[0] == 0


def test_ignored_values_are_unknown_in_every_command(command, refused, tmp_path):
    """Stored with the run; both the resumed training and the scores know of it."""
    data = numbered_set(tmp_path / "data", (0, 1, 2, 255))
    ignore = ["--ignore", "255", "--ignore", "7"]
    status, out, message = command("train", "--data", data, "--out", "run", *ignore, *SMALL)
    assert (status, "7, 255 are unknown" in out) == (0, True), out + message
    assert "3 classes" in out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["ignore"] == [7, 255]
    assert "25 % of the pixels unknown" in command("evaluate", "run")[1]
    assert command("train", "--resume", "run", "--steps", "4")[0] == 0
    assert command("train", "--resume", "run", "--ignore", "255", "--steps", "5")[0] == 0
    assert "ignore" in refused("train", "--resume", "run", "--ignore", "1", "--steps", "6")
    assert "25 % of the pixels unknown" in command("report", "run")[1]
    assert "7, 255 are unknown" in command("doctor", data, *ignore, *DOCTOR)[1]
    assert command("predict", "run", data, "--out", "predicted")[0] == 0
    assert "255" in refused("evaluate", "predicted", data)
    assert "25 % of the pixels unknown" in command("evaluate", "predicted", data, *ignore)[1]


@pytest.mark.parametrize(
    ("values", "ignore", "missing"),
    [((0, 1, 2), ("7",), "7"), ((0, 1, 2), ("2", "9"), "9"), (COLOURS, ("#0000ff",), "#0000ff")],
)
def test_a_value_to_ignore_that_no_label_has(command, tmp_path, values, ignore, missing):
    """It is a mistake, most likely: every command says so, and training warns."""
    data = numbered_set(tmp_path / "data", values)
    options = [word for value in ignore for word in ("--ignore", value)]
    status, out, message = command("train", "--data", data, "--out", "run", *options, *SMALL)
    assert (status, f"no label has {missing}" in out) == (0, True), out + message
    assert f"warning: no label has the value {missing}," in message
    assert f"warning: no label has the value {missing}," in command("doctor", data, *options, *DOCTOR)[1]
    assert f"no label has {missing}" in command("evaluate", "run")[1]


def test_values_to_ignore_that_occur_are_no_cause_for_a_warning(command, tmp_path):
    data = numbered_set(tmp_path / "data", (0, 1, 2, 255))
    _, out, message = command(
        "train", "--data", data, "--out", "run", "--ignore", "255", "--ignore=-1", *SMALL
    )
    assert "no label has" not in out + message


def test_compare_ignores_values(command, data, tiny_comparison, tmp_path):
    for file in (data / "labels").iterdir():
        label = np.array(Image.open(file))
        label[:9] = 128
        Image.fromarray(label).save(file)
    options = ["--networks", "unet", "--ignore", "128", *tiny_comparison]
    status, out, message = command("compare", "--data", data, "--out", "compared", *options)
    assert (status, "128 is unknown" in out) == (0, True), out + message
    record = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert (record["kind"], record["ignore"]) == ("binary", [128])


def test_runs_of_versions_without_ignore(command, run):
    for name in ("best.safetensors", "last.safetensors"):
        stored = load_checkpoint(run / name)
        config = {option: value for option, value in stored.config.items() if option != "ignore"}
        save_checkpoint(run / name, replace(stored, config=config, classes={}))
    assert command("evaluate", run)[0] == 0
    assert command("train", "--resume", run, "--steps", "4")[0] == 0


@pytest.mark.parametrize(
    "option", [("--kind", "binary"), ("--truth", "gold"), ("--ignore", "3")], ids=lambda option: option[0]
)
def test_options_for_labels_are_refused_for_synthetic_sets(
    command, refused, tiny_comparison, trained, tmp_path, option
):
    data = "synthetic-cells:1"
    (tmp_path / "predicted").mkdir()
    tifffile.imwrite(tmp_path / "predicted" / "a_instances.tif", np.ones((9, 9), np.uint16))
    last = load_checkpoint(trained / "best.safetensors")
    save_checkpoint(trained / "best.safetensors", replace(last, config={**last.config, "data": data}))
    for arguments in (
        ["train", "--data", data, "--out", "run", *SMALL],
        ["doctor", data, *DOCTOR],
        ["compare", "--data", data, "--out", "compared", *tiny_comparison],
        ["evaluate", "predicted", data],
        ["evaluate", trained],
    ):
        message = refused(*arguments, *option)
        assert data in message
        assert option[0] in message


def test_what_a_layout_inferred_is_printed(command, data, tiny_comparison, tmp_path):
    """Labels in gt/ whose names have a text in addition."""
    (data / "labels").rename(data / "gt")
    (data / "images").rename(data / "imgs")
    for file in sorted((data / "gt").iterdir()):
        file.rename(file.with_stem(f"{file.stem}_mask"))
    status, out, message = command("train", "--data", data, "--out", "run", *SMALL)
    assert status == 0, message
    lines = [out, command("doctor", data, *DOCTOR)[1], command("evaluate", "run")[1]]
    lines.append(command("report", "run")[1])
    options = ["--networks", "unet", *tiny_comparison]
    lines.append(command("compare", "--data", data, "--out", "compared", *options)[1])
    for printed in lines:
        assert "images from imgs/, labels from gt/" in printed
        assert "'_mask'" in printed
    assert "images from imgs/" in command("predict", "run", data, "--out", "predicted")[1]
    assert "labels from gt/" in command("evaluate", "predicted", data)[1]


def test_predict_states_which_files_it_leaves_out(command, trained, data, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    for part, added in {"images": "", "labels": "_mask"}.items():
        for file in (data / part).iterdir():
            file.rename(folder / f"{file.stem}{added}.png")
    assert "without the files that add '_mask'" in command("predict", trained, folder, "--out", "a")[1]
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    for name in ("em-volume", "em-labels"):
        tifffile.imwrite(stacks / f"{name}.tif", np.ones((2, 30, 30), np.uint8), photometric="minisblack")
    assert "without em-labels.tif" in command("predict", trained, stacks, "--out", "b")[1]


def test_more_objects_than_16_bits_number_are_read_back(command, trained, tmp_path, monkeypatch):
    """From a 32-bit file, by evaluate."""
    many = np.arange(1, 65_601, dtype=np.uint32).reshape(200, 328)
    monkeypatch.setattr("tinyunet.prediction.segmentation.label_instances", lambda *_, **options: many)
    data = write_set(tmp_path / "many", [np.zeros((200, 328), np.uint8)], [many])
    assert command("predict", trained, data, "--out", "predicted")[0] == 0
    written = tifffile.imread(tmp_path / "predicted" / "0_instances.tif")
    assert written.dtype == np.uint32
    np.testing.assert_array_equal(written, many)
    options = ["--out", "scores", "--pictures", "0"]
    assert command("evaluate", "predicted", data, *options)[0] == 0
    record = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert record["images"][0]["scores"]["seg"] == 1
    assert record["mistakes"]["objects"] == 65_600
