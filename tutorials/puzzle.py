"""Kernel puzzles: run the reader's kernel on the emulator, check it, count its wavefronts, draw its accesses.

The reader writes the body of a kernel in C++. The emulator (`kernels/emulator/`) compiles it for the CPU and
finds races and accesses outside of arrays, whatever the result is.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lesson import WrongAnswer, attempt, compare, is_open

from tinyunet.backend.cuda import Report, run_checked
from tinyunet.errors import KernelError

WARP, SEGMENT = 32, 32  # threads; float32 numbers in a segment, and banks of shared memory
ROWS_SHOWN = 8
YOURS = "// your lines"


@dataclass(frozen=True)
class Puzzle:
    """A kernel to write.

    Attributes
    ----------
    given : str
        The kernel's parameters in C++, or the whole kernel with the line `// your lines` in it. The array
        `y` is the result.
    cases : callable
        Yields, from a random generator, tuples of the grid, the block, the arguments with `y` as None, and
        what `y` should be.
    par : tuple of int
        The wavefronts of global and of shared memory that the worked answer takes for the last case.
    limit : tuple of int
        More of them are no solution, because what the puzzle is about is missing. None: any number.
    too_many : str
        Says what is missing then.
    """

    given: str
    cases: Callable[[np.random.Generator], Iterator[tuple[Any, ...]]]
    par: tuple[int, int]
    limit: tuple[float, float] = (np.inf, np.inf)
    too_many: str = ""

    def source(self, body: str) -> str:
        """Return the kernel with the reader's lines in it."""
        frame = self.given
        if YOURS not in frame:
            frame = f'extern "C" __global__ void kernel({frame}) {{\n    {YOURS}\n}}'
        indent = re.search(rf"^( *){YOURS}", frame, re.MULTILINE)[1]
        lines = textwrap.indent(textwrap.dedent(body).strip("\n"), indent)
        return frame.replace(f"{indent}{YOURS}", lines)

    def run(self, body: str, case: tuple[Any, ...]) -> tuple[Report, np.ndarray]:
        """Run the kernel on a case; return the report and `y`, which begins as NaN."""
        grid, block, arguments, expected = case
        y = np.full(expected.shape, np.nan, np.float32)
        arguments = [y if value is None else value for value in arguments]
        source = self.source(body)
        name = re.search(r"void (\w+)\(", source)[1]
        return run_checked(source, name, grid, block, *arguments), y

    def check(self, function: Callable[[], str], mistakes: Mapping[str, Callable[[], str]]) -> bool:
        """Return True if the body that the function returns solves the puzzle; raise WrongAnswer if not.

        `mistakes` are known wrong answers by their names, to be recognised by what they compute.
        """
        body = attempt(function)
        if is_open(body):
            return False
        if not isinstance(body, str):
            raise WrongAnswer(f"{body!r:.60} where lines of C++ in quotation marks are expected")
        for case in self.cases(np.random.default_rng(0)):
            where = describe(case, self.source(body))
            try:
                report, y = self.run(body, case)
            except KernelError as error:
                raise WrongAnswer(f"{where}:\n{error}\n{numbered(self.source(body))}") from None
            try:
                compare(y, case[-1], f"in y, {where}")
            except WrongAnswer as wrong:
                raise WrongAnswer(f"{wrong}{self.recognise(mistakes, case, y)}") from None
        taken = wavefronts(report)
        for count, limit, memory in zip(taken, self.limit, ("global", "shared"), strict=True):
            if count > limit:
                raise WrongAnswer(
                    f"the result is right, but takes {count} {memory} wavefronts where {limit} are enough"
                    f", {where}: {self.too_many}\n{report}"
                )
        return True

    def recognise(
        self, mistakes: Mapping[str, Callable[[], str]], case: tuple[Any, ...], y: np.ndarray
    ) -> str:
        """Describe the first known mistake that gives the same wrong result, or return an empty string."""
        for mistake, function in mistakes.items():
            try:
                same = self.run(function(), case)[1]
            except KernelError:
                continue
            if np.allclose(same, y, equal_nan=True):
                return f"\n  The same result comes from this mistake: {mistake}."
        return ""

    def score(self, function: Callable[[], str]) -> str:
        """Return the wavefronts that the reader's kernel takes, beside those of the worked answer."""
        *_, case = self.cases(np.random.default_rng(0))
        taken = wavefronts(self.run(function(), case)[0])
        found = " and ".join(f"{n} {name}" for n, name in zip(taken, ("global", "shared"), strict=True) if n)
        return f"Score: {found} wavefronts; par is {self.par[0]} and {self.par[1]}."

    def draw(self, body: str) -> None:
        """Draw what the first warp reads and writes in the last case, line by line."""
        *_, case = self.cases(np.random.default_rng(0))
        draw_accesses(self.run(body, case)[0])


def wavefronts(report: Report) -> tuple[int, int]:
    """Return the wavefronts of global and of shared memory, all lines together."""
    rows = list(report.lines.values())
    return sum(row.global_wavefronts for row in rows), sum(row.shared_wavefronts for row in rows)


def describe(case: tuple[Any, ...], source: str) -> str:
    """Describe the launch of a case and its numbers."""
    grid, block, arguments, _ = case
    names = [parameter.split()[-1] for parameter in re.search(r"void \w+\(([^)]*)\)", source)[1].split(",")]
    numbers = [f"{n} = {a}" for n, a in zip(names, arguments, strict=True) if isinstance(a, int)]
    blocks, threads = (" × ".join(map(str, sizes)) for sizes in (grid, block))
    return ", ".join([f"with {blocks} block(s) of {threads} threads", *numbers])


def numbered(source: str) -> str:
    """Return the lines of a source with their numbers, as messages name them."""
    return "\n".join(f"{number:>4}  {line}" for number, line in enumerate(source.splitlines(), 1))


def draw_accesses(report: Report) -> None:
    """Draw for each line and array which element each thread of the first warp accesses, the first time.

    A row is a segment of 128 bytes of global memory, or the 32 banks of shared memory. What memory delivers
    in one wavefront is shaded, what a thread accesses has the thread's colour and number.
    """
    import matplotlib.pyplot as plt

    firsts = sorted(
        (access for access in report.first_warp if access.time == 0), key=lambda a: (a.line, a.writes)
    )
    base = min((e for a in report.first_warp if not a.array for e in a.elements if e >= 0), default=0)
    pictures = [places(access.elements, 0 if access.array else base) for access in firsts]
    heights = [len(picture) for picture in pictures]
    fig, panels = plt.subplots(
        len(firsts),
        1,
        squeeze=False,
        figsize=(8, 0.6 * len(firsts) + 0.22 * sum(heights)),
        height_ratios=[height + 0.5 for height in heights],
        layout="constrained",
    )
    lines = report.source.splitlines()
    for axes, access, picture in zip(panels[:, 0], firsts, pictures, strict=True):
        touched = (picture >= 0).any(axis=1, keepdims=True) & (access.array != "")
        axes.pcolormesh(np.where(touched, 1.0, 0.0) * np.ones(WARP), cmap="Greys", vmin=0, vmax=5)
        axes.pcolormesh(
            np.where(picture >= 0, picture, np.nan), cmap="viridis", vmin=0, vmax=31, ec="w", lw=0.3
        )
        for (row, column), thread in np.ndenumerate(picture):
            if thread >= 0:
                colour = "w" if thread < 20 else "k"
                axes.text(column + 0.5, row + 0.5, thread, ha="center", va="center", fontsize=6, color=colour)
        active = [element for element in access.elements if element >= 0]
        what = (
            f"{len(active)} threads {'write' if access.writes else 'read'} {len(set(active))} number(s) of "
        )
        what += access.array or "shared memory"
        turns = turns_of(access.elements, shared=not access.array)
        text = lines[access.line - 1].strip()
        axes.set_title(f"{what}, {turns} wavefront(s):  {text:.70}", fontsize=8, loc="left", parse_math=False)
        axes.set(ylim=(len(picture), 0), yticks=[], xticks=[])
    panels[-1, 0].set_xlabel("number in the segment of 128 bytes; bank of shared memory")
    fig.suptitle("Threads 0 to 31 of the first warp: who accesses what", fontsize=10)


def places(elements: tuple[int, ...], base: int) -> np.ndarray:
    """Return an array of rows of 32 elements with the thread that accesses each, or -1: the first rows."""
    last = max(elements) - base
    picture = np.full((min(last // SEGMENT + 1, ROWS_SHOWN), SEGMENT), -1)
    for thread, element in reversed(list(enumerate(elements))):  # of several threads the first is shown
        if element >= 0 and element - base < picture.size:
            picture.flat[element - base] = thread
    return picture


def turns_of(elements: tuple[int, ...], shared: bool) -> int:
    """Return the wavefronts of one access: segments, or different words in the fullest bank."""
    different = np.unique([element for element in elements if element >= 0])
    if shared:
        return int(np.bincount(different % SEGMENT).max())
    return len(np.unique(different // SEGMENT))
