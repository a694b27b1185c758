"""A training on layers is a run of tinyunet.train, and can be stopped and continued."""

import json
import shlex
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinyunet import predict, report, train
from tinyunet.errors import DataError, RunError
from tinyunet.napari.layers import layer_set
from tinyunet.napari.segmentation import segment_layer
from tinyunet.napari.training import Drawn, Preview, Said, Started, Stopped, resume, train_on_layers
from tinyunet.training.checkpoint import load_checkpoint
from tinyunet.training.events import Finished, Stepped, Validated


def never():
    return False


def weights(run):
    """Step and weights of the last checkpoint, as bytes."""
    checkpoint = load_checkpoint(run / "last.safetensors")
    return checkpoint.step, {name: array.tobytes() for name, array in checkpoint.weights.items()}


def kinds(reports):
    return [type(report) for report in reports]


def test_the_logged_command_repeats_the_run(trained, tmp_path):
    started = json.loads((trained / "log.jsonl").read_text().splitlines()[0])
    words = shlex.split(started["command"])
    assert words[:3] == ["python", "-m", "tinyunet.train"]
    train.main([*words[3:], "--out", str(tmp_path / "again")])
    assert weights(tmp_path / "again") == weights(trained)


def test_other_commands_take_the_run(trained, tmp_path):
    predict.main([str(trained), str(trained / "layers.npz"), "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").iterdir())) == 4 * 4
    report.main([str(trained)])
    assert (trained / "report.html").stat().st_size > 0


def test_what_is_reported(cells, choices):
    """Text first; curves and a preview with each of the three validations; the end."""
    reports = list(train_on_layers(layer_set(*cells), choices(), never))
    assert isinstance(reports[0], Said)
    started = next(report for report in reports if isinstance(report, Started))
    assert (started.step, started.steps) == (0, 6)
    assert kinds(reports).count(Stepped) == 6
    assert kinds(reports).count(Validated) == kinds(reports).count(Preview) == 3
    assert all(report.png.startswith(b"\x89PNG") for report in reports if isinstance(report, Drawn))
    assert kinds(reports)[-2:] == [Finished, Drawn]


def test_minutes_become_steps(cells, choices):
    chosen = choices(steps=None, minutes=0.02)
    reports = list(train_on_layers(layer_set(*cells), chosen, never))
    started = next(report for report in reports if isinstance(report, Started))
    assert f"--steps {started.steps}" in started.command
    assert "--minutes" not in started.command
    assert kinds(reports).count(Stepped) == started.steps


def test_the_preview_is_the_prediction_at_its_place(cells, choices):
    """Up to pixels on the edge, as a checkpoint is predicted in larger tiles."""
    chosen = choices()
    previews = [r for r in train_on_layers(layer_set(*cells), chosen, never) if isinstance(r, Preview)]
    (place, labels), *others = previews[-1].pieces
    assert not others  # one of four slices is held out
    assert (previews[-1].shape, place[0]) == (cells[1].shape, slice(3, 4))
    found = segment_layer(cells[0][place][0], chosen.run / "last.safetensors")
    assert np.mean((found > 0) != (labels > 0)) < 0.01


@pytest.mark.parametrize("command", [False, True])
def test_a_stopped_run_goes_on_to_the_same_weights(cells, choices, trained, command):
    chosen = choices()
    reports = list(train_on_layers(layer_set(*cells), chosen, lambda: True))
    assert reports[-1] == Stopped(1)
    if command:
        train.main(["--resume", str(chosen.run)])
    else:
        again = list(resume(chosen.run, never))
        assert next(r for r in again if isinstance(r, Started)).step == 1
        assert kinds(again).count(Preview) == 3  # those of steps 2, 4 and 6
    assert weights(chosen.run) == weights(trained)


def test_a_folder_of_another_run_is_refused_and_left_alone(cells, choices, trained):
    before = (trained / "layers.npz").stat().st_mtime_ns
    chosen = choices()
    object.__setattr__(chosen, "run", trained)
    with pytest.raises(RunError, match="exists, nothing was overwritten"):
        list(train_on_layers(layer_set(*cells), chosen, never))
    assert (trained / "layers.npz").stat().st_mtime_ns == before


def test_labels_that_can_be_read_in_two_ways_are_refused_and_then_decided(choices):
    """Two values, one piece each, in both slices: objects or classes. The folder stays free."""
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[0, 5:25, 5:25], labels[0, 35:60, 35:60] = 1, 2
    labels[1, 10:30, 10:30], labels[1, 27:52, 27:52] = 1, 2
    image = labels * 50.0 + np.random.default_rng(0).normal(0, 5, labels.shape)
    with pytest.raises(DataError, match="objects or classes"):
        list(train_on_layers(layer_set(image, labels), choices(), never))
    reports = list(train_on_layers(layer_set(image, labels), choices(kind="instances"), never))
    assert Finished in kinds(reports)


def test_pixels_that_nobody_labelled_do_not_count(cells, choices):
    """A few strokes of 1 on background and 2 on cells; 0 means unlabelled."""
    labels = np.where(cells[1] > 0, 2, 1)
    labels[:, :, 10:] = 0
    chosen = choices(unknown=0)
    text = next(train_on_layers(layer_set(cells[0], labels, ignore=[0]), chosen, never)).text
    assert "90 % of the pixels unknown" in text
    assert "1, 2" in text


def test_predicting_while_another_thread_trains_disturbs_neither(cells, choices, trained):
    alone, chosen = segment_layer(cells[0], trained), choices()

    def work():
        return kinds(train_on_layers(layer_set(*cells), chosen, never)).count(Stepped)

    predictions = []
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(work)
        while not predictions or not training.done():
            predictions.append(segment_layer(cells[0], trained))
    assert training.result() == 6
    assert weights(chosen.run) == weights(trained)
    assert all((labels == alone).all() for labels in predictions)
