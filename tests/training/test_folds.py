"""The folder of a cross-validation keeps files that are not its own, and its record says what is wrong."""

import json
from pathlib import Path

import pytest

from tinyunet.errors import RunError
from tinyunet.training.config import TrainConfig
from tinyunet.training.folds import CrossValidation, FoldsFolder, runs_of

OPTIONS = CrossValidation(TrainConfig(data="cells", ignore=(3,), lr=0.5), ["0-1", "2", "3,5"])


@pytest.fixture
def folder(tmp_path: Path) -> FoldsFolder:
    made = FoldsFolder(tmp_path / "runs" / "cells")
    made.create(OPTIONS)
    return made


def test_what_is_written_is_read(folder: FoldsFolder) -> None:
    assert folder.read() == OPTIONS
    assert [config.holdout for config in folder.read().fold_configs] == OPTIONS.holdouts
    assert "holdout" not in json.loads(folder.record.read_text())["config"]


@pytest.mark.parametrize(
    "damage",
    [
        "", "3", "{}", "[" * 100_000, '{"config": {}}', '{"config": {}, "holdouts": ["0"]}',
        '{"config": {"lr": "fast"}, "holdouts": ["0", "1"]}', '{"holdouts": ["0", "1"]}',
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_damaged_record_is_named(folder: FoldsFolder, damage: str) -> None:
    folder.record.write_text(damage)
    with pytest.raises(RunError, match=r"folds\.json: damaged"):
        folder.read()


def test_a_record_with_an_option_of_another_version(folder: FoldsFolder) -> None:
    record = json.loads(folder.record.read_text())
    record["config"]["teleport"] = True
    folder.record.write_text(json.dumps(record))
    with pytest.raises(RunError, match="teleport"):
        folder.read()


def test_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "new"):
        FoldsFolder(folder).require_free(overwrite=False)
    (tmp_path / "folds.json.part").write_text("{")  # left by a process that was killed as it started
    FoldsFolder(tmp_path).require_free(overwrite=False)


@pytest.mark.parametrize("overwrite", [True, False])
def test_nothing_but_a_cross_validation_is_ever_overwritten(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match="not the folder of a cross-validation"):
            FoldsFolder(path).require_free(overwrite=overwrite)


def test_overwriting_leaves_no_network_of_the_older_folds(folder: FoldsFolder) -> None:
    for fold in range(3):
        folder.run(fold).create({})
        folder.run(fold).last.write_text("old")
    (folder.run(2).path / "notes").write_text("mine")
    (folder.path / "fold-notes").write_text("mine")
    with pytest.raises(RunError, match="--overwrite"):
        folder.require_free(overwrite=False)
    folder.require_free(overwrite=True)
    folder.create(CrossValidation(TrainConfig(), ["0", "1"]))
    assert not [fold for fold in range(3) if folder.run(fold).last.exists()]
    assert (folder.run(2).path / "notes").exists()
    assert (folder.path / "fold-notes").exists()


def test_the_runs_of_a_path(folder: FoldsFolder) -> None:
    assert runs_of(folder.path.parent) == [folder.path.parent]
    for fold in (0, 2):
        folder.run(fold).create({})
        folder.run(fold).best.write_text("")
    with pytest.raises(RunError, match="fold-1"):
        runs_of(folder.path)
    folder.run(1).create({})
    folder.run(1).best.write_text("")
    assert [run.name for run in runs_of(folder.path)] == ["fold-0", "fold-1", "fold-2"]
