"""Worked answers of chapter 00, the cases they are checked on, and answers known to be wrong."""

import numpy as np
from lesson import WrongAnswer, attempt, is_open

# 00.1


def running_mean(losses, window):
    return np.convolve(losses, np.full(window, 1 / window), "valid")


hints_running_mean = (
    "Each value is a sum of `window` losses in a row, all times the same number: a convolution.",
    "np.convolve(losses, np.full(window, 1 / window), 'valid').",
)


def cases_running_mean(rng):
    for steps, window in [(7, 3), (12, 5), (4, 4), (5, 1)]:
        yield rng.uniform(0, 2, steps), window


def _one_short(losses, window):
    return running_mean(losses[1:], window) if len(losses) > window else running_mean(losses, window)


wrong_running_mean = {
    "zeros taken in at the ends": lambda losses, window: np.convolve(
        losses, np.full(window, 1 / window), "same"
    ),
    "a sum": lambda losses, window: np.convolve(losses, np.ones(window), "valid"),
    "the mean of all so far": lambda losses, window: np.cumsum(losses) / np.arange(1, len(losses) + 1),
    "the first window left out": _one_short,
}

# 00.2


def read_curves():
    return "by heart", "slow", "good", "lost"


hints_read_curves = (
    "Compare the loss with the score of the held-out images, panel by panel.",
    "By heart: the loss falls, and the held-out images do not follow.",
)


def check_read_curves(function):
    found = attempt(function)
    if is_open(found):
        return False
    right = read_curves()
    if not isinstance(found, tuple | list) or len(found) != 4 or not set(found) <= set(right):
        raise WrongAnswer(f"{found!r:.60} where four of the words {', '.join(sorted(right))} are expected")
    hits = sum(mine == true for mine, true in zip(found, right, strict=True))
    if hits < 4:
        raise WrongAnswer(f"{hits} of 4 curves are read right; look at both lines of each panel")
    return True


wrong_read_curves = {
    "by heart and good exchanged": lambda: ("good", "slow", "by heart", "lost"),
    "slow and lost exchanged": lambda: ("by heart", "lost", "good", "slow"),
    "one answer": lambda: "good",
}
