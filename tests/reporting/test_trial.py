"""How many steps fit into some minutes: measured before the run, which then is repeatable."""

from types import SimpleNamespace

import pytest

from tinyunet.data import split, synthetic_cells
from tinyunet.reporting import trial
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped
from tinyunet.training.ranks import ALONE
from tinyunet.training.trainer import Trainer

WAITING = TrainConfig(steps=trial.AS_MANY_AS_FIT, validate_every=trial.AS_MANY_AS_FIT)


def steps_taking(seconds):
    """A trainer whose steps take these seconds, one after the other; the last ones go on for ever."""

    def run():
        for step in range(10_000):
            yield Stepped(step + 1, 1.0, 0.1, seconds[min(step, len(seconds) - 1)], 0.0, 0)

    return lambda config: SimpleNamespace(run=run, ranks=ALONE)


@pytest.mark.parametrize("budget", [0.01, 10.0, 1000.0])
def test_the_first_step_and_a_delayed_one_do_not_count(budget):
    make = steps_taking([100.0, 0.5, 9.0, 0.5])
    assert trial.seconds_per_step(make, WAITING, budget) == 0.5


def test_the_trial_is_short():
    """A twentieth of the time, at most ten seconds, at least three steps."""
    for budget, expected in ((1.0, 4), (100.0, 11), (1e6, 21)):
        made = []
        make = steps_taking([0.5])

        def counted(config, make=make, made=made):
            def run():
                for event in make(config).run():
                    made.append(event)
                    yield event

            return SimpleNamespace(run=run, ranks=ALONE)

        trial.seconds_per_step(counted, WAITING, budget)
        assert len(made) == expected


@pytest.mark.parametrize(
    ("minutes", "validation", "steps", "every"),
    [
        (1, 0.25, 434, 44),  # 60 s without the trial's 3 and 0.25, and without 10 · 0.25
        (10, 2.0, 4544, 455),  # 600 s without 10, 2 and 10 · 2
        (1, 5.0, 336, 168),  # ten would take nearly all of the 52 s: two take 10
        (1, 100.0, 1, 1),  # nothing fits
        (0.001, 0.25, 1, 1),
    ],
)
def test_validations_are_part_of_the_time(monkeypatch, minutes, validation, steps, every):
    monkeypatch.setattr(trial, "seconds_per_step", lambda *_: 0.125)
    monkeypatch.setattr(trial, "seconds_per_validation", lambda *_: validation)
    fitted = trial.fit_into(minutes, None, WAITING)
    assert (fitted.steps, fitted.validate_every) == (steps, every)


def test_given_steps_between_validations_stay(monkeypatch):
    """600 s without the trial's 12; a validation of 2 s after every 100 steps of 0.125 s."""
    monkeypatch.setattr(trial, "seconds_per_step", lambda *_: 0.125)
    monkeypatch.setattr(trial, "seconds_per_validation", lambda *_: 2.0)
    config = TrainConfig(steps=trial.AS_MANY_AS_FIT, validate_every=100)
    fitted = trial.fit_into(10, None, config)
    assert (fitted.steps, fitted.validate_every) == (int(588 / 0.145), 100)


def test_a_validation_is_measured(tmp_path, monkeypatch):
    """With checkpoints and pictures, which leave nothing behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = TrainConfig(base_channels=2, depth=1, tile=16, holdout="1")
    sets = split(synthetic_cells(n=2, size=40, seed=0), config.holdout)
    made = []

    def make(config):
        made.append(Trainer(config, *sets))
        return made[-1]

    assert trial.seconds_per_validation(make, config) > 0
    assert made[0].step == 1
    assert not list(tmp_path.iterdir())
