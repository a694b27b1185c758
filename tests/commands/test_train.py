"""python -m tinyunet.train, as a user runs it."""

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from children import default_signals
from PIL import Image
from run_files import log_of, same_weights

from tinyunet import train
from tinyunet.reporting.plots import plot_examples
from tinyunet.reporting.recorder import recorded, store
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.config import TrainConfig, read_data
from tinyunet.training.events import Stepped
from tinyunet.training.progress import RECENT
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.trainer import Trainer

FILES = {"config.json", "log.jsonl", "best.safetensors", "last.safetensors", "curves.png", "examples.png"}


def deterministic(log):
    """The log without what differs from run to run: starts and times."""
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "waited")}
        for record in log
        if record["event"] != "started"
    ]


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


def test_resumed_equals_uninterrupted(command, data, tiny, trained, monkeypatch, tmp_path):
    """A run that ends within step 4, as in a power failure, continues from its checkpoint of step 2."""
    train_on = Trainer._train_on

    def fail(trainer, sample):
        if trainer.step == 3:
            raise OSError("power failure")
        return train_on(trainer, sample)

    monkeypatch.setattr(Trainer, "_train_on", fail)
    assert command("train", "--data", data, "--out", "run", *tiny)[0] == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert load_checkpoint(run / "last.safetensors").step == 2
    assert log_of(run)[-1]["step"] == 3
    status, _, message = command("train", "--resume", run)
    assert status == 0, message
    assert same_weights(run / "last.safetensors", trained / "last.safetensors")
    assert same_weights(run / "best.safetensors", trained / "best.safetensors")
    assert deterministic(log_of(run)) == deterministic(log_of(trained))


def test_stopped_between_two_checkpoints(command, data, tiny, monkeypatch, tmp_path):
    """The last step is the best, and only one of its two checkpoints is written. In the end both exist."""
    tiny += ["--seed", "1"]
    assert command("train", "--data", data, "--out", "whole", *tiny)[0] == 0
    assert load_checkpoint(tmp_path / "whole" / "best.safetensors").step == 4
    written = []

    def cut(path, checkpoint):
        if checkpoint.step == 4 and 4 in written:
            raise OSError("power failure")
        save_checkpoint(path, checkpoint)
        written.append(checkpoint.step)

    monkeypatch.setattr("tinyunet.reporting.recorder.save_checkpoint", cut)
    assert command("train", "--data", data, "--out", "run", *tiny)[0] == 2
    assert written == [2, 2, 4]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert command("train", "--resume", "run")[0] == 0
    for name in ("best.safetensors", "last.safetensors"):
        assert same_weights(tmp_path / "run" / name, tmp_path / "whole" / name)


def test_a_run_recorded_in_a_thread_stops_anywhere_and_goes_on(command, data, tmp_path, tiny):
    """As another program does it, beside its window; one step, after which no validation is due."""
    assert command("train", "--data", data, "--out", "whole", *tiny)[0] == 0

    def one_step():
        options, folder = train.parse(["--data", str(data), *tiny]), RunFolder(tmp_path / "run")
        trainer = train.make_trainer(options.config, read_data(options.config), options)
        with train.open_run(trainer, options, folder):
            for event in recorded(trainer, folder, "a program"):
                if isinstance(event, Stepped):
                    break
            store(trainer, folder)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(one_step).result(60)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").step == 1
    assert [record["event"] for record in log_of(tmp_path / "run")] == ["started", "step"]
    assert command("train", "--resume", "run")[0] == 0
    for name in ("best.safetensors", "last.safetensors"):
        assert same_weights(tmp_path / "run" / name, tmp_path / "whole" / name)


def test_resume_with_more_steps(command, trained):
    status, out, _ = command("train", "--resume", trained, "--steps", "6")
    assert status == 0
    assert "finished at step 6" in out
    assert load_checkpoint(trained / "last.safetensors").step == 6
    assert json.loads((trained / "config.json").read_text())["steps"] == 6
    steps = [record["step"] for record in log_of(trained) if record["event"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_resume_of_a_run_of_an_earlier_version(command, trained):
    """Its checkpoint does not say whether the best network found more than one class."""
    last = trained / "last.safetensors"
    checkpoint = load_checkpoint(last)
    del checkpoint.progress["best_finds_classes"]
    save_checkpoint(last, checkpoint)
    assert command("train", "--resume", trained)[0] == 0


def test_resume_of_a_finished_run_changes_no_weight(command, trained):
    before = (trained / "last.safetensors").read_bytes()
    status, out, _ = command("train", "--resume", trained)
    assert status == 0
    assert "finished at step 4" in out
    assert (trained / "last.safetensors").read_bytes() == before


def interrupt(arguments, run, folder, number):
    """Start a training and send a signal after its second step; returns exit status, output and messages."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tinyunet.train", *arguments, "--out", run],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    deadline = time.monotonic() + 120
    log = folder / run / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2) and process.poll() is None:
        assert time.monotonic() < deadline, "no step was made"
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.skipif(os.name == "nt", reason="signals cannot be sent to a process on Windows")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_and_resume_goes_on(command, data, tiny, tmp_path, name):
    tiny[tiny.index("--steps") + 1] = "3000"
    tiny[tiny.index("--validate-every") + 1] = "1000"
    number = getattr(signal, name)
    status, out, err = interrupt(["--data", str(data), *tiny], "run", tmp_path, number)
    assert status == 128 + number, err
    assert "Traceback" not in err
    stopped = load_checkpoint(tmp_path / "run" / "last.safetensors").step
    assert 2 <= stopped < 3000
    assert f"stopped after step {stopped}" in out
    assert "--resume run" in out
    steps = ["--steps", str(stopped + 3)]
    assert command("train", "--resume", "run", *steps)[0] == 0
    assert [r["step"] for r in log_of(tmp_path / "run") if r["event"] == "step"] == [*range(1, stopped + 4)]
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").step == stopped + 3


def test_stopped_by_ctrl_c_equals_uninterrupted(command, data, tiny, trained, monkeypatch, tmp_path):
    """At each of the steps, including those with a validation."""
    for stop in (1, 2, 3, 4):
        train_on = Trainer._train_on

        def pressed(trainer, sample, stop=stop, train_on=train_on):
            if trainer.step + 1 == stop:
                os.kill(os.getpid(), signal.SIGINT)
            return train_on(trainer, sample)

        monkeypatch.setattr(Trainer, "_train_on", pressed)
        run = tmp_path / f"run-{stop}"
        status, out, err = command("train", "--data", data, "--out", run, *tiny)
        monkeypatch.setattr(Trainer, "_train_on", train_on)
        assert status == 130
        assert "stopping after this step" in err
        assert f"--resume {run}" in out
        assert load_checkpoint(run / "last.safetensors").step == stop
        assert command("train", "--resume", run)[0] == 0
        assert same_weights(run / "last.safetensors", trained / "last.safetensors")
        assert same_weights(run / "best.safetensors", trained / "best.safetensors")
        assert deterministic(log_of(run)) == deterministic(log_of(trained))


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_signal_when_the_terminal_is_gone(data, tiny, monkeypatch, tmp_path):
    """Nothing can be printed any more; the checkpoint is written all the same."""
    train_on = Trainer._train_on

    def hang_up(trainer, sample):
        if trainer.step == 2:
            monkeypatch.setattr("sys.stdout", Gone())
            monkeypatch.setattr("sys.stderr", Gone())
            os.kill(os.getpid(), signal.SIGTERM)
        return train_on(trainer, sample)

    monkeypatch.setattr(Trainer, "_train_on", hang_up)
    with pytest.raises(SystemExit) as end:
        train.main(["--data", str(data), "--out", "run", *tiny])
    assert end.value.code == 128 + signal.SIGTERM
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").step == 3


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_signal_that_is_ignored_stays_ignored(command, data, tiny, monkeypatch):
    """As nohup does, so that a training outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    train_on = Trainer._train_on

    def hang_up(trainer, sample):
        os.kill(os.getpid(), signal.SIGHUP)
        return train_on(trainer, sample)

    monkeypatch.setattr(Trainer, "_train_on", hang_up)
    try:
        assert command("train", "--data", data, "--out", "run", *tiny)[0] == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_twice_stops_at_once(command, data, tiny, monkeypatch, tmp_path):
    def pressed_twice(trainer, sample):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the step went on")

    monkeypatch.setattr(Trainer, "_train_on", pressed_twice)
    before = signal.getsignal(signal.SIGINT)
    assert command("train", "--data", data, "--out", "run", *tiny)[0] == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_ctrl_c_twice_in_code_that_turns_it_into_an_error(command, data, tiny, monkeypatch):
    """As Matplotlib does, which draws for seconds."""

    def pressed_twice(*arguments, **options):
        try:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("invalid affine transformation matrix") from None

    monkeypatch.setattr("tinyunet.reporting.plots.plot_examples", pressed_twice)
    status, _, message = command("train", "--data", data, "--out", "run", *tiny)
    assert status == 130
    assert "affine" not in message


@pytest.mark.parametrize("left", ["nothing", "half", "old"])
def test_pictures_that_a_kill_prevented(command, trained, left):
    """A finished run that is resumed draws what is missing or older than its last checkpoint."""
    newest = (trained / "last.safetensors").stat().st_mtime
    whole = {name: (trained / name).read_bytes() for name in ("curves.png", "examples.png")}
    for name in whole:
        path = trained / name
        path.unlink()
        if left == "half":
            path.with_name(f"{name}.part").write_bytes(whole[name][:100])
        elif left == "old":
            path.write_bytes(b"")
            os.utime(path, (newest - 5, newest - 5))
    status, out, message = command("train", "--resume", trained)
    assert status == 0, message
    for name in whole:
        assert str(trained / name) in out
        assert (trained / name).read_bytes() == whole[name]
    assert {file.name for file in trained.iterdir()} == FILES


def test_pictures_of_a_finished_run_are_left_alone(command, trained, monkeypatch):
    monkeypatch.setattr("tinyunet.reporting.plots.plot_curves", None)
    assert command("train", "--resume", trained)[0] == 0


def test_resume_without_a_log(command, trained):
    """Checkpoints are enough to go on."""
    (trained / "log.jsonl").unlink()
    status, _, message = command("train", "--resume", trained, "--steps", "6")
    assert status == 0, message
    assert "log.jsonl is missing" in message
    assert [record["step"] for record in log_of(trained) if record["event"] == "step"] == [5, 6]


def test_a_finished_run_without_log_and_pictures(command, trained):
    for name in ("log.jsonl", "curves.png", "examples.png"):
        (trained / name).unlink()
    assert command("train", "--resume", trained)[0] == 0
    assert (trained / "curves.png").stat().st_size


def test_a_log_that_is_removed_during_the_run(command, data, tiny, monkeypatch, tmp_path):
    train_on = Trainer._train_on

    def remove(trainer, sample):
        if trainer.step == 2:
            (tmp_path / "run" / "log.jsonl").unlink()
        return train_on(trainer, sample)

    monkeypatch.setattr(Trainer, "_train_on", remove)
    status, _, message = command("train", "--data", data, "--out", "run", *tiny)
    assert status == 0, message
    assert "log.jsonl was removed; another starts at step 3" in message
    assert [record["step"] for record in log_of(tmp_path / "run")] == [3, 4, 4, 4]


@pytest.mark.parametrize("files", [["config.json"], ["config.json", "log.jsonl"]])
def test_a_run_killed_before_its_first_checkpoint(command, refused, data, tiny, trained, files):
    for file in trained.iterdir():
        if file.name not in files:
            file.unlink()
    assert "before its first" in refused("train", "--resume", trained)
    assert "--overwrite" in refused("train", "--data", data, "--out", trained, *tiny)
    assert command("train", "--data", data, "--out", trained, "--overwrite", *tiny)[0] == 0
    assert {file.name for file in trained.iterdir()} == FILES


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
