"""python -m tinyunet.compare: the same images, the same time, and the results of each network."""

import json

import numpy as np
import pytest
from films import write_film
from PIL import Image

from tinyunet.prediction.tiling import multiplications_per_pixel
from tinyunet.reporting import pictures, plots
from tinyunet.training.checkpoint import load_model

NETWORKS = ["unet", "fcn", "sliding-window"]


@pytest.fixture
def record(compared):
    return json.loads((compared / "comparison.json").read_text())


def test_writes_the_runs_the_results_and_a_picture(compared, record):
    assert {path.name for path in compared.iterdir()} == {*NETWORKS, "comparison.json", "comparison.png"}
    assert list(record["networks"]) == NETWORKS
    assert (record["minutes"], record["seed"], record["held_out_images"]) == (0.002, 3, ["2"])
    assert "--minutes 0.002" in record["command"]
    assert record["versions"]["tinyunet"]
    for result in record["networks"].values():
        assert result["steps"] >= 1
        assert result["train_seconds"] > 0
        assert result["seconds_per_image"] > 0
        assert 0 <= result["measures"]["mean_iou"]["mean"] <= 1
    picture = np.asarray(Image.open(compared / "comparison.png").convert("L"))
    assert len(np.unique(picture)) > 30


def test_only_the_network_and_its_time_differ(compared, record):
    configs = [json.loads((compared / name / "config.json").read_text()) for name in NETWORKS]
    for config, name in zip(configs, NETWORKS, strict=True):
        assert config.pop("model") == name
        assert config.pop("steps") == config.pop("validate_every") == record["networks"][name]["steps"]
    assert configs[0] == configs[1] == configs[2]
    assert (configs[0]["lr"], configs[0]["base_channels"]) == (0.01, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_results_are_those_of_the_stored_run(command, compared, record, tmp_path, name):
    """The last weights, the only ones that were scored, get the same scores from tinyunet.evaluate."""
    result = record["networks"][name]
    status, _, _ = command("evaluate", compared / name, "--out", tmp_path / "scores")
    assert status == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert scores["measures"] == result["measures"]
    model, checkpoint = load_model(compared / name)
    assert checkpoint.step == result["steps"]
    assert result["parameters"] == sum(parameter.data.size for parameter in model.parameters())
    assert result["multiplications_per_pixel"] == multiplications_per_pixel(model, (40, 36), tile=16)


def test_brute_force_of_the_classifier_alone(record):
    results = record["networks"]
    assert results["unet"]["brute_force"] is results["fcn"]["brute_force"] is None
    brute_force = results["sliding-window"]["brute_force"]
    maps = [(92, 4, 1), (42, 5, 2), (18, 4, 2), (6, 4, 2)]  # in a window of 95 pixels: side, kernel, channels
    by_hand = sum(side**2 * size**2 * channels * 2 for side, size, channels in maps) + 9 * 2 * 200 + 400
    assert brute_force["multiplications_per_pixel"] == by_hand
    assert brute_force["seconds_per_image"] > results["sliding-window"]["seconds_per_image"]


def test_the_table_has_a_column_for_each_network(command, data, tiny_comparison, tmp_path):
    status, out, _ = command(
        "compare", "--data", data, "--out", tmp_path / "out", *tiny_comparison, "--networks", "fcn", "unet"
    )
    assert status == 0
    head, *rows = out.split("each measure over all of them\n")[1].splitlines()
    assert head.split() == ["fcn", "unet"]
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    values = {row[:27].strip(): row[27:].split() for row in rows}
    for i, name in enumerate(("fcn", "unet")):
        result = record["networks"][name]
        assert values["parameters"][i] == f"{result['parameters']:,}"
        assert values["mean_iou ↑"][i] == f"{result['measures']['mean_iou']['set_wide']:.4f}"
        assert values["v_rand ↑"][i] == f"{result['measures']['v_rand']['mean']:.4f}"


def test_films_as_they_are_trained_on(command, tiny_comparison, monkeypatch, tmp_path):
    """Silver truth, and background only near it, reach the reader, the records and the pictures."""
    titles = []
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda self, title, **_: titles.append(title))
    film = write_film(tmp_path / "SET", outlined={0: [1, 2]}, markers=False)
    write_film(film, outlined={frame: [1, 2] for frame in range(3)}, truth="ST", markers=False)
    chosen = ("--truth", "silver", "--partly-annotated", "5", "--networks", "unet")
    status, out, message = command("compare", "--data", film, "--out", "out", *tiny_comparison, *chosen)
    assert status == 0, message
    assert "3 of 4 frames" in out
    assert "5 px" in out
    assert len(titles) >= 2  # the run's examples, and the comparison
    assert all("sand" in title for title in titles)
    results = tmp_path / "out"
    for path in (results / "comparison.json", results / "unet" / "config.json"):
        record = json.loads(path.read_text())
        assert (record["truth"], record["partly_annotated"]) == ("silver", 5)
    assert command("evaluate", results / "unet", "--out", "scores")[0] == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    record = json.loads((results / "comparison.json").read_text())
    assert scores["measures"] == record["networks"]["unet"]["measures"]


def test_the_picture_shows_each_networks_mistakes(monkeypatch, tmp_path):
    """One network is right everywhere, the other nowhere."""
    shown, titles = [], []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.imshow", lambda self, picture, **_: shown.append(np.asarray(picture))
    )
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda self, title, **_: titles.append(title))
    label = np.arange(12).reshape(3, 4) % 2
    right = np.eye(2)[label]
    plots.plot_comparison(
        [np.full((3, 4, 1), 9)],
        [label],
        {"right": [right], "wrong": [1 - right]},
        tmp_path / "x.png",
        title="x",
    )
    image, probability, mistakes, classes, opposite, all_wrong, _ = shown
    assert image.shape == classes.shape == (3, 4, 3)
    np.testing.assert_array_equal(probability, label)
    np.testing.assert_array_equal(opposite, 1 - label)
    assert (mistakes == mistakes[0, 0]).all()
    assert (all_wrong[label == 0] == pictures.RED).all()
    assert (all_wrong[label == 1] == pictures.BLUE).all()
    assert titles[0].startswith("x\n")


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["--minutes", "0"], ["minutes is 0"]),
        (["--minutes", "nan"], ["minutes is nan"]),
        (["--networks", "unet", "unet"], ["networks is unet unet"]),
        (["--networks"], ["networks is empty"]),
        (["--networks", "resnet"], ["resnet"]),
        (["--unet.base-channels", "0"], ["base_channels is 0"]),
        (["--holdout", "9"], ["holdout '9'"]),
        (["--truth", "gold"], ["gold", "--truth"]),
        (["--partly-annotated", "0"], ["partly_annotated is 0"]),
    ],
)
def test_options_that_do_not_fit(refused, data, tiny_comparison, tmp_path, options, texts):
    message = refused("compare", "--data", data, "--out", tmp_path / "out", *tiny_comparison, *options)
    for text in texts:
        assert text in message
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten(refused, compared, data, tiny_comparison, unchanged):
    with unchanged(compared):
        message = refused("compare", "--data", data, "--out", compared, *tiny_comparison)
    assert "--overwrite" in message
