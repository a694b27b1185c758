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
    "the last window left out": lambda losses, window: running_mean(losses, window)[:-1],
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

# 00.3


def mean_iou(predicted, truth, classes):
    both, either = np.zeros(classes), np.zeros(classes)
    for mine, true in zip(predicted, truth, strict=True):
        for k in range(classes):
            both[k] += np.sum((mine == k) & (true == k))
            either[k] += np.sum((mine == k) | (true == k))
    present = either > 0
    return np.mean(both[present] / either[present])


hints_mean_iou = (
    "Two counts for each class, which grow from picture to picture. Divide only after the last picture.",
    "np.sum((mine == k) & (true == k)), and the same with |. A class whose second count is 0 is left out.",
)


def cases_mean_iou(rng):
    for classes, absent in [(2, 0), (3, 0), (4, 1)]:
        pictures = [rng.integers(classes - absent, size=(2, 5, 3 + k)) for k in range(3)]
        pictures.append(np.zeros((2, 4, 4), int))  # one that has nothing but background
        yield [pair[0] for pair in pictures], [pair[1] for pair in pictures], classes
    yield [np.array([[2, 1], [0, 1]])], [np.array([[0, 1], [0, 1]])], 3  # a class that is only predicted


def _mean_over_pictures(predicted, truth, classes):
    return np.mean([mean_iou([m], [t], classes) for m, t in zip(predicted, truth, strict=True)])


def _absent_counts(predicted, truth, classes, score):
    present = np.unique(np.concatenate([np.ravel(picture) for picture in [*predicted, *truth]]))
    return (mean_iou(predicted, truth, classes) * len(present) + score * (classes - len(present))) / classes


def _dice(predicted, truth, classes):
    m, t = (np.concatenate([picture.ravel() for picture in pictures]) for pictures in (predicted, truth))
    present = [k for k in range(classes) if np.any(m == k) or np.any(t == k)]
    return np.mean([2 * np.sum((m == k) & (t == k)) / (np.sum(m == k) + np.sum(t == k)) for k in present])


def _share_of_right_pixels(predicted, truth, classes):
    right = sum(np.sum(mine == true) for mine, true in zip(predicted, truth, strict=True))
    return right / sum(true.size for true in truth)


def _classes_of_the_truth(predicted, truth, classes):
    true = np.unique(np.concatenate([np.ravel(picture) for picture in truth]))
    hidden = [np.where(np.isin(mine, true), mine, -1) for mine in predicted]
    return mean_iou(hidden, truth, classes)


wrong_mean_iou = {
    "a class left out that is predicted but not there": _classes_of_the_truth,
    "the mean of each picture's score": _mean_over_pictures,
    "an absent class counted as 0": lambda *arguments: _absent_counts(*arguments, 0),
    "an absent class counted as 1": lambda *arguments: _absent_counts(*arguments, 1),
    "Dice: the shared pixels counted twice": _dice,
    "the share of right pixels": _share_of_right_pixels,
}
