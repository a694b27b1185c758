"""What 8, 64 and 512 processes would do with the paper's network: a model, made of measured pieces.

    python -m benchmarks.ranks_on_paper                                  # the table
    python -m benchmarks.ranks_on_paper --picture docs/images/ranks_on_paper.png
    python -m benchmarks.ranks_on_paper --arrivals                       # measures one piece anew

**Measured**: the seconds of a step of one tile (`benchmarks/results/step.json`), and which share of the
gradient is complete after which share of a tile's two passes (`benchmarks/results/ranks.json`).

**Assumed**: each rank has a link of its own, which sends and receives at once and on which nothing else
travels; an exchange costs its bytes divided by the link's speed, and `LATENCY` for each message; all ranks
take the same time for a tile; exchanging takes nothing from computing. So this is the best case.

P ranks exchange M bytes, in parts that travel one after the other,

    as tinyunet does      2 (P - 1) / P · M / speed + 2 (P - 1) · latency · parts     slices to and from all
    by doubling           log₂ P · (M / speed + latency · parts)                      the whole to a partner

A part can travel once it is complete and the one before has gone. What ends after the backward pass is
exposed. A step of B tiles takes B / P · tile + exposed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

RESULTS = Path(__file__).parent / "results"
VALUES = 31_030_658  # of the paper's network
PART = 2**21  # values, as in `tinyunet.training.mpi_ranks`
LATENCY = 20e-6  # seconds a message, as of TCP in a data centre
LINKS = {"10 Gbit/s": 1.25e9, "25 Gbit/s": 3.125e9, "100 Gbit/s": 12.5e9}  # bytes per second
RANKS = (8, 64, 512)
FASTER = 16  # a rank with sixteen times the speed of the two cores that were measured


class Arrival(NamedTuple):
    """After this share of a tile's forward and backward pass, this share of its gradient is complete."""

    passed: float
    complete: float


def in_slices(ranks: int, values: int, speed: float) -> float:
    """The seconds in which ranks exchange values of 4 bytes as tinyunet does."""
    return 2 * (ranks - 1) / ranks * 4 * values / speed + 2 * (ranks - 1) * LATENCY


def in_tree(ranks: int, values: int, speed: float) -> float:
    """The seconds in which ranks exchange all values with a partner, in a round for each level of a tree."""
    return math.log2(ranks) * (4 * values / speed + LATENCY)


Exchange = Callable[[int, int, float], float]


def exposed(exchange: Exchange, ranks: int, speed: float, tile: float, arrivals: Sequence[Arrival]) -> float:
    """The seconds of an exchange that a backward pass does not hide; without arrivals, all of them."""
    passed, complete = zip(*arrivals, strict=True) if arrivals else ((1.0,), (1.0,))
    ends = [*range(PART, VALUES, PART), VALUES]
    free = 0.0
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        at = next(p for p, c in zip(passed, complete, strict=True) if c * VALUES >= end - 0.5)
        free = max(free, at * tile) + exchange(ranks, end - start, speed)
    return max(0.0, free - tile)


def weak(
    ranks: int, speed: float, tile: float, arrivals: Sequence[Arrival], exchange: Exchange = in_slices
) -> float:
    """The efficiency with one tile for each rank: the time of a tile alone over that of the step."""
    return tile / (tile + exposed(in_slices, ranks, speed, tile, arrivals))


def strong(batch: int, ranks: int, speed: float, tile: float, arrivals: Sequence[Arrival]) -> float:
    """How many times as fast as one rank the ranks make a step of this batch, of equal shares."""
    return batch * tile / (batch / ranks * tile + exposed(in_slices, ranks, speed, tile, arrivals))


def measured_tile() -> float:
    """The seconds of a step of one tile, on two cores."""
    results = json.loads((RESULTS / "step.json").read_text())["results"]
    (found,) = (each for each in results if each["base"] == 64 and each["task"] == "step")
    return float(found["engines"]["tinyunet"]["seconds"])


def measured_arrivals() -> list[Arrival]:
    """What `measure_arrivals` has stored."""
    return [Arrival(*each) for each in json.loads((RESULTS / "ranks.json").read_text())["arrivals"]]


def measure_arrivals(turns: int = 3) -> list[Arrival]:
    """Note when gradients are complete, in the processor's time, which other work hardly changes."""
    import tinyunet as tu

    model = tu.UNet().train()
    rng = np.random.default_rng(0)
    image = tu.Tensor(rng.standard_normal((1, 572, 572, 1), np.float32))
    target = rng.integers(2, size=(1, 388, 388), dtype=np.int32)
    weight = np.full(target.shape, 1 / target.size, np.float32)
    seconds: list[list[float]] = []
    for _ in range(turns + 1):
        noted: list[tuple[float, int]] = []
        started = time.thread_time()
        model.loss(image, target, weight).backward(
            on_leaf=lambda leaf: noted.append((time.thread_time() - started, leaf.data.size))  # noqa: B023
        )
        ended = time.thread_time() - started
        for parameter in model.parameters():
            parameter.grad = None
        seconds.append([at / ended for at, _ in noted])
    shares = np.cumsum([size for _, size in noted]) / VALUES
    passed = np.median(seconds[1:], axis=0)  # the first touches all memory for the first time
    return [Arrival(round(float(p), 4), float(c)) for p, c in zip(passed, shares, strict=True)]


def table(tile: float, arrivals: Sequence[Arrival]) -> str:
    """Write the exchange and weak scaling, without overlap and with it, as a table of Markdown."""
    fast = tile / FASTER
    lines = [
        f"| ranks, link | exchange | by doubling | efficiency at {tile:.2f} s a tile "
        f"| at {1000 * fast:.0f} ms a tile |",
        "| --- | --- | --- | --- | --- |",
    ]
    for ranks in RANKS:
        for link, speed in LINKS.items():
            slices, tree = (exposed(each, ranks, speed, tile, ()) for each in (in_slices, in_tree))
            shares = [
                " → ".join(f"{100 * weak(ranks, speed, seconds, noted):.0f} %" for noted in ((), arrivals))
                for seconds in (tile, fast)
            ]
            lines.append(f"| {ranks}, {link} | {slices:.2f} s | {tree:.2f} s | {shares[0]} | {shares[1]} |")
    return "\n".join(lines)


def draw(tile: float, arrivals: Sequence[Arrival], path: Path) -> None:
    """Draw weak scaling with and without overlap, and strong scaling of a batch of 512."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [2**n for n in range(1, 10)]
    colours = dict(zip(LINKS, ("tab:red", "tab:orange", "tab:blue"), strict=True))
    fast = tile / FASTER
    for link, speed in LINKS.items():
        for noted, style in ((arrivals, "-"), ((), ":")):
            share = [100 * weak(ranks, speed, fast, noted) for ranks in numbers]
            left.plot(numbers, share, style, color=colours[link], label=link if noted else None)
        right.plot(
            numbers, [strong(512, n, speed, fast, arrivals) for n in numbers], color=colours[link], label=link
        )
    right.plot(numbers, numbers, "--", color="grey", label="as many times as ranks")
    left.set(xscale="log", xlabel="ranks, one tile each", ylabel="efficiency (%)", ylim=(0, 102))
    left.set_title("weak scaling; dotted: without overlap", fontsize=10)
    right.set(xscale="log", yscale="log", xlabel="ranks", ylabel="times as fast as one rank")
    right.set_title("strong scaling: a batch of 512", fontsize=10)
    for axes in (left, right):
        axes.set_xticks([2, 8, 64, 512], ["2", "8", "64", "512"])
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)
    right.set_yticks([2, 8, 64, 512], ["2", "8", "64", "512"])
    figure.suptitle(
        f"A model, not a measurement: base width 64, ranks that take {1000 * fast:.0f} ms for a tile",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table; draw the picture, or measure, if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--picture", type=Path, help="where to draw it")
    parser.add_argument("--arrivals", action="store_true", help="measure when gradients are complete")
    options = parser.parse_args()
    if options.arrivals:
        record = {"base": 64, "threads": 1, "arrivals": measure_arrivals()}
        (RESULTS / "ranks.json").write_text(json.dumps(record, indent=1) + "\n")
    tile, arrivals = measured_tile(), measured_arrivals()
    print(f"a tile takes {tile:.2f} s on two cores\n{table(tile, arrivals)}")
    if options.picture:
        draw(tile, arrivals, options.picture)


if __name__ == "__main__":
    main()
