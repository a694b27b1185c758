"""Folders that cannot be written, and full disks: words instead of a traceback, and no work is lost."""

import errno
import os
import subprocess
import sys

import pytest
from messages import says

from tinyunet.training.checkpoint import load_checkpoint


@pytest.mark.parametrize("place", ["a-file", "a-file/run"])
def test_a_folder_that_cannot_be_made(refused, data, tiny, trained, image, tmp_path, place):
    (tmp_path / "a-file").write_text("thesis")
    for arguments in (("train", "--data", data, *tiny), ("predict", trained, image)):
        says(refused(*arguments, "--out", tmp_path / place), tmp_path / place)
        assert (tmp_path / "a-file").read_text() == "thesis"


def test_a_file_in_the_place_of_the_results(refused, data, trained, image, tmp_path):
    (tmp_path / "a-file").write_text("thesis")
    for arguments in (("predict", trained, image), ("evaluate", trained)):
        says(refused(*arguments, "--out", "a-file", "--overwrite"), "a-file")
    assert (tmp_path / "a-file").read_text() == "thesis"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere"
)
def test_a_folder_without_permission(refused, data, tiny, trained, image, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    for arguments in (("train", "--data", data, *tiny), ("predict", trained, image)):
        message = refused(*arguments, "--out", tmp_path / "locked" / "run")
        says(message, tmp_path / "locked" / "run", "Permission denied", "--out")


def denied(path, *arguments, **options):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize(
    ("function", "file"), [("PIL.Image.open", "0.png"), ("pathlib.Path.open", "best.safetensors")]
)
def test_an_unreadable_file_is_not_reported_as_damaged(refused, trained, data, monkeypatch, function, file):
    monkeypatch.setattr(function, denied)
    message = refused("predict", trained, data, "--out", "results")
    says(message, file, "Permission denied")


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("function", "file"),
    [
        ("tinyunet.training.run_folder.RunFolder.append", "log.jsonl"),
        ("tinyunet.training.checkpoint.save", "last.safetensors"),
        ("tinyunet.reporting.plots.plot_curves", "curves.png"),
        ("tinyunet.reporting.plots.plot_examples", "examples.png"),
        ("tinyunet.training.run_folder.RunFolder.forget_after", ""),
    ],
)
def test_a_full_disk_while_training(refused, command, trained, monkeypatch, function, file):
    """Whichever file fails, the last checkpoint is whole, and with more room the run continues from it."""
    monkeypatch.setattr(function, full)
    says(refused("train", "--resume", trained, "--steps", "6"), trained / file, "No space left")
    assert load_checkpoint(trained / "last.safetensors").step in (4, 6)
    monkeypatch.undo()
    assert command("train", "--resume", trained, "--steps", "6")[0] == 0
    assert load_checkpoint(trained / "last.safetensors").step == 6


def test_a_full_disk_while_predicting(refused, trained, image, monkeypatch):
    monkeypatch.setattr("tifffile.imwrite", full)
    says(refused("predict", trained, image, "--out", "results"), "results/slide_", "No space left")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_predicting(command, trained, data, tmp_path, monkeypatch, code):
    """The second of three images finds it full: the first is whole and named, the third is not tried."""
    from tinyunet.prediction.segmentation import segment

    def count(model, image, **options):
        tried.append(image)
        if len(tried) == 2:
            monkeypatch.setattr("tinyunet.prediction.files.save_labels", exhausted)
        return segment(model, image, **options)

    def exhausted(*arguments, **options):
        raise OSError(code, os.strerror(code))

    tried = []
    monkeypatch.setattr("tinyunet.predict.segment", count)
    status, out, message = command("predict", trained, data, "--out", "results")
    assert (status, len(tried)) == (1, 2)
    assert "wrote 4 files" in out
    for text in (os.strerror(code), f"{data / 'images' / '1.png'}: 1", "file 2 of 3"):
        assert text in message
    assert len(list((tmp_path / "results").glob("0_*"))) == 4


LIMITED = """
import resource, sys
from tinyunet import train
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
train.main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_checkpoint_that_the_system_cuts_off(trained):
    """The operating system refuses the second half of the checkpoint, as a full disk does."""
    whole = (trained / "last.safetensors").read_bytes()
    arguments = [str(len(whole) // 2), "--resume", trained, "--steps", "5"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stderr
    says(done.stderr, trained / "last.safetensors", "older checkpoint  kept")
    assert (trained / "last.safetensors").read_bytes() == whole
    assert not list(trained.glob("*.part"))
