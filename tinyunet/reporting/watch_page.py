"""The page that watches runs: how far they are, how well they do, and how long they still take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyunet.reporting.chart import Chart, Line, draw, running_mean
from tinyunet.reporting.follow import Snapshot
from tinyunet.reporting.page import fill_template

# Of one run, the page's own colours; of several, colours that stay apart on white, on black, and for most
# colour-blind readers (Okabe and Ito's, without black and yellow).
INK, LOW, HIGH = "var(--ink)", "var(--problem)", "var(--note)"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c", "#7a5195")
MOST_RUNS = 40


def render(runs: Sequence[Snapshot], paths: Sequence[Path]) -> str:
    """The page as HTML. It needs no network; `watch.js` beside it renews it.

    Parameters
    ----------
    runs : sequence of Snapshot
    paths : sequence of Path
        What was asked for.
    """
    shown = runs[:MOST_RUNS]
    names = [run.path.resolve().name for run in shown]
    if len(set(names)) < len(names):  # the folds of two cross-validations
        names = [str(Path(*run.path.resolve().parts[-2:])) for run in shown]
    colours = {run.key: COLOURS[i % len(COLOURS)] for i, run in enumerate(shown)}
    return fill_template(
        "watch.html",
        name=names[0] if len(names) == 1 else f"{len(names)} runs",
        paths=paths,
        runs=list(zip(names, shown, strict=True)),
        left_out=len(runs) - len(shown),
        colours=colours,
        charts=_charts(shown[0])
        if len(shown) == 1
        else _compared(list(zip(names, shown, strict=True)), colours),
    )


def _charts(run: Snapshot) -> list[Chart]:
    """The curves of one run, as in its report, and its learning rate."""
    steps, validations = run.records("step"), run.records("validation")
    at, losses = [record["step"] for record in steps], [record["loss"] for record in steps]
    mean = _mean_loss(run, INK)
    held_out = [record["step"] for record in validations]
    return [
        draw(
            "training loss", [Line("", INK, at, losses, "faint"), mean], end=run.step, high=_highest([losses])
        ),
        draw(
            "held-out images",
            [
                Line("mean IoU", HIGH, held_out, [record["mean_iou"] for record in validations], "dots"),
                Line("pixel error", LOW, held_out, [record["pixel_error"] for record in validations], "dots"),
            ],
            end=run.step,
            high=1,
        ),
        draw("learning rate", [_learning_rate(run, "", INK)], end=run.step),
    ]


def _compared(runs: Sequence[tuple[str, Snapshot]], colours: dict[str, str]) -> list[Chart]:
    """A curve for each run, in one chart for each quantity."""
    losses = [[record["loss"] for record in run.records("step")] for _, run in runs]
    scores = [
        Line(name, colours[run.key], [r["step"] for r in records], [r["mean_iou"] for r in records], "dots")
        for name, run in runs
        for records in [run.records("validation")]
    ]
    end = max(run.step for _, run in runs)
    return [
        draw(
            "training loss, running mean",
            [_mean_loss(run, colours[run.key], name) for name, run in runs],
            end=end,
            high=_highest(losses),
        ),
        draw("mean IoU on held-out images", scores, end=end, high=1),
        draw("learning rate", [_learning_rate(run, name, colours[run.key]) for name, run in runs], end=end),
    ]


def _mean_loss(run: Snapshot, colour: str, label: str = "") -> Line:
    steps = run.records("step")
    window = max(1, len(steps) // 20)
    mean = running_mean([record["loss"] for record in steps], window) if steps else np.empty(0)
    at = [record["step"] for record in steps][window - 1 :]
    mean_of = f"mean of {window} steps" if window > 1 else "of each step"
    return Line(label or mean_of, colour, at, mean.tolist())


def _learning_rate(run: Snapshot, label: str, colour: str) -> Line:
    steps = run.records("step")
    rates = [rate if isinstance(rate := record.get("lr"), float) else None for record in steps]
    return Line(label, colour, [record["step"] for record in steps], rates)


def _highest(losses: Sequence[Sequence[float]]) -> float | None:
    """The top of the axis: the first steps would squash all others."""
    finite = np.array([loss for run in losses for loss in run if np.isfinite(loss)])
    return 1.3 * float(np.percentile(finite, 98)) if len(finite) else None
