"""A trial of a training, to find how many of its steps fit into some minutes.

The clock must not decide a training's bits. So it is asked before: a trainer of the same options makes a few
steps and one validation, and is thrown away. From then on the number of steps is an option like any other.
The schedule ends with them, and a run with this number of `--steps` has the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tinyunet.data import normalise
from tinyunet.prediction.tiling import predict_tiled
from tinyunet.reporting.recorder import record
from tinyunet.training.config import TrainConfig
from tinyunet.training.events import Stepped, Validated
from tinyunet.training.run_folder import RunFolder
from tinyunet.training.trainer import Trainer

AS_MANY_AS_FIT = 2**62  # the steps, or steps between two validations, of options that wait for a trial
TRIAL_SHARE = 0.05  # of the time: how long the steps of the trial take,
LONGEST_TRIAL = 10.0  # but no more seconds than this
VALIDATIONS = 10
VALIDATION_SHARE = 0.25  # of the time: fewer validations if so many would take more

MakeTrainer = Callable[[TrainConfig], Trainer]


def fit_into(minutes: float, make: MakeTrainer, config: TrainConfig) -> TrainConfig:
    """Return the options with the number of steps that fit into a time, validations included.

    Parameters
    ----------
    minutes : float
        The time, the trial's included. What is done only once, such as compiling kernels, does not count.
    make : callable
        Makes the trainer of these options with other `steps` and `validate_every`.
    config : TrainConfig
        `steps` is `AS_MANY_AS_FIT`. So is `validate_every` if it is to be chosen, for about ten validations.
    """
    print("measuring the time of a step and of a validation …", flush=True)
    seconds = 60 * minutes
    step, validation = seconds_per_step(make, config, seconds), seconds_per_validation(make, config)
    seconds -= min(TRIAL_SHARE * seconds, LONGEST_TRIAL) + validation
    if config.validate_every < AS_MANY_AS_FIT:
        steps = int(seconds / (step + validation / config.validate_every))
        fitted = replace(config, steps=max(1, steps))
    else:
        validations = min(VALIDATIONS, max(1, int(VALIDATION_SHARE * seconds / validation)))
        steps = max(1, int((seconds - validations * validation) / step))
        fitted = replace(config, steps=steps, validate_every=math.ceil(steps / validations))
    print(
        f"a step takes {step:.3g} s, a validation {validation:.3g} s: --minutes {minutes:g} becomes "
        f"--steps {fitted.steps} --validate-every {fitted.validate_every}",
        flush=True,
    )
    return fitted


def seconds_per_step(make: MakeTrainer, config: TrainConfig, seconds: float) -> float:
    """Measure a step: the median of a few, which one delay does not distort.

    Parameters
    ----------
    make, config
        As in `fit_into`.
    seconds : float
        The time that the training is to take.
    """
    trainer = make(replace(config, steps=AS_MANY_AS_FIT, validate_every=AS_MANY_AS_FIT))
    events = trainer.run()
    next(events)  # the first may compile kernels
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < min(TRIAL_SHARE * seconds, LONGEST_TRIAL):
        event = next(events)
        assert isinstance(event, Stepped)
        taken.append(trainer.ranks.from_first(event.seconds))  # all must make as many steps
    return float(np.median(taken))


def seconds_per_validation(make: MakeTrainer, config: TrainConfig) -> float:
    """Measure a validation with all that follows it: checkpoints and pictures."""
    trainer = make(replace(config, steps=AS_MANY_AS_FIT, validate_every=1))
    predict_tiled(trainer.model, normalise(trainer.validation_set.images[0]), tile=config.tile)  # may compile
    with TemporaryDirectory() as path:
        folder = RunFolder(Path(path))
        folder.create(asdict(trainer.config))
        for event in trainer.run():
            record(event, trainer, folder)  # the first pictures take longer: Matplotlib is imported
            if isinstance(event, Validated):
                started = time.perf_counter()
                record(event, trainer, folder)
                return event.seconds + time.perf_counter() - started
    raise AssertionError("a training validates after its first step")
