"""Checkpoints and runs that cannot be used or continued: exit status 2, one message, the run unchanged."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from messages import says
from safetensors.numpy import save_file

from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.run_folder import RunFolder


def with_a_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return ("checksum",)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])
    return ("bytes",)


def foreign(path):
    save_file({"weight": np.zeros(4)}, path)
    return ("another program",)


def pickled(path):
    path.write_bytes(pickle.dumps({"state_dict": [1, 2]}))
    return ("damaged",)


def missing(path):
    path.unlink()
    return ("no such checkpoint",)


SPOILED_CHECKPOINTS = (with_a_flipped_bit, cut_off, foreign, pickled, missing)


@pytest.mark.parametrize("spoil", SPOILED_CHECKPOINTS, ids=lambda f: f.__name__)
def test_checkpoint_to_predict_with(refused, trained, image, tmp_path, spoil):
    texts = spoil(trained / "best.safetensors")
    says(refused("predict", trained, image, "--out", "results"), trained / "best.safetensors", *texts)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("spoil", SPOILED_CHECKPOINTS, ids=lambda f: f.__name__)
def test_checkpoint_to_resume(refused, trained, unchanged, spoil):
    texts = spoil(trained / "last.safetensors")
    with unchanged(trained):
        says(refused("train", "--resume", trained, "--steps", "6"), trained / "last.safetensors", *texts)


def test_resume_of_a_folder_that_is_no_run(refused, data, unchanged):
    with unchanged(data):
        says(refused("train", "--resume", data), data / "last.safetensors")


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [
        ("lr", "0.5", "0.01"),
        ("depth", "2", "1"),
        ("seed", "9", "0"),
        ("holdout", "2", "1"),
        ("tile", "20", "16"),
    ],
)
def test_resume_with_other_options(refused, trained, unchanged, option, value, before):
    with unchanged(trained):
        message = refused("train", "--resume", trained, f"--{option}", value)
    says(message, f"resume: {option} ", f"started with  {before}", f"given         {value}")


@pytest.mark.parametrize("steps", ["2", "6"])
def test_resume_with_other_steps_on_a_schedule_that_ends(refused, command, data, tiny, steps):
    """The learning rate would jump, and no command could repeat the run."""
    tiny[tiny.index("--schedule") + 1] = "poly"
    assert command("train", "--data", data, "--out", "run", *tiny)[0] == 0
    says(refused("train", "--resume", "run", "--steps", steps), "'poly'", "--steps 4", f"--steps {steps}")
    assert command("train", "--resume", "run", "--steps", "4")[0] == 0


def test_resume_of_a_run_without_checkpoint(refused, trained):
    for name in ("best", "last"):
        (trained / f"{name}.safetensors").unlink()
    message = refused("train", "--resume", trained)
    says(message, trained / "last.safetensors", "steps made    4", "--overwrite")


@pytest.mark.parametrize(
    "change",
    [
        {"progress": {"best_score": "high"}},
        {"progress": {"unknown": 3}},
        {"progress": {"recent": [[1.0, 2.0]]}},
        {"config": {"lr": -1}},
        {"config": {"momentum": 10**30}},
        {"config": {"depth": 2}},
        {"config": {"steps": 0}},
        {"config": {"layers": 3}},
        {"config": {"augmentation": {"twists": 3}}},
        {"config": {"augmentation": {"elastic_points": 30_000}}},
        {"config": {"tile": 30_000}},
    ],
)
def test_a_checkpoint_whose_options_do_not_fit(refused, trained, unchanged, change):
    path = trained / "last.safetensors"
    stored = load_checkpoint(path)
    parts = {name: {**getattr(stored, name), **value} for name, value in change.items()}
    save_checkpoint(path, replace(stored, **parts))
    with unchanged(trained):
        refused("train", "--resume", trained)


def test_resume_while_another_process_trains(refused, trained, unchanged):
    pytest.importorskip("fcntl")
    with RunFolder(trained).locked(), unchanged(trained):
        says(refused("train", "--resume", trained, "--steps", "6"), trained, "another process")


def test_resume_with_fewer_steps_than_were_made(refused, trained, unchanged):
    with unchanged(trained):
        says(refused("train", "--resume", trained, "--steps", "3"), trained, "made     4", "--steps  3")


@pytest.mark.parametrize("option", [("--out", "other"), ("--overwrite",)])
def test_resume_into_another_folder(refused, trained, unchanged, option):
    with unchanged(trained):
        says(refused("train", "--resume", trained, *option), "--resume", option[0])


def test_resume_after_the_data_has_gone(refused, trained_once, trained, unchanged):
    hidden = trained_once.parent / "data"
    moved = hidden.rename(hidden.with_name("moved"))
    try:
        with unchanged(trained):
            says(refused("train", "--resume", trained, "--steps", "6"), hidden)
    finally:
        moved.rename(hidden)
