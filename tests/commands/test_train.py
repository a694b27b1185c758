"""python -m tinyunet.train, as a user runs it."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image
from run_files import FILES, deterministic, log_of, same_weights

from tinyunet import train
from tinyunet.reporting.plots import plot_examples
from tinyunet.training.checkpoint import load_checkpoint
from tinyunet.training.config import TrainConfig
from tinyunet.training.progress import RECENT


def test_writes_a_run(command, data, tiny, tmp_path):
    status, out, _ = command("train", "--data", data, "--out", "run", *tiny)
    run = tmp_path / "run"
    assert status == 0
    assert {file.name for file in run.iterdir()} == FILES
    assert "2 images to train on, 1 held out" in out
    assert "finished at step 4: all 4 steps" in out
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["lr"], config["augmentation"]["flips"]) == (4, 0.01, True)


def without(options, *names):
    """Leave out options of one value."""
    kept = [at for at, word in enumerate(options) if not {word, options[at - 1]} & set(names)]
    return [options[at] for at in kept]


def test_minutes_become_steps_that_repeat_the_run(command, data, tiny, tmp_path):
    """To the bit, by the command of the log; the schedule ends with the last step."""
    options = without(tiny, "--steps", "--validate-every", "--schedule")
    status, out, _ = command("train", "--data", data, "--out", "run", *options, "--minutes", "0.05")
    assert status == 0
    run = tmp_path / "run"
    config = json.loads((run / "config.json").read_text())
    steps, every = config["steps"], config["validate_every"]
    assert every == -(-steps // -(-steps // every))
    assert steps / every <= 10
    assert f"--minutes 0.05 becomes --steps {steps} --validate-every {every}" in out
    assert f"--steps {steps} --validate-every {every}" in out.splitlines()[-1]
    log = log_of(run)
    (words,) = (shlex.split(record["command"]) for record in log if record["event"] == "started")
    assert out.splitlines()[-1].endswith(shlex.join(words))
    assert words[:3] == ["python", "-m", "tinyunet.train"]
    assert "--minutes" not in words
    words[words.index("--out") + 1] = "again"
    assert command("train", *words[3:])[0] == 0
    assert same_weights(run / "last.safetensors", tmp_path / "again" / "last.safetensors")
    assert deterministic(log_of(tmp_path / "again")) == deterministic(log)
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config


@pytest.mark.parametrize("minutes", ["--minutes 3", "--minutes=3"])
@pytest.mark.parametrize("every", ["--validate-every 7", "--validate_every=7", ""])
def test_the_command_that_repeats_a_run(minutes, every):
    config = TrainConfig(steps=90, validate_every=7 if every else 9)
    expected = f"train --steps 90 --data 'a b' {every or '--validate-every 9'}"
    assert train._with_steps(f"train {minutes} --data 'a b' {every}", config) == expected


def test_minutes_keep_given_validations(command, data, tiny, tmp_path):
    status, out, _ = command(
        "train", "--data", data, "--out", "run", *without(tiny, "--steps"), "--minutes", "0.005"
    )
    assert status == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["validate_every"] == 2
    assert out.splitlines()[-1].count("--validate-every") == 1


def test_the_log_is_complete(trained):
    log = log_of(trained)
    found = [(record["event"], record["step"]) for record in log]
    steps = [("step", 1), ("step", 2), ("validation", 2), ("step", 3), ("step", 4), ("validation", 4)]
    assert found == [("started", 0), *steps, ("finished", 4)]
    assert all(np.isfinite(record["loss"]) for record in log if record["event"] == "step")
    assert all(len(record["iou"]) == 2 for record in log if record["event"] == "validation")


def test_the_log_records_each_start(trained, command):
    """Each start is kept, with everything needed to repeat it."""
    assert command("train", "--resume", trained, "--steps", "5")[0] == 0
    first, second = (record for record in log_of(trained) if record["event"] == "started")
    assert (first["step"], second["step"]) == (0, 4)
    assert first["command"].startswith("python -m tinyunet.train --data ")
    assert second["command"].endswith(f"--resume {trained} --steps 5")
    assert first["backend"] == "numba"
    assert first["machine"]["threads"] >= 1
    assert first["versions"]["numpy"] == np.__version__


def test_best_is_the_best_and_last_is_the_last(trained):
    scores = {
        record["step"]: record["mean_iou"] for record in log_of(trained) if record["event"] == "validation"
    }
    best, last = load_checkpoint(trained / "best.safetensors"), load_checkpoint(trained / "last.safetensors")
    assert best.step == max(scores, key=scores.get)
    assert last.step == 4
    assert last.progress["best_score"] == max(scores.values())
    assert last.optimiser["velocity"].keys() == last.weights.keys()
    assert not best.optimiser


def test_pictures_show_something(trained):
    """Many grey values, in the picture as a whole and in each of the four panels of the examples."""
    for name in ("curves.png", "examples.png"):
        picture = np.asarray(Image.open(trained / name).convert("L"))
        assert min(picture.shape) > 200
        assert len(np.unique(picture)) > 30
    for panel in np.array_split(picture, 4, axis=1):
        inside = panel[panel.shape[0] // 3 : -20, panel.shape[1] // 3 : -panel.shape[1] // 3]
        assert inside.std() > 1


def test_the_examples_name_the_class_of_the_probability(tmp_path, monkeypatch):
    """The network predicts one of three classes, while the labels show all."""
    heads = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, head, **_: heads.append(head))
    image, label = np.zeros((8, 8, 1)), np.eye(8, dtype=int)
    for classes in (2, 3):
        probabilities = np.full((8, 8, classes), 1 / classes, np.float32)
        plot_examples([image], [label], [probabilities], tmp_path / "x.png", title="")
    assert heads[2::4] == ["predicted probability", "predicted probability of class 2"]


def test_the_default_folder_is_named_by_the_data(command, data, tiny, tmp_path):
    assert command("train", "--data", data, *tiny)[0] == 0
    assert {file.name for file in (tmp_path / "runs" / "data").iterdir()} == FILES


def test_the_default_folder_of_the_current_folder(command, data, tiny, monkeypatch):
    """It is not runs/ itself, which would block the next run."""
    monkeypatch.chdir(data)
    assert command("train", "--data", ".", *tiny)[0] == 0
    assert {file.name for file in (data / "runs" / "data").iterdir()} == FILES


def test_overwrite(command, refused, data, tiny, trained, unchanged):
    with unchanged(trained):
        message = refused("train", "--data", data, "--out", trained, *tiny)
    assert str(trained) in message
    assert "--overwrite" in message
    before = deterministic(log_of(trained))
    (trained / "notes.txt").write_text("mine")
    assert command("train", "--data", data, "--out", trained, "--overwrite", "--seed", "1", *tiny)[0] == 0
    assert {file.name for file in trained.iterdir()} == FILES | {"notes.txt"}
    assert deterministic(log_of(trained)) != before


def test_overwrites_only_runs(refused, data, tiny, unchanged):
    with unchanged(data):
        message = refused("train", "--data", data, "--out", data, "--overwrite", *tiny)
    assert "config.json" in message


def test_images_smaller_than_a_tile(command, make_data, tiny):
    small = make_data("small", shape=(9, 30))
    tiny[tiny.index("--tile") + 1] = "60"
    assert command("train", "--data", small, "--out", "run", *tiny)[0] == 0


def test_colour_and_padded(command, make_data, tiny, tmp_path):
    colour = make_data("colour", channels=(3,))
    assert command("train", "--data", colour, "--out", "run", "--padding", "same", *tiny)[0] == 0
    network = load_checkpoint(tmp_path / "run" / "last.safetensors").network
    assert (network["in_channels"], network["padding"]) == (3, "same")


@pytest.mark.parametrize("dtype", [bool, np.uint16, np.float64])
def test_types_of_pixels(command, tiny, tmp_path, dtype):
    rng = np.random.default_rng(0)
    images = (rng.random((3, 24, 24)) * 1000 > 500).astype(dtype)
    np.savez(tmp_path / "x.npz", images=images, labels=rng.random((3, 24, 24)) > 0.5)
    status, _, message = command("train", "--data", tmp_path / "x.npz", "--out", "run", *tiny)
    assert status == 0, message


def test_a_plateau_is_printed_and_logged(command, data, monkeypatch, tmp_path):
    """Nothing is learned with such a rate; sooner reported than otherwise, and whatever the losses do."""
    monkeypatch.setattr("tinyunet.training.plateau.PATIENCE", 10)
    monkeypatch.setattr("tinyunet.training.plateau.FALL", 1000)
    options = ["--recipe", "paper", "--base-channels", "2", "--depth", "1", "--tile", "16", "--holdout", "1"]
    options += ["--lr", "1e-9", "--steps", "65", "--validate-every", "65"]
    status, _, err = command("train", "--data", data, "--out", "run", *options)
    assert status == 0
    (record,) = [record for record in log_of(tmp_path / "run") if record["event"] == "plateau"]
    assert record["step"] == RECENT + 10
    assert f"warning: {record['what']}" in err
    assert record["remedy"] in err
    assert command("report", "run")[0] == 0
    assert record["what"] in (tmp_path / "run" / "report.html").read_text()


def test_a_collapse_is_printed_and_logged(command, data, tiny, tmp_path):
    """It takes few lines on the screen and stands in the log; the training continues."""
    for option, value in {"--lr": "3", "--steps": "110", "--validate-every": "50"}.items():
        tiny[tiny.index(option) + 1] = value
    status, out, message = command("train", "--data", data, "--out", "run", *tiny, "--dropout", "0")
    assert status == 0, message
    assert "finished at step 110" in out
    warning = message[message.index("warning: step") :]
    assert len(warning.strip().splitlines()) == 6
    (record,) = [record for record in log_of(tmp_path / "run") if record["event"] == "collapsed"]
    assert record["cause"] == "dead units"
    for line in (record["what"], *record["numbers"].values(), record["remedy"]):
        assert line in warning
    assert command("report", "run")[0] == 0


def test_help(command):
    status, out, _ = command("train", "--help")
    assert status == 0
    for text in ("usage: python -m tinyunet.train", "--resume", "--holdout", "24-29", "--weights.w0"):
        assert text in out


@pytest.mark.parametrize(
    ("model", "options"), [("fcn", ["--depth", "3"]), ("sliding-window", ["--depth", "2"])]
)
def test_other_networks(command, data, tiny, tmp_path, model, options):
    """Train, resume, predict and evaluate take the network from the checkpoint."""
    run, tiny = tmp_path / "run", [*tiny, "--model", model, *options]
    assert command("train", "--data", data, "--out", run, *tiny)[0] == 0
    assert command("train", "--resume", run, "--steps", "5")[0] == 0
    assert load_checkpoint(run / "last.safetensors").network["model"] == model
    assert command("predict", run, data / "images", "--out", tmp_path / "predicted")[0] == 0
    assert (tmp_path / "predicted" / "0_classes.png").is_file()
    status, out, _ = command("evaluate", run)
    assert status == 0
    assert "mean_iou" in out


def test_the_switch_of_cuda_graphs():
    assert train.parse([]).cuda_graph
    assert not train.parse(["--no-cuda-graph"]).cuda_graph
