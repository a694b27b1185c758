"""python -m tinyunet.train, stopped by a signal, an error or a kill, and continued by --resume."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from children import default_signals
from run_files import FILES, deterministic, log_of, same_weights

from tinyunet import train
from tinyunet.reporting.recorder import recorded, store
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.config import read_data
from tinyunet.training.events import Stepped
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.trainer import Trainer


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
