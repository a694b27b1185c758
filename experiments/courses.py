"""What the validations of a training say about its course: whether it swings, learns late, or fails.

A course is a list of (step, score), in the order of the steps; a larger score is better.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Course = Sequence[tuple[int, float]]


def second_half(course: Course) -> list[float]:
    """Return the scores of the second half of a training.

    >>> second_half([(50, 0.9), (100, 0.95), (150, 0.96), (200, 0.97)])
    [0.96, 0.97]
    """
    last = course[-1][0]
    return [score for step, score in course if step > last / 2]


def largest_fall(course: Course) -> float:
    """Return how far a score of the second half lies below the best one before it, at most.

    >>> round(largest_fall([(50, 0.9), (100, 0.95), (150, 0.8), (200, 0.97)]), 3)
    0.15
    """
    last, best, fall = course[-1][0], 0.0, 0.0
    for step, score in course:
        best = max(best, score)
        if step > last / 2:
            fall = max(fall, best - score)
    return fall


def steps_until(course: Course, score: float) -> int | None:
    """Return the step of the first validation above a score; None if there is none.

    >>> steps_until([(25, 0.5), (50, 0.7), (75, 0.6)], 0.6), steps_until([(25, 0.5)], 0.6)
    (50, None)
    """
    return next((step for step, found in course if found > score), None)


def failures(ends: Sequence[float], constant: float) -> int:
    """Return how many trainings end nearer to the score of a constant prediction than to their median.

    >>> failures([0.80, 0.82, 0.50, 0.81], constant=0.4)
    1
    """
    middle = (statistics.median(ends) + constant) / 2
    return sum(end < middle for end in ends)
