"""The learning-rate schedule: how the step size changes during a training."""

from __future__ import annotations

import math

from tinyunet.training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    constant: lr
    poly:     lr · (1 - step / steps)^0.9
    cosine:   lr · (1 + cos(π · step / steps)) / 2

    In the first steps, `warmup` many, this is multiplied by (step + 1) / warmup.
    """
    lr = config.lr
    if config.schedule == "poly":
        lr *= (1 - step / config.steps) ** 0.9
    elif config.schedule == "cosine":
        lr *= (1 + math.cos(math.pi * step / config.steps)) / 2
    return lr * (step + 1) / config.warmup if step < config.warmup else lr
