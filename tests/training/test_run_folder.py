"""A run folder keeps files that are not its own, and its log survives a stop at any moment."""

import json

import pytest

from tinyunet.errors import RunError
from tinyunet.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "cells")
    folder.create({"lr": 0.5})
    return folder


def test_create_writes_the_configuration(folder):
    assert json.loads(folder.config.read_text()) == {"lr": 0.5}
    assert folder.read_log() == []


def test_the_log_keeps_its_lines_in_order(folder):
    records = [{"event": "step", "step": n, "loss": 1 / n} for n in range(1, 4)]
    for record in records:
        folder.append(record)
    assert folder.read_log() == records
    assert len(folder.log.read_text().splitlines()) == 3


def test_a_line_cut_off_by_a_full_disk_is_no_line(folder):
    folder.append({"step": 1})
    with folder.log.open("a") as file:
        file.write('{"step": 2, "lo')
    assert folder.read_log() == [{"step": 1}]
    folder.forget_after(1)
    folder.append({"step": 2})
    assert folder.read_log() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("damage", [b'{"step": 2, "lo\n', b"\0\0\0\n", b'{"step": \xff}\n'])
def test_a_damaged_line_is_named(folder, damage):
    folder.append({"step": 1})
    folder.log.write_bytes(folder.log.read_bytes() + damage)
    folder.append({"step": 3})
    with pytest.raises(RunError, match=r"log.jsonl: line 2"):
        folder.read_log()


def test_forget_after(folder):
    for step in (1, 2, 2, 3):
        folder.append({"step": step})
    folder.forget_after(2)
    assert [record["step"] for record in folder.read_log()] == [1, 2, 2]
    assert {file.name for file in folder.path.iterdir()} == {"config.json", "log.jsonl"}


def test_a_failed_rewrite_keeps_the_log(folder, monkeypatch):
    folder.append({"step": 1})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyunet.atomic_write.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        folder.forget_after(0)
    assert folder.read_log() == [{"step": 1}]


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


@pytest.mark.parametrize("names", [["thesis.tex"], ["config.json"], ["log.jsonl", "thesis.tex"]])
def test_no_other_folder_is_ever_overwritten(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"config\.json"):
            RunFolder(tmp_path).require_free(overwrite=overwrite)


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "cells").write_text("data")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"config\.json"):
            RunFolder(tmp_path / "cells").require_free(overwrite=overwrite)


def test_overwriting_removes_the_files_of_a_run_and_no_others(folder):
    ours = (folder.best, folder.last, folder.curves, folder.examples, folder.report)
    for file in ours:
        file.write_text("old")
    folder.append({"step": 1})
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "predicted").mkdir()
    folder.create({"lr": 0.25})
    assert not any(file.exists() for file in ours)
    assert folder.read_log() == []
    assert json.loads(folder.config.read_text()) == {"lr": 0.25}
    assert (folder.path / "notes.txt").read_text() == "mine"
    assert (folder.path / "predicted").is_dir()
