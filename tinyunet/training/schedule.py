"""The learning-rate schedule: how the step size changes during a training."""

from __future__ import annotations

from tinyunet.training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    constant: lr
    poly:     lr · (1 - step / steps)^0.9
    """
    if config.schedule == "constant":
        return config.lr
    return config.lr * (1 - step / config.steps) ** 0.9
