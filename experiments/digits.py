"""Digits that a measurement supports, and what a table says in one sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from tinyunet.metrics.naming import format_value, lower_is_better, readable_name

SINGLE = 3  # decimals of a score of one seed, whose spread is not known
DOUBTFUL = 0.03  # difference of one seed each; the three seeds of peers.jsonl on axons lie within 0.065


def decimals_of(values: Sequence[float]) -> int:
    """Return the decimals that a mean deserves: to the first digit of the spread, or the second after a 1.

    >>> decimals_of([0.86, 0.84, 0.89]), decimals_of([0.0031, 0.0043, 0.0053]), decimals_of([0.5])
    (2, 4, 3)
    """
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if spread == 0 or not math.isfinite(spread):
        return SINGLE
    place = -math.floor(math.log10(spread))
    return max(1, place + (spread * 10**place < 1.95))


def _complete(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def mean_and_spread(values: Sequence[float | None]) -> str:
    """Format the mean over the seeds and its standard deviation; a dash if a seed has no value.

    >>> mean_and_spread([0.5, 0.75, 1.0]), mean_and_spread([0.25]), mean_and_spread([0.5, None])
    ('0.8 ± 0.2', '0.250', '–')
    """
    known = _complete(values)
    if known is None:
        return format_value(None)
    decimals = decimals_of(known)
    mean = f"{statistics.mean(known):.{decimals}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{decimals}f}"


def mean_and_range(values: Sequence[float | None]) -> str:
    """Format the mean over the seeds, and in brackets smallest and largest; a dash if one has no value.

    >>> mean_and_range([0.638, 0.659, 0.703]), mean_and_range([0.7856]), mean_and_range([0.5, None])
    ('0.67 (0.64–0.70)', '0.786', '–')
    """
    known = _complete(values)
    if known is None:
        return format_value(None)
    decimals = decimals_of(known)
    shown = statistics.mean(known), min(known), max(known)
    mean, low, high = (f"{value:.{decimals}f}" for value in shown)
    return f"{mean} ({low}–{high})" if len(known) > 1 else mean


def finding(measure: str, reference: Sequence[float], others: Mapping[str, Sequence[float]]) -> str:
    """Say which rows of a table are apart from its first: each of their seeds beyond each of its seeds.

    >>> finding("seg", [0.80, 0.81], {"a": [0.7, 0.75], "b": [0.7, 0.9], "c": [0.85, 0.9]})
    'In SEG, every seed of "c" is better, and every seed of "a" is worse, than any seed of the reference;
    "b" overlaps with it.'
    >>> finding("seg", [0.80, 0.81], {"b": [0.7, 0.9], "d": [0.8, 0.8]})
    'In SEG, no row differs from the reference by more than the seeds do.'
    """
    sign = -1 if lower_is_better(measure) else 1
    low, high = min(sign * one for one in reference), max(sign * one for one in reference)
    better = [name for name, values in others.items() if min(sign * one for one in values) > high]
    worse = [name for name, values in others.items() if max(sign * one for one in values) < low]
    if not better and not worse:
        return f"In {readable_name(measure)}, no row differs from the reference by more than the seeds do."
    parts = [
        f"every seed of {_listed(names)} is {word}"
        for names, word in ((better, "better"), (worse, "worse"))
        if names
    ]
    said = f"In {readable_name(measure)}, {', and '.join(parts)}{',' * (len(parts) > 1)}"
    said += " than any seed of the reference"
    rest = [name for name in others if name not in better + worse]
    return f"{said}; {_rest(rest)}." if rest else f"{said}."


def comparison(measure: str, ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Say how tinyunet and PyTorch with Adam compare in a measure; larger is better.

    >>> comparison("seg", [0.8, 0.9], [0.6, 0.7])
    "In SEG, every seed of tinyunet is better than any seed of PyTorch's, by 0.20 in the mean."
    >>> comparison("seg", [0.8], [0.81])
    'In SEG, tinyunet is worse by 0.010, with one seed each, which is less than seeds often differ by.'
    """
    if not ours or not theirs:
        return f"Only {'tinyunet' if ours else 'PyTorch'} was run."
    gain = statistics.mean(ours) - statistics.mean(theirs)
    name, word = readable_name(measure), "better" if gain > 0 else "worse"
    if len(ours) == len(theirs) == 1:
        caution = "" if abs(gain) > DOUBTFUL else ", which is less than seeds often differ by"
        return f"In {name}, tinyunet is {word} by {abs(gain):.{SINGLE}f}, with one seed each{caution}."
    if min(ours) > max(theirs) or max(ours) < min(theirs):
        apart = f"every seed of tinyunet is {word} than any seed of PyTorch's"
        return f"In {name}, {apart}, by {abs(gain):.2f} in the mean."
    return f"In {name}, the seeds of tinyunet and of PyTorch overlap."


def _listed(names: Sequence[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _rest(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{_listed(names)} overlaps with it"
    return f"{_listed(names)} overlap with it" if len(names) == 2 else "the other rows overlap with it"
