"""A user's mistakes: exit status 2, one message with the file and its values, nothing overwritten."""

import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from children import default_signals
from PIL import Image
from safetensors.numpy import save_file

from tinyunet import command_line
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.run_folder import RunFolder


def says(message, *texts):
    """The one error in what was printed has all the texts, and is short."""
    *_, error = parts = ("\n" + message).split("\nerror: ")
    assert len(parts) == 2
    for text in texts:
        assert str(text) in error
    assert len(error.splitlines()) < 12


# Each spoils a data set of three images, and returns what the message must contain.


def empty(data):
    for file in (data / "images").iterdir():
        file.unlink()
    return "images", ".png"


def text_as_image(data):
    (data / "images" / "1.png").write_text("no image")
    return "1.png", "8 bytes"


def truncated(data):
    file = data / "images" / "1.png"
    file.write_bytes(file.read_bytes()[:400])
    return "1.png", "400 bytes"


def without_label(data):
    (data / "labels" / "1.png").unlink()
    return ("1: 1",)


def without_image(data):
    (data / "images" / "2.png").unlink()
    return ("1: 2",)


def without_labels(data):
    shutil.rmtree(data / "labels")
    return "labels/", "masks/"


def other_size(data):
    Image.fromarray(np.zeros((40, 37), np.uint8)).save(data / "labels" / "1.png")
    return "(40, 36, 1)", "(40, 37)"


def strange_labels(data):
    Image.fromarray(np.random.default_rng(0).choice([0, 128, 255], (40, 36)).astype(np.uint8)).save(
        data / "labels" / "1.png"
    )
    return ("0, 128, 255",)


def all_background(data):
    for file in (data / "labels").iterdir():
        Image.fromarray(np.zeros((40, 36), np.uint8)).save(file)
    return ("--kind binary",)


def other_channels(data):
    Image.fromarray(np.zeros((40, 36, 3), np.uint8)).save(data / "images" / "1.png")
    return "(40, 36, 1)", "(40, 36, 3)"


def unknown_type(data):
    (data / "images" / "notes.docx").write_text("")
    (data / "labels" / "notes.png").write_bytes((data / "labels" / "1.png").read_bytes())
    return "notes.docx", ".png"


SPOILED = (
    empty, text_as_image, truncated, without_label, without_image, without_labels, other_size, strange_labels,
    all_background, other_channels, unknown_type,
)  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda f: f.__name__)
def test_data_to_train_on(refused, data, tiny, tmp_path, spoil):
    texts = spoil(data)
    says(refused("train", "--data", data, "--out", "run", *tiny), data, *texts)
    assert not (tmp_path / "run").exists()


def test_no_images_to_predict(refused, data, trained, tmp_path):
    texts = empty(data)
    says(refused("predict", trained, data, "--out", "results"), data, *texts)
    assert not (tmp_path / "results").exists()


def test_no_image_can_be_predicted(refused, data, trained, tmp_path):
    for file in (data / "images").iterdir():
        file.write_text("no image")
    says(refused("predict", trained, data, "--out", "results"), "0.png", "8 bytes")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("spoil", [text_as_image, truncated, other_channels], ids=lambda f: f.__name__)
def test_an_image_that_fails_does_not_cost_the_others(command, data, trained, tmp_path, spoil):
    """It is named at the end, and the exit status says that it is missing."""
    texts = spoil(data)
    status, out, message = command("predict", trained, data, "--out", "results")
    assert status == 1
    assert "wrote 8 files" in out
    texts = ("1 channels", "3 channels") if spoil is other_channels else texts
    for text in (data / "images" / "1.png", *texts, "1 of 3"):
        assert str(text) in message
    assert len(list((tmp_path / "results").iterdir())) == 8


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_an_image_that_fails_after_reading(command, data, trained, tmp_path, monkeypatch, error):
    from tinyunet.prediction.segmentation import segment

    def fail_once(models, image, **options):
        if not failed:
            failed.append(True)
            raise error
        return segment(models, image, **options)

    failed = []
    monkeypatch.setattr("tinyunet.predict.segment", fail_once)
    status, _, message = command("predict", trained, data, "--out", "results")
    assert (status, len(list((tmp_path / "results").iterdir()))) == (1, 8)
    assert f"{data / 'images' / '0.png'}: 0: " in message


@pytest.mark.parametrize(
    ("name", "arrays", "texts"),
    [
        ("no-labels", {"images": np.ones((3, 20, 20))}, ("labels",)),
        ("nan", {"images": np.where(np.arange(1200).reshape(3, 20, 20) == 441, np.nan, 1)},
         ("nan-1", "row 2, column 1")),
        ("range", {"images": np.ones((3, 20, 20)), "labels": np.full((3, 20, 20), -2)},
         ("-2",)),
        ("wide", {"images": np.ones((3, 20, 20)), "labels": np.zeros((3, 20, 21))},
         ("(3, 20, 21)", "(3, 20, 20)")),
        ("flat", {"images": np.ones((20, 20))}, ("(20, 20)",)),
    ],
)  # fmt: skip
def test_archives(refused, tiny, tmp_path, name, arrays, texts):
    labels = {} if name == "no-labels" else {"labels": np.eye(20, dtype=int)[None].repeat(3, axis=0)}
    path = tmp_path / f"{name}.npz"
    np.savez(path, **labels | arrays)
    says(refused("train", "--data", path, "--out", "run", *tiny), path, *texts)


def test_labels_out_of_range_of_classes(refused, tiny, tmp_path):
    labels = np.arange(1200).reshape(3, 20, 20)
    np.savez(tmp_path / "x.npz", images=np.ones((3, 20, 20)), labels=labels)
    message = refused("train", "--data", tmp_path / "x.npz", "--kind", "classes", "--out", "run", *tiny)
    says(message, "x.npz", "256", "1200")


def test_data_that_is_not_there(refused, trained):
    says(refused("train", "--data", "celsl"), "celsl")
    says(refused("predict", trained, "celsl", "--out", "results"), "celsl")


@pytest.mark.parametrize("holdout", ["some", "3", "1-9", "2-1", "0-2", "100%", "0%", ""])
def test_holdout(refused, data, tiny, tmp_path, holdout):
    message = refused("train", "--data", data, "--out", "run", *tiny, "--holdout", holdout)
    says(message, f"holdout '{holdout}'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", "-3"), ("steps", "0"), ("tile", "0"), ("validate-every", "0"), ("patience", "-1"),
        ("seed", "-1"), ("minutes", "0"), ("minutes", "nan"), ("minutes", "inf"), ("warmup", "-1"),
        ("optimiser", "adagrad"), ("schedule", "linear"), ("ignore", "99999999999999999999"),
        ("lr", "0"), ("lr", "-0.1"), ("lr", "nan"), ("lr", "inf"),
        ("momentum", "1"), ("weight-decay", "-1"), ("weight-decay", "inf"),
        ("dropout", "1"), ("base-channels", "0"), ("depth", "-1"), ("weights.sigma", "0"),
        ("partly-annotated", "0"), ("partly-annotated", "nan"), ("truth", "bronze"),
        ("weights.w0", "-1"), ("weights.w0", "inf"), ("weights.sigma", "inf"),
        ("augmentation.rotation", "-10"), ("augmentation.elastic-points", "1"),
        ("steps", "many"), ("padding", "full"), ("stepps", "3"),
    ],
)  # fmt: skip
def test_option_values(refused, data, tiny, tmp_path, option, value):
    message = refused("train", "--data", data, "--out", "run", *tiny, f"--{option}", value)
    name = option.split(".")[-1]
    assert name in message or name.replace("-", "_") in message
    assert value in message or str(float(value)) in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", ["4", "200"])
def test_minutes_and_steps(refused, data, tmp_path, steps):
    """Both are given, even if the steps are those of the default."""
    message = refused("train", "--data", data, "--out", "run", "--minutes", "3", "--steps", steps)
    says(message, "--minutes 3", f"--steps {steps}", "leave one of them out")
    assert not (tmp_path / "run").exists()


def test_minutes_of_a_run_that_is_resumed(refused, trained, unchanged):
    with unchanged(trained):
        says(refused("train", "--resume", trained, "--minutes", "3"), "leave out --minutes")


@pytest.mark.parametrize("option", ["tile", "augmentation.elastic-points"])
def test_options_that_ask_for_gigabytes(refused, data, tiny, tmp_path, monkeypatch, option):
    """They are refused before anything of their size is made."""
    monkeypatch.setattr("tinyunet.training.setup.Sampler", None)
    for value in ("3000", "10000000"):
        message = refused("train", "--data", data, "--out", "run", *tiny, f"--{option}", value)
        assert option.split(".")[-1].replace("-", "_") in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("base-channels", "20000"), ("depth", "60"), ("depth", "1000000"), ("depth", "13")]
)
def test_networks_beyond_all_memory(refused, data, tiny, tmp_path, monkeypatch, option, value):
    """They are refused before any weight is drawn."""
    monkeypatch.setattr("tinyunet.nn.layers.he_normal", None)
    tiny[tiny.index("--depth") + 1] = "4"
    says(refused("train", "--data", data, "--out", "run", *tiny, f"--{option}", value), option)
    assert not (tmp_path / "run").exists()


def test_a_depth_beyond_all_memory_for_the_doctor(refused, data):
    says(refused("doctor", data, "--depth", "1000000"), "depth", "1000000")


@pytest.mark.parametrize("option", ["steps", "seed", "validate-every", "patience", "tile"])
def test_numbers_of_many_digits(refused, data, tiny, tmp_path, option):
    for digits in (20, 400, 5000):
        message = refused("train", "--data", data, "--out", "run", *tiny, f"--{option}", "9" * digits)
        assert option in message or option.replace("-", "_") in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("variant", "release"), ("padding", "valid"), ("normalisation", "batch")]
)
def test_an_option_that_the_network_does_not_have(refused, data, tiny, tmp_path, option, value):
    message = refused("train", "--data", data, "--out", "run", *tiny, "--model", "fcn", f"--{option}", value)
    says(message, f"{option} is '{value}'", "'fcn'", "base_channels, depth, dropout")
    assert not (tmp_path / "run").exists()


def test_an_option_that_the_optimiser_does_not_have(refused, data, tiny, tmp_path):
    message = refused("train", "--data", data, "--out", "run", *tiny, "--optimiser", "adam")
    says(message, "momentum is 0.9", "'adam'", "weight_decay", "leave momentum out")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tile", "0"), ("tile", "-5"), ("symmetries", "4"),
        ("threshold", "50"), ("threshold", "-0.1"), ("threshold", "nan"), ("min-size", "-1"),
    ],
)  # fmt: skip
def test_option_values_of_predict(refused, trained, image, option, value):
    message = refused("predict", trained, image, "--out", "results", f"--{option}", value)
    assert option in message or option.replace("-", "_") in message
    assert value in message


def test_two_images_of_one_name(refused, trained, image):
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(image.with_suffix(".png"))
    message = refused("predict", trained, image.parent, "--out", "results")
    says(message, image.parent, "slide")


def test_channels_unlike_the_networks(refused, trained, make_data, tmp_path):
    message = refused("predict", trained, make_data("colour", channels=(3,)), "--out", "results")
    says(message, "colour", "1 channels", "3 channels")
    assert not (tmp_path / "results").exists()


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


@pytest.mark.parametrize("name", ["train", "predict"])
def test_unknown_backend(refused, data, tiny, trained, image, tmp_path, monkeypatch, name):
    arguments = ["--data", data, *tiny] if name == "train" else [trained, image]
    message = refused(name, *arguments, "--out", "run", "--backend", "tensorflow")
    for text in ("tensorflow", "numba", "numpy", "cuda"):
        assert text in message
    monkeypatch.setenv("TINYUNET_BACKEND", "tensorflow")
    says(refused(name, *arguments, "--out", "run"), "'tensorflow'", "numpy | numba | cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train", "predict"])
def test_a_precision_that_the_backend_lacks(refused, data, tiny, trained, image, tmp_path, name):
    arguments = ["--data", data, *tiny] if name == "train" else [trained, image]
    message = refused(name, *arguments, "--out", "run", "--backend", "numba", "--precision", "tf32")
    says(message, "numba", "tf32", "cuda")
    assert not (tmp_path / "run").exists()


def test_cuda_without_what_it_needs(refused, data, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    message = refused("train", "--data", data, "--out", "run", *tiny, "--backend", "cuda")
    says(message, "CuPy", "pip install", "numba")
    monkeypatch.setenv("TINYUNET_BACKEND", "cuda")
    says(refused("train", "--data", data, "--out", "run", *tiny), "CuPy")
    assert not (tmp_path / "run").exists()


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


def test_a_training_that_diverges_keeps_its_checkpoint(refused, data, tiny, tmp_path, monkeypatch):
    """From the third step the rate is absurd: what was saved after the second stays."""
    monkeypatch.setattr(
        "tinyunet.training.trainer.learning_rate", lambda config, step: [0.01, 1e30][step >= 2]
    )
    message = refused("train", "--data", data, "--out", "run", *tiny)
    says(message, "last finite loss", "--lr, for instance 0.001")
    for name in ("last", "best"):
        stored = load_checkpoint(tmp_path / "run" / f"{name}.safetensors")
        assert stored.step == 2
        assert all(np.isfinite(array).all() for array in stored.weights.values())


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["tarin"], 2), ([], 2), (["--help"], 0), (["-h"], 0), (["train", "--stepps"], 2)],
)
def test_the_command_of_commands(arguments, status, monkeypatch, capsys):
    from tinyunet.__main__ import main

    monkeypatch.setattr(sys, "argv", ["tinyunet", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == status
    said, silent = (err, out) if status else (out, err)
    assert not silent
    assert ("train" in said and "predict" in said) or "stepps" in said


def test_as_a_module():
    """With the exit status and without a traceback, as the shell sees it."""
    for module, arguments in (
        ("tinyunet", ["train", "--data", "celsl"]),
        ("tinyunet.train", ["--data", "celsl"]),
    ):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 2
        says(done.stderr, "celsl")
        assert "Traceback" not in done.stderr


STUB = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to a process on Windows")
@pytest.mark.parametrize(
    "arguments", [["-m", "tinyunet.train"], ["-m", "tinyunet", "train"], ["-c", "import tinyunet"]]
)
def test_ctrl_c_while_packages_are_imported(tmp_path, arguments):
    """A command ends without a traceback; a program that imports tinyunet gets its KeyboardInterrupt."""
    (tmp_path / "numba.py").write_text(STUB)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=default_signals,
    )
    if arguments[0] == "-m":
        assert (done.returncode, done.stderr) == (130, "")
    else:
        assert "KeyboardInterrupt" in done.stderr


def test_text_that_the_terminal_cannot_show(monkeypatch):
    """Results are worth more than an arrow or a name that is no UTF-8."""
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="ascii"))
    command_line.run(lambda: print("iou \N{DOWNWARDS ARROW} \udcff.png", flush=True))
    assert shown.getvalue().split() == [b"iou", b"v", rb"\udcff.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes names that are not UTF-8")
def test_names_that_are_not_utf_8(command, data, tiny, tmp_path):
    name = os.fsdecode(b"a\xff")
    for part in ("images", "labels"):
        (data / part / "1.png").rename(data / part / f"{name}.png")
    run = tmp_path / os.fsdecode(b"run\xfe")
    for arguments in (
        ("train", "--data", data, "--out", run, *tiny, "--holdout", "1-2"),
        ("train", "--resume", run),
        ("doctor", data, "--tile", "16", "--depth", "1"),
        ("predict", run, data, "--out", "results"),
        ("evaluate", run, "--out", "scores"),
        ("evaluate", "results", data, "--kind", "binary"),
        ("report", run),
    ):
        status, _, message = command(*arguments)
        assert status == 0, message
    assert (tmp_path / "results" / f"{name}_overlay.png").is_file()
    assert "a?" in (run / "report.html").read_text(encoding="utf-8")
