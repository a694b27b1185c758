"""Cross-validation, as a user runs it: a run for each fold, and each image scored by a network new to it."""

import json
import os
import shutil
import signal

import films
import html5lib
import numpy as np
import pytest
import tifffile

from tinyunet.metrics.naming import format_value
from tinyunet.training.checkpoint import load_checkpoint
from tinyunet.training.trainer import Trainer

FILES = {"config.json", "log.jsonl", "best.safetensors", "last.safetensors", "curves.png", "examples.png"}


def checkpoints(folder):
    """The bytes of all checkpoints below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.safetensors")}


def options_of(run):
    return json.loads((run / "config.json").read_text())


def test_each_fold_is_a_complete_run_that_holds_out_its_own_images(folds):
    assert {file.name for file in folds.iterdir()} == {"fold-0", "fold-1", "fold-2", "folds.json"}
    held_out = []
    for fold, holdout in enumerate(["0-1", "2-3", "4"]):
        run = folds / f"fold-{fold}"
        assert {file.name for file in run.iterdir()} == FILES
        assert options_of(run)["holdout"] == holdout
        held_out += load_checkpoint(run / "last.safetensors").images["held out"]
    assert held_out == ["0", "1", "2", "3", "4"]


def test_a_fold_has_the_bits_of_a_run_with_its_holdout(command, folds, folds_once, tiny_fold, tmp_path):
    options = ["--data", folds_once.parent / "data", "--holdout", "2-3", "--out", tmp_path / "alone"]
    assert command("train", *tiny_fold, *options)[0] == 0
    assert checkpoints(tmp_path / "alone") == checkpoints(folds / "fold-1")


def test_the_table_has_the_scores_that_the_runs_have(command, folds):
    status, out, _ = command("train", "--resume", folds)
    assert status == 0
    (row,) = [line.split() for line in out.splitlines() if line.startswith("mean_iou")]
    best = [
        load_checkpoint(folds / f"fold-{i}" / "best.safetensors").progress["best_score"] for i in range(3)
    ]
    assert row[2:5] == [f"{score:.4f}" for score in best]


def test_resuming_finished_folds_changes_nothing(command, folds, unchanged):
    with unchanged(folds):
        assert command("train", "--resume", folds)[0] == 0


@pytest.mark.parametrize("stop", [(0, 1), (1, 2), (2, 4)], ids=lambda stop: "fold {}, step {}".format(*stop))
def test_stopped_by_ctrl_c_equals_uninterrupted(
    command, folds, folds_once, tiny_fold, monkeypatch, tmp_path, stop
):
    fold, step = stop
    train_on, run = Trainer._train_on, tmp_path / "stopped"

    def pressed(trainer, sample):
        if trainer.step + 1 == step and trainer.config.holdout == ["0-1", "2-3", "4"][fold]:
            os.kill(os.getpid(), signal.SIGINT)
        return train_on(trainer, sample)

    monkeypatch.setattr(Trainer, "_train_on", pressed)
    options = ["--data", folds_once.parent / "data", "--out", run, "--folds", "3", *tiny_fold]
    status, out, _ = command("train", *options)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert status == 130
    assert f"--resume {run}\n" in out
    assert command("train", "--resume", run)[0] == 0
    assert checkpoints(run) == checkpoints(folds)


def test_a_fold_that_was_killed_before_its_first_checkpoint_starts_again(command, folds, tmp_path):
    before = checkpoints(folds)
    for name in ("last.safetensors", "best.safetensors"):
        (folds / "fold-1" / name).unlink()
    shutil.rmtree(folds / "fold-2")
    assert command("train", "--resume", folds)[0] == 0
    assert checkpoints(folds) == before


def test_a_fold_is_resumed_on_its_own(command, folds):
    assert command("train", "--resume", folds / "fold-1", "--steps", "6")[0] == 0
    assert load_checkpoint(folds / "fold-1" / "last.safetensors").step == 6
    assert options_of(folds / "fold-1")["holdout"] == "2-3"


def test_more_steps_for_all_folds(command, folds):
    assert command("train", "--resume", folds, "--steps", "6")[0] == 0
    assert {load_checkpoint(folds / f"fold-{i}" / "last.safetensors").step for i in range(3)} == {6}
    assert command("train", "--resume", folds)[0] == 0  # the new number was stored


@pytest.mark.parametrize("option", [("--lr", "0.5"), ("--folds", "4"), ("--holdout", "2")])
def test_what_a_resume_cannot_change(refused, folds, unchanged, option):
    with unchanged(folds):
        assert "cannot change" in refused("train", "--resume", folds, *option)


def test_a_set_that_has_changed_is_not_resumed(command, refused, make_data, tiny_fold, tmp_path, unchanged):
    """Even if all folds are finished: their scores would be those of another set."""
    data, run = make_data("set"), tmp_path / "run"
    assert command("train", "--data", data, "--out", run, "--folds", "2", *tiny_fold)[0] == 0
    shutil.copy(data / "images" / "0.png", data / "images" / "2.png")
    with unchanged(run):
        assert "has changed" in refused("train", "--resume", run)


def test_a_set_that_has_grown_is_not_resumed(command, refused, make_data, tiny_fold, tmp_path, unchanged):
    """Not even before the first checkpoint: no fold would hold out the new image."""
    data, run = make_data("set"), tmp_path / "run"
    assert command("train", "--data", data, "--out", run, "--folds", "2", *tiny_fold)[0] == 0
    for fold in (0, 1):
        shutil.rmtree(run / f"fold-{fold}")
    for part in ("images", "labels"):
        shutil.copy(data / part / "2.png", data / part / "3.png")
    with unchanged(run):
        assert "has changed" in refused("train", "--resume", run)


def test_films_are_held_out_whole(command, refused, tiny_fold, tmp_path):
    for film, frames in (("01", 2), ("02", 3)):
        films.write_film(tmp_path / "set", film, frames)
    run, options = tmp_path / "run", ["--data", tmp_path / "set", *tiny_fold, "--folds"]
    assert command("train", *options, "2", "--out", run)[0] == 0
    assert [options_of(run / f"fold-{i}")["holdout"] for i in range(2)] == ["2-4", "0-1"]
    assert "3 folds of 2 films" in refused("train", *options, "3", "--out", "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "6"], "6 folds of 5 images"),
        (["--folds", "1"], "at least 2"),
        (["--folds", "3", "--holdout", "20%"], "cannot both be given"),
        (["--folds", "3", "--holdout=20%"], "cannot both be given"),
    ],
)
def test_folds_that_cannot_be(refused, folds_once, tiny_fold, tmp_path, options, message):
    options = ["--data", folds_once.parent / "data", "--out", "x", *tiny_fold, *options]
    assert message in refused("train", *options)
    assert not (tmp_path / "x").exists()


def test_overwrite(command, refused, folds, folds_once, tiny_fold, unchanged):
    options = ["--data", folds_once.parent / "data", "--out", folds, "--folds", "2", *tiny_fold]
    with unchanged(folds):
        assert "--overwrite" in refused("train", *options)
    assert command("train", *options, "--overwrite")[0] == 0
    assert len(json.loads((folds / "folds.json").read_text())["holdouts"]) == 2
    assert not (folds / "fold-2" / "best.safetensors").exists()


def test_a_single_run_is_not_overwritten_by_folds_nor_the_other_way_round(
    refused, folds, folds_once, trained, tiny_fold, unchanged
):
    data = folds_once.parent / "data"
    with unchanged(trained):
        refused("train", "--data", data, "--out", trained, "--overwrite", "--folds", "3", *tiny_fold)
    with unchanged(folds):
        refused("train", "--data", data, "--out", folds, "--overwrite", *tiny_fold)


def probabilities(folder, name="slide"):
    return tifffile.imread(folder / f"{name}_probabilities.tif")


def test_predict_averages_the_folds(command, folds, image, tmp_path):
    options = ["--tile", "16", "--symmetries", "8"]
    status, out, message = command("predict", folds, image, "--out", tmp_path / "all", *options)
    assert status == 0, message
    assert "average of 3 networks" in out
    each = []
    for fold in range(3):
        assert (
            command("predict", folds / f"fold-{fold}", image, "--out", tmp_path / str(fold), *options)[0] == 0
        )
        each.append(probabilities(tmp_path / str(fold)))
    found = probabilities(tmp_path / "all")
    # A sum of three numbers up to 3, in float32, is off by less than 2 · 3 · 2^-24, the average by a third.
    np.testing.assert_allclose(found, np.mean(each, axis=0, dtype=np.float64), rtol=0, atol=2**-23)
    assert min(abs(found - one).max() for one in each) > 1e-4


def test_predict_gives_the_same_bits_again(command, folds, image, tmp_path):
    for name in ("one", "two"):
        assert command("predict", folds, image, "--out", tmp_path / name)[0] == 0
    assert probabilities(tmp_path / "one").tobytes() == probabilities(tmp_path / "two").tobytes()


def test_predict_needs_all_folds(refused, folds, image, tmp_path):
    (folds / "fold-1" / "best.safetensors").unlink()
    message = refused("predict", folds, image, "--out", tmp_path / "all")
    assert "fold-1" in message
    assert f"--resume {folds}" in message
    assert not (tmp_path / "all").exists()


def test_predict_refuses_folds_of_different_networks(
    command, refused, folds, folds_once, tiny_fold, image, tmp_path
):
    options = ["--data", folds_once.parent / "data", "--holdout", "2-3", "--base-channels", "3"]
    assert command("train", *tiny_fold, *options, "--out", folds / "fold-1", "--overwrite")[0] == 0
    message = refused("predict", folds, image, "--out", tmp_path / "all")
    assert "'base_channels': 2" in message
    assert "'base_channels': 3" in message


def scores_of(command, run, out):
    status, text, message = command("evaluate", run, "--out", out, "--pictures", "0")
    assert status == 0, message
    return json.loads((out / "scores.json").read_text()), text


def test_every_image_is_scored_by_the_fold_that_held_it_out(command, folds, tmp_path):
    record, text = scores_of(command, folds, tmp_path / "all")
    of_folds = [scores_of(command, folds / f"fold-{i}", tmp_path / str(i))[0] for i in range(3)]
    found = {image["name"]: image["mistakes"] for image in record["images"]}
    assert found == {image["name"]: image["mistakes"] for one in of_folds for image in one["images"]}
    assert list(found) == ["0", "1", "2", "3", "4"]
    each = [one["measures"]["mean_iou"]["set_wide"] for one in of_folds]
    assert [fold["mean_iou"] for fold in record["folds"]["scores"]] == each
    spread = record["folds"]["measures"]["mean_iou"]
    assert spread["mean"] == pytest.approx(np.mean(each), abs=1e-12)
    assert spread["spread"] == pytest.approx(np.std(each, ddof=1), abs=1e-12)
    assert spread["set_wide"] == record["measures"]["mean_iou"]["set_wide"]
    for score in each:
        assert f"{score:.4f}" in text
    assert of_folds[0]["folds"] is None


def test_it_is_not_scored_by_the_average(command, folds, folds_once, tmp_path):
    """The average has seen every image, in all its folds but one."""
    data = folds_once.parent / "data"
    assert command("predict", folds, data, "--out", tmp_path / "predicted")[0] == 0
    options = ["--out", tmp_path / "x", "--pictures", "0"]
    assert command("evaluate", tmp_path / "predicted", data, *options)[0] == 0
    average = json.loads((tmp_path / "x" / "scores.json").read_text())
    record, _ = scores_of(command, folds, tmp_path / "all")
    assert record["measures"]["mean_iou"] != average["measures"]["mean_iou"]


def replace_a_fold(folds):
    shutil.rmtree(folds / "fold-1")
    shutil.copytree(folds / "fold-0", folds / "fold-1")


def remove_a_network(folds):
    (folds / "fold-1" / "best.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "text"), [(replace_a_fold, "each image once"), (remove_a_network, "fold-1")]
)
@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_folds_that_cannot_be_scored(refused, folds, name, spoil, text):
    spoil(folds)
    assert text in refused(name, folds)


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_a_set_that_has_changed_is_not_scored(command, refused, make_data, tiny_fold, tmp_path, name):
    data, run = make_data("set"), tmp_path / "run"
    assert command("train", "--data", data, "--out", run, "--folds", "3", *tiny_fold)[0] == 0
    for part in ("images", "labels"):
        shutil.copy(data / part / "2.png", data / part / "3.png")
    assert "each image once" in refused(name, run)
    for part in ("images", "labels"):
        (data / part / "3.png").unlink()
        (data / part / "2.png").rename(data / part / "a.png")
        (data / part / "0.png").rename(data / part / "2.png")
        (data / part / "a.png").rename(data / part / "0.png")
    assert "trained on" in refused(name, run)


def test_the_page_shows_the_spread(command, folds, tmp_path):
    status, out, message = command("report", folds)
    assert status == 0, message
    path = folds / "report.html"
    assert f"wrote {path}" in out
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    document = parser.parse(path.read_text(encoding="utf-8"))
    of_folds, held_out, images, _ = (
        [["".join(cell.itertext()).strip() for cell in row] for row in table.iter("tr")]
        for table in document.iter("table")
    )
    record, _ = scores_of(command, folds, tmp_path / "scores")
    values = [fold["mean_iou"] for fold in record["folds"]["scores"]]
    spread = record["folds"]["measures"]["mean_iou"]
    values += [spread["mean"], spread["spread"], spread["set_wide"]]
    assert next(row for row in of_folds if row[0] == "mean IoU")[1:7] == list(map(format_value, values))
    assert [row[1:3] for row in held_out[1:]] == [["0-1", "2"], ["2-3", "2"], ["4", "1"]]
    fold_of = {row[0]: row[1] for row in images[1:]}
    assert fold_of == {"0": "fold-0", "1": "fold-0", "2": "fold-1", "3": "fold-1", "4": "fold-2"}
    commands = ["".join(element.itertext()) for element in document.iter("pre")]
    assert any("--folds 3" in text for text in commands)
    assert any(text.startswith(f"python -m tinyunet.evaluate {folds}") for text in commands)


def test_the_page_is_not_replaced_unasked(command, refused, folds, unchanged):
    assert command("report", folds)[0] == 0
    with unchanged(folds):
        assert "--overwrite" in refused("report", folds)
    assert command("report", folds, "--overwrite")[0] == 0
