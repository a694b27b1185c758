"""The scores of a cross-validation as a table for the screen."""

from __future__ import annotations

from tinyunet.metrics.folds import FoldScores
from tinyunet.metrics.naming import format_value, lower_is_better


def fold_table(scores: FoldScores) -> str:
    """A row for each measure: its value in each fold, mean, spread, and the value of all images together."""
    heads = [*(f"fold-{number}" for number in range(len(scores.folds))), "mean", "spread", "all images"]
    lines = [f"{'':<25}" + "".join(f"{head:>11}" for head in heads)]
    for name, measure in scores.measures.items():
        values = [*(fold.get(name) for fold in scores.folds), measure.mean, measure.spread, measure.set_wide]
        arrow = "↓" if lower_is_better(name) else "↑"
        lines.append(f"{name:<23}{arrow} " + "".join(f"{format_value(value):>11}" for value in values))
    return "\n".join(lines)
