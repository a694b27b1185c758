"""A plateau is reported once, while it lasts, and so is its end; learning is never called one."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from tinyunet.data import ImageSet
from tinyunet.training.checkpoint import load_checkpoint, save_checkpoint
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Plateau, PlateauLeft, Stepped
from tinyunet.training.plateau import Level, watch
from tinyunet.training.progress import RECENT, Progress
from tinyunet.training.recipes import recipe
from tinyunet.training.trainer import Trainer
from tinyunet.training.validation import score_of_constant

LOG_2 = float(np.log(2))


def follow(losses, *, config=None, scores=None, constant=LOG_2, progress=None):
    """Step and kind of each event for a pretended curve of losses; scores by the step that they start at."""
    config = config or recipe("paper", steps=len(losses))
    progress, events = progress or Progress(), []
    for step in range(RECENT, len(losses) + 1):
        progress.last_score = (scores or {}).get(step, progress.last_score)
        recent = float(np.mean(losses[step - RECENT : step]))
        if event := watch(Level(step, recent, constant, 0.35), progress, config):
            events.append(event)
    return events


def kinds(events):
    return [(type(event).__name__, event.step) for event in events]


def noisy(losses, seed=0, spread=0.05):
    return np.asarray(losses) + np.random.default_rng(seed).normal(0, spread, len(losses))


def test_a_curve_that_stays_at_a_constant():
    """From step 50 on the loss stands; it is said after two hundred more, and only once."""
    (event,) = follow(np.full(600, 0.69))
    assert isinstance(event, Plateau)
    assert event.step == RECENT + 200
    assert "0.69 in recent steps, 0.693 for a constant" in event.numbers["loss"]


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_hide_a_plateau(seed):
    """The mean of 50 losses has a deviation of 0.007: a chance low of 0.01 may delay the report, not more."""
    events = follow(noisy(np.full(1000, 0.69), seed))
    assert [type(event) for event in events] == [Plateau]
    assert events[0].step <= 600


def test_the_end_is_reported_and_then_another_plateau_can_be():
    curve = [0.7] * 400 + [0.3] * 200 + [0.7] * 400
    first, left, second = follow(curve)
    assert kinds([first, left, second]) == [
        ("Plateau", 250),
        ("PlateauLeft", left.step),
        ("Plateau", second.step),
    ]
    assert left.since == 250
    assert 400 < left.step < 400 + RECENT
    assert second.step > 600


def test_no_alarm_in_the_first_tenth():
    for steps, first in ((600, RECENT + 200), (3000, RECENT + 300)):
        events = follow([0.69] * steps)
        assert kinds(events) == [("Plateau", first)]


@pytest.mark.parametrize("spread", [0, 0.05])
def test_slow_but_steady_learning_is_none(spread):
    """From 0.8 to 0.66 in 1,000 steps, above a constant's loss for three quarters of them."""
    curve = noisy(np.linspace(0.8, 0.66, 1000), spread=spread)
    assert not follow(curve, scores={250: 0.36, 500: 0.38})


def test_a_usual_curve_is_none():
    curve = 0.2 + 0.6 * np.exp(-np.arange(2000) / 150)
    assert not follow(noisy(curve), scores={100: 0.4, 400: 0.7, 1000: 0.8})


def test_a_converged_run_is_none():
    """The loss stands still for long, but far below a constant's, and the score is good."""
    assert not follow([0.1] * 1500, scores={50: 0.9})


def test_a_loss_below_a_constant_with_a_score_of_one():
    """Nearly everything is "cell": the border weights let the loss fall, as on DIC images."""
    events = follow([0.6] * 1500, scores={100: 0.37, 1000: 0.38, 1200: 0.6})
    assert kinds(events) == [("Plateau", 250), ("PlateauLeft", 1200)]
    assert "0.370, 0.350 for the best" in events[0].numbers["mean IoU"]


def test_a_collapse_says_more():
    """While one class everywhere is reported, with its cause, no plateau is."""
    assert not follow([0.69] * 500, progress=Progress(collapsed=True))


@pytest.mark.parametrize(
    ("config", "loss", "remedy"),
    [
        (recipe("paper"), 0.69, "--recipe default"),
        (recipe("default"), 0.69, "--lr 0.009 and 0.001"),
        (recipe("default"), 2.0, "smaller --lr, for instance 0.0003"),
        (recipe(model="fcn"), 0.69, "doctor"),
    ],
)
def test_remedies(config, loss, remedy):
    (event,) = follow([loss] * 500, config=config)
    assert remedy in event.remedy


CONFIG = TrainConfig(
    base_channels=4, depth=1, tile=16, steps=400, validate_every=100, lr=1e-9, momentum=0.9, dropout=0.0
)


def trainer(**changes):
    """Bright discs in noise; with such a rate a network that guesses both classes learns nothing."""
    rng = np.random.default_rng(0)
    y, x = np.indices((40, 36))
    labels = []
    for _ in range(4):
        near = [np.hypot(y - top, x - left) < 6 for top, left in rng.uniform(0, (40, 36), (6, 2))]
        labels.append(np.any(near, axis=0).astype(np.uint8))
    images = [3 * label[..., None] + rng.normal(size=(40, 36, 1)) for label in labels]
    whole = ImageSet(images, list("abcd"), labels, "binary", 2)
    training = Trainer(replace(CONFIG, **changes), whole.subset(range(3)), whole.subset([3]))
    training.model.scores.bias.data[...] = 0
    training.model.scores.weight.data[...] = np.array([-1, 1]) * 0.01
    training.model.scores.weight.data[..., ::2, :] *= -1  # some channels speak for each class
    return training


def found_by(training, stop=None):
    found = []
    for event in training.run():
        found += [event] if isinstance(event, Plateau | PlateauLeft) else []
        if isinstance(event, Stepped) and event.step == stop:
            break
    return found


def test_a_stopped_run_reports_the_same(tmp_path):
    """Also if it is stopped in the very step of the report."""
    (expected,) = found_by(trainer())
    for stop in (120, expected.step, expected.step + 5):
        stopped = trainer()
        before = found_by(stopped, stop)
        save_checkpoint(tmp_path / "last", stopped.checkpoint())
        resumed = trainer()
        resumed.restore(load_checkpoint(tmp_path / "last"))
        assert before + found_by(resumed) == [expected]


def test_learning_is_not_called_a_plateau():
    assert not found_by(trainer(lr=0.01))


def test_the_score_of_a_constant():
    validation_set = trainer().validation_set
    truth = validation_set.labels[0].ravel()
    constants = [jaccard_score(truth, np.full_like(truth, k), average="macro") for k in (0, 1)]
    assert score_of_constant(validation_set) == pytest.approx(max(constants), rel=1e-12)
