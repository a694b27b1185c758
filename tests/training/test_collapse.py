"""A constant prediction is reported with its cause, and a good training gets no report."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import entropy

import tinyunet as tu
from tinyunet.autograd import Tensor
from tinyunet.data import UNKNOWN, ImageSet
from tinyunet.errors import ShapeError
from tinyunet.models import UNet
from tinyunet.sampling import WeightMap
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.collapse import Facts, explain, loss_of_constant, watch_units
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Collapsed, Stepped, Validated
from tinyunet.training.trainer import Trainer

CONFIG = TrainConfig(
    base_channels=4, depth=1, tile=16, steps=150, validate_every=50, lr=0.01, momentum=0.9, dropout=0.0
)


def discs(seed, n=3, shape=(40, 36)):
    """Bright discs in noise: easy."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    labels = []
    for _ in range(n):
        near = [np.hypot(y - top, x - left) < 6 for top, left in rng.uniform(0, shape, (6, 2))]
        labels.append(np.any(near, axis=0).astype(np.uint8))
    return image_set([3 * label[..., None] + rng.normal(size=(*shape, 1)) for label in labels], labels)


def specks(seed, n=3, shape=(40, 36)):
    """One pixel in a hundred is of class 1, and nothing in the image shows which."""
    rng = np.random.default_rng(seed)
    labels = [(rng.random(shape) < 0.01).astype(np.uint8) for _ in range(n)]
    return image_set([rng.normal(size=(*shape, 1)) for _ in labels], labels)


def image_set(images, labels):
    return ImageSet(images, [f"i{number}" for number in range(len(images))], labels, "binary", 2)


def trainer(make=discs, **changes):
    return Trainer(replace(CONFIG, **changes), make(0), make(1, n=2))


def reports(training):
    return [event for event in training.run() if isinstance(event, Collapsed)]


def predict_class_0(training):
    """Make the network predict class 0 for any image, with a probability of two thirds."""
    training.model.scores.weight.data[...] = 0
    training.model.scores.bias.data[...] = [0.7, 0]


@pytest.mark.parametrize("lr", [0.5, 3.0])
def test_a_rate_that_kills_units(lr):
    training = trainer(lr=lr)
    (collapsed,) = reports(training)
    assert collapsed.cause == "dead units"
    text = str(collapsed)
    for value in (
        f"learning rate  {lr:g};",
        f"{10 * lr:g}",
        f"--lr, for instance {lr / 10:g}",
        "of 6 layers",
    ):
        assert value in text
    # The named layers are dead: none of their units is above 0 on a held-out image.
    x = Tensor(training.validation_set.images[0][:36, :36].astype(np.float32)[np.newaxis])
    with watch_units(training.model.eval()) as units, tu.no_grad():
        training.model(x)
    dead = [name for name, alive in units.items() if not alive.any()]
    assert dead
    for name in dead[:3]:
        assert name in collapsed.numbers["dead units"]


def test_classes_too_rare():
    """Without class balance one in a hundred is not worth learning."""
    (collapsed,) = reports(trainer(specks, weights=WeightMap(w0=0, class_balance=False)))
    assert (collapsed.step, collapsed.cause) == (100, "imbalance")
    for text in ("class 0 ", "99 %, 1.04 %", "weights 1, 1", "no-class-balance"):
        assert text in str(collapsed)
    assert ";" not in collapsed.numbers["dead units"]  # no layer is named


def test_steps_too_short():
    training = trainer(lr=1e-9)
    predict_class_0(training)
    (collapsed,) = reports(training)
    assert (collapsed.step, collapsed.cause) == (100, "nothing learned")
    assert "--lr 3e-09 and 3.33333e-10" in collapsed.remedy


@pytest.mark.parametrize("seed", range(3))
def test_a_good_training_gets_no_report(seed):
    """Even if its first predictions are of one class."""
    training = trainer(seed=seed, steps=250, validate_every=10)
    scores = []
    for event in training.run():
        assert not isinstance(event, Collapsed), event
        scores += [event.scores.mean_iou] if isinstance(event, Validated) else []
    assert scores[-1] > 0.8


def test_early_steps_may_predict_one_class():
    """For 100 steps or a tenth of all; then it is reported, once."""
    for steps, first in ((150, 100), (3000, 300)):
        training = trainer(lr=1e-9, steps=steps)
        predict_class_0(training)
        found = []
        for event in training.run():
            found += [event.step] if isinstance(event, Collapsed) else []
            if event.step == min(steps, 400):
                break
        assert found == [first]


def test_a_report_comes_before_the_validation_and_again_after_a_recovery():
    training = trainer(lr=1e-9, steps=400)
    predict_class_0(training)
    order = []
    for event in training.run():
        if not isinstance(event, Stepped):
            order.append((type(event).__name__, event.step))
        if isinstance(event, Validated) and event.step in (200, 300):
            training.model.scores.bias.data[...] = [0, 0] if event.step == 200 else [0.7, 0]
            training.model.scores.weight.data[...] = (event.step == 200) * np.array([-1, 1]) * 0.01
    expected = [("Collapsed", 100), ("Collapsed", 350)]
    assert [entry for entry in order if entry[0] == "Collapsed"] == expected
    for entry in expected:
        assert order[order.index(entry) + 1] == ("Validated", entry[1])


def test_a_stopped_run_reports_the_same(tmp_path):
    """Recent losses and earlier reports are part of a checkpoint."""
    options = {"make": specks, "weights": WeightMap(w0=0, class_balance=False)}
    (expected,) = reports(trainer(**options))
    for stop in (70, 120):
        stopped = trainer(**options)
        found = []
        for event in stopped.run():
            found += [event] if isinstance(event, Collapsed) else []
            if event.step == stop:
                break
        save_checkpoint(tmp_path / "last", stopped.checkpoint())
        resumed = trainer(**options)
        resumed.restore(load_checkpoint(tmp_path / "last"))
        assert found + reports(resumed) == [expected]


def test_an_unexplained_prediction_is_examined_again(monkeypatch):
    """A network whose loss showed that it learns may have stopped by the next validation."""
    answers = iter([None])
    monkeypatch.setattr("tinyunet.training.trainer.GRACE_STEPS", 2)
    monkeypatch.setattr("tinyunet.training.trainer.explain", lambda facts: next(answers, explain(facts)))
    training = trainer(lr=1e-9, steps=4, validate_every=1)
    predict_class_0(training)
    assert [event.step for event in reports(training)] == [3]


@pytest.mark.parametrize("silent", [0, 1])
def test_a_layer_that_reacts_to_another_image_is_not_dead(silent):
    """A constant image is 0 everywhere after normalisation, and at the start no unit is above 0 on it."""
    training = trainer(lr=1e-9, steps=2, validate_every=1)
    images = list(training.validation_set.images)
    images[silent] = np.ones((40, 36, 1))
    training = Trainer(
        training.config, training.training_set, image_set(images, training.validation_set.labels)
    )
    predict_class_0(training)
    assert not reports(training)


def test_rare_objects_that_are_not_found_are_a_collapse():
    """Most held-out images are empty, and background everywhere is right there."""
    training = trainer(lr=1e-9)
    images, labels = training.validation_set.images * 5, [np.zeros((40, 36), np.uint8) for _ in range(10)]
    labels[3][10:16, 10:16] = labels[7][20:25, 5:12] = 1
    training = Trainer(training.config, training.training_set, image_set(images, labels))
    predict_class_0(training)
    events = list(training.run())
    assert [event.step for event in events if isinstance(event, Collapsed)] == [100]
    for scores in (event.scores for event in events if isinstance(event, Validated)):
        assert scores.iou[1] == 0
        assert scores.mean_iou < 0.5


def test_a_run_that_ends_with_one_class_says_so():
    """Also if its loss shows that it was learning."""
    for changes in ({}, {"patience": 1}):
        training = trainer(lr=1e-9, **changes)
        predict_class_0(training)
        for event in training.run():
            training.progress.recent = [[0.1, 0.5, 0.5]]
            if isinstance(event, Collapsed):
                assert event.cause == "too early"
                assert event.step == (100 if changes else 150)
        assert training.progress.collapsed


def test_a_validation_before_any_labelled_pixel_was_seen(monkeypatch):
    """Sparse annotation: no tile of the first steps has a labelled pixel."""
    monkeypatch.setattr("tinyunet.sampling.sampler.MAX_DRAWS", 1)
    rng = np.random.default_rng(0)
    labels = np.full((400, 400), UNKNOWN, np.int32)
    labels[0, :3] = 0, 1, 1
    sparse = image_set([rng.normal(size=(400, 400, 1))], [labels])
    training = Trainer(replace(CONFIG, lr=1e-9, steps=120, validate_every=60), sparse, discs(1, n=2))
    predict_class_0(training)
    (collapsed,) = reports(training)
    assert (collapsed.step, collapsed.cause) == (120, "no labels")
    assert not training.progress.recent
    assert "none" in collapsed.numbers["loss"]


def test_held_out_images_of_one_class_are_no_collapse():
    training = trainer(lr=1e-9)
    empty = image_set(training.validation_set.images, [np.zeros((40, 36), np.uint8)] * 2)
    training = Trainer(training.config, training.training_set, empty)
    predict_class_0(training)
    assert not reports(training)


def facts(**changes):
    found = Facts(
        step=200,
        predicted=0,
        units={"a": np.array([True, False]), "b": np.array([True, True, True])},
        loss=0.69,
        constant=0.69,
        lr=0.03,
        momentum=0.99,
        shares=np.array([0.9, 0.1]),
        class_weights=[0.56, 5.0],
        balanced=True,
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({}, "nothing learned", "--lr 0.09 and 0.01"),
        ({"loss": 0.6}, None, ""),
        ({"loss": 0.6, "final": True}, "too early", "--steps"),
        ({"loss": None, "constant": None}, "no labels", "--tile"),
        ({"loss": 1.2}, "steps too long", "smaller --lr, for instance 0.003"),
        (
            {"loss": 0.33, "constant": 0.33, "balanced": False},
            "imbalance",
            "leave out --weights.no-class-balance",
        ),
        ({"shares": np.array([1.0, 0]), "loss": 0.1, "constant": 0.0}, "imbalance", "--holdout"),
        ({"loss": 0.33, "constant": 0.33}, "imbalance", "label more of the rare classes"),
        # To guess between two classes costs log 2, even if the labels could have a third.
        ({"shares": np.array([0.5, 0.5, 0]), "loss": 0.4, "constant": 0.4}, "nothing learned", "--lr"),
        ({"units": {"a": np.zeros(2, bool)}, "loss": 0.1}, "dead units", "does not recover"),
    ],
)
def test_causes(changes, cause, remedy):
    found = explain(facts(**changes))
    assert (found and found.cause) == cause
    if found:
        assert remedy in found.remedy
        assert "with momentum 0.99" in str(found)
        assert len(str(found).splitlines()) == 6


def test_dead_units_are_named():
    assert explain(facts()).numbers["dead units"] == "1 of 5"
    layers = {"a": np.zeros(2, bool), "b": np.array([True, False, True])}
    assert explain(facts(units=layers)).numbers["dead units"] == "3 of 5; all of a"


def test_dead_units_are_counted():
    """Some units have a bias that no input overcomes; the others are above 0 somewhere."""
    model = UNet(1, 2, base_channels=4, depth=2, dropout=0, seed=3).eval()
    model.contracting[1].second.bias.data[[2, 5]] = -1e6
    model.expansive[0].first.bias.data[:] = -1e6
    x = Tensor(np.random.default_rng(0).normal(size=(1, 60, 60, 1)).astype(np.float32))
    expected = model(x).data
    with watch_units(model) as units:
        watched = model(x).data
        model(Tensor(-x.data))
    np.testing.assert_array_equal(watched, expected)
    channels = {
        "contracting.0": 4,
        "contracting.1": 8,
        "contracting.2": 16,
        "expansive.0": 8,
        "expansive.1": 4,
    }
    expected_sizes = {f"{block}.{layer}": n for block, n in channels.items() for layer in ("first", "second")}
    assert {name: alive.size for name, alive in units.items()} == expected_sizes
    assert np.flatnonzero(~units["contracting.1.second"]).tolist() == [2, 5]
    assert not units["expansive.0.first"].any()
    assert units["contracting.2.first"].any()
    np.testing.assert_array_equal(model(x).data, expected)
    assert len(units["contracting.0.first"]) == 4
    assert all("forward" not in vars(part) for _, part in model.named_modules())  # as it was


def test_an_error_does_not_leave_the_network_watched():
    model = UNet(1, 2, base_channels=2, depth=1)
    with pytest.raises(ShapeError), watch_units(model):
        model(Tensor(np.zeros((1, 21, 20, 1), np.float32)))
    assert all("forward" not in vars(part) for _, part in model.named_modules())


@pytest.mark.parametrize("weights", [[3.0, 1.0], [5.0, 0.0, 5.0], [1.0, 2.0, 3.0, 4.0], [0.0, 7.0]])
def test_the_loss_of_a_constant_prediction_is_an_entropy(weights):
    assert loss_of_constant(np.array(weights)) == pytest.approx(entropy(weights), rel=1e-12, abs=1e-15)
