"""Options outside their range: exit status 2, one message with both values, nothing overwritten."""

import sys

import numpy as np
import pytest
from messages import says

from tinyunet.training.checkpoint import load_checkpoint


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
        ("fixed-statistics", "1.5"), ("fixed-statistics", "nan"),
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
