"""A run folder keeps files that are not its own, and its log survives a stop at any moment."""

import json
import os
import stat
import subprocess
import sys

import pytest

from tinyunet.errors import RunError
from tinyunet.training.run_folder import RunFolder


def step(number):
    return {"event": "step", "step": number, "loss": 0.5, "seconds": 1, "waited": 0.0}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "cells")
    folder.create({"lr": 0.5})
    return folder


def test_create_writes_the_configuration(folder):
    assert json.loads(folder.config.read_text()) == {"lr": 0.5}
    assert folder.read_log() == []


def test_the_log_keeps_its_lines_in_order(folder):
    records = [step(n) for n in range(1, 4)]
    for record in records:
        folder.append(record)
    assert folder.read_log() == records
    assert len(folder.log.read_text().splitlines()) == 3


def test_a_line_cut_off_by_a_full_disk_is_no_line(folder):
    folder.append(step(1))
    with folder.log.open("a") as file:
        file.write('{"step": 2, "lo')
    assert folder.read_log() == [step(1)]
    folder.forget_after(1)
    folder.append(step(2))
    assert folder.read_log() == [step(1), step(2)]


DAMAGED = [
    b'{"step": 2, "lo', b"\0\0\0", b'{"step": \xff}', b"3", b"null", b"[]", b"{}", b'"step"', b"[" * 100_000,
    b'{"event": "validation", "step": 2, "mean_iou": 0.5, "seconds": 1.0}',
    b'{"event": "step"}', b'{"event": 3, "step": 2}', b'{"event": "lunch", "step": 2}',
    json.dumps(step(None)).encode(), json.dumps(step("2")).encode(), json.dumps(step(2.5)).encode(),
    json.dumps({**step(2), "loss": None}).encode(), json.dumps({**step(2), "seconds": [1]}).encode(),
    b'{"event": "step", "step": ' + b"2" * 5000 + b"}",
    b'{"event": "started", "step": 0, "at": 3}', b'{"event": "validation", "step": 2}',
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda line: line[:30].decode(errors="replace"))
def test_a_damaged_line_is_named(folder, damage):
    folder.append(step(1))
    folder.log.write_bytes(folder.log.read_bytes() + damage + b"\n")
    folder.append(step(3))
    for read in (folder.read_log, lambda: folder.forget_after(1)):
        with pytest.raises(RunError, match=r"log.jsonl: line 2"):
            read()


def test_forget_after(folder):
    for number in (1, 2, 2, 3):
        folder.append(step(number))
    folder.forget_after(2)
    assert [record["step"] for record in folder.read_log()] == [1, 2, 2]
    assert {file.name for file in folder.path.iterdir()} == {"config.json", "log.jsonl"}


def test_a_failed_rewrite_keeps_the_log(folder, monkeypatch):
    folder.append(step(1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyunet.data.atomic_write.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        folder.forget_after(0)
    assert folder.read_log() == [step(1)]


def test_a_log_that_was_removed_is_not_started_again_unnoticed(folder):
    folder.log.unlink()
    with pytest.raises(FileNotFoundError):
        folder.append(step(1))
    assert not folder.log.exists()


def test_two_cannot_hold_a_folder(tmp_path):
    pytest.importorskip("fcntl")
    folder = RunFolder(tmp_path / "run")
    other = RunFolder(tmp_path / "run").locked()
    with folder.locked(), pytest.raises(RunError, match="another process"), other:
        pass
    with folder.locked():
        pass
    assert not list(folder.path.iterdir())


HOLD = """
import sys, time
from pathlib import Path
from tinyunet.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(200)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    pytest.importorskip("fcntl")
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another process"), RunFolder(tmp_path).locked():
        pass
    process.kill()
    process.communicate(timeout=60)
    with RunFolder(tmp_path).locked():
        pass


def test_what_is_on_the_disk_after_a_power_cut(tmp_path, monkeypatch):
    """The content before its name, and the folder's list of names after each renaming."""
    if os.name == "nt":
        pytest.skip("Windows cannot open a folder")
    done = []
    fsync, replace = os.fsync, os.replace

    def record(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", record)
    monkeypatch.setattr("os.replace", lambda *paths: done.append("rename") or replace(*paths))
    folder = RunFolder(tmp_path)
    folder.create({})
    assert done == ["file", "rename", "folder"] * 2
    folder.append(step(1))
    folder.sync_log()
    assert done[6:] == ["file"]


def test_a_new_or_empty_folder_is_free(tmp_path):
    for overwrite in (False, True):
        RunFolder(tmp_path / "new").require_free(overwrite=overwrite)
        RunFolder(tmp_path).require_free(overwrite=overwrite)
    RunFolder(tmp_path).create({})
    assert (tmp_path / "config.json").is_file()


def test_a_run_is_overwritten_only_when_asked(folder):
    with pytest.raises(RunError, match="--resume"):
        folder.require_free(overwrite=False)
    folder.require_free(overwrite=True)


@pytest.mark.parametrize(
    "names",
    [["thesis.tex"], ["config.json"], ["log.jsonl", "thesis.tex"], ["log.jsonl"], ["config.json.part", "x"]],
)
def test_no_other_folder_is_ever_overwritten(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"config\.json"):
            RunFolder(tmp_path).require_free(overwrite=overwrite)


OPTIONS = {"data": "cells", "steps": 9, "tile": 16}


@pytest.mark.parametrize(
    "left",
    [["config.json.part"], ["config.json"], ["config.json", "log.jsonl.part"], ["config.json", "log.jsonl"]],
)
def test_a_run_that_was_killed_while_it_started(tmp_path, left):
    """It can be overwritten, and resuming says that there is no checkpoint."""
    folder = RunFolder(tmp_path)
    for name in left:
        (tmp_path / name).write_text(json.dumps(OPTIONS) if name == "config.json" else "")
    with pytest.raises(RunError, match="--overwrite"):
        folder.require_free(overwrite=False)
    folder.require_free(overwrite=True)
    if "config.json" in left:
        with pytest.raises(RunError, match="before its first"):
            folder.require_checkpoint()


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "cells").write_text("data")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"config\.json"):
            RunFolder(tmp_path / "cells").require_free(overwrite=overwrite)


def test_overwriting_removes_the_files_of_a_run_and_no_others(folder):
    ours = (folder.best, folder.last, folder.curves, folder.examples, folder.report)
    for file in ours:
        file.write_text("old")
    folder.append(step(1))
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "predicted").mkdir()
    folder.create({"lr": 0.25})
    assert not any(file.exists() for file in ours)
    assert folder.read_log() == []
    assert json.loads(folder.config.read_text()) == {"lr": 0.25}
    assert (folder.path / "notes.txt").read_text() == "mine"
    assert (folder.path / "predicted").is_dir()
