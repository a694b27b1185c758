"""What the chapters share: exercises that check themselves, and figures.

An exercise is a function with a stub for a body. While it returns `None` or `...` it is open: the chapter
says so, and goes on with the worked answer, which stands under the same name in `solutions/`, in the file
named like the chapter. An answer is checked on cases with random shapes; a wrong one stops the chapter and
shows the first wrong element.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import sys
import textwrap
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

FOLDER = Path(__file__).parent
FIGURES = FOLDER / "figures"
RECORD = FOLDER / ".progress.json"  # what the last run of each chapter found; read by progress.py
LINE_WIDTH = 88

# Relative to the largest value: the answer may sum in another order, or keep float32 throughout.
TOLERANCE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-4}


class WrongAnswer(SystemExit):
    """An exercise's answer is wrong. Ends a script with this message and without a traceback."""


def exercise(number: str, *, lines: int, hint: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as an exercise, and check it where it stands.

    Parameters
    ----------
    number : str
        Chapter and exercise, "03.1".
    lines : int
        How many lines the worked answer needs, without the docstring. More is allowed, and mentioned.
    hint : str
        Shown as long as the exercise is open.

    Raises
    ------
    WrongAnswer
        The function is solved, and wrong.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        name = getattr(function, "py_func", function).__name__
        solutions = load_solutions(number[:2])
        answer = getattr(solutions, name)
        title = f"Exercise {number}, {name}"
        try:
            solved = check(solutions, name, function)
        except WrongAnswer as wrong:
            record(number, name, "wrong")
            raise WrongAnswer(f"{title}: {wrong}") from None
        if not solved:
            record(number, name, "open")
            why = "" if is_stub(function) else ", as it returns nothing"
            say(f"{title}: open{why}, about {lines} line(s). Hint: {hint} Going on with the worked answer.")
            return answer
        used = count_lines(function)
        record(number, name, "solved")
        say(f"{title}: solved in {used} line(s)" + (f"; {lines} are enough." if used > lines else "."))
        return function

    return mark


def say(text: str) -> None:
    """Print, broken into lines."""
    print(textwrap.fill(text, LINE_WIDTH))


def load_solutions(chapter: str) -> types.ModuleType:
    """The worked answers of a chapter, given its two digits."""
    (path,) = (FOLDER / "solutions").glob(f"{chapter}_*.py")
    name = f"solutions_{chapter}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def check(solutions: types.ModuleType, name: str, function: Callable[..., Any]) -> bool:
    """Whether an exercise is solved: False while it is open, WrongAnswer if it is wrong.

    `cases_NAME(rng)` in the solutions yields tuples of arguments, on which the function must agree with the
    worked answer. Where there is more than one right answer, `check_NAME(function)` there judges instead: it
    returns False for an open exercise, True for a solved one, and raises WrongAnswer.
    """
    judge = getattr(solutions, f"check_{name}", None)
    if judge is not None:
        return judge(function)
    answer = getattr(solutions, name)
    for case in getattr(solutions, f"cases_{name}")(np.random.default_rng(0)):
        expected = answer(*copied(case))
        found = attempt(function, *copied(case))
        if is_open(found):
            return False
        compare(found, expected, f"for {describe(case)}" if case else "in the answer")
    return True


def copied(case: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, in arrays of their own: an answer may write into what it is given."""
    return tuple(value.copy() if isinstance(value, np.ndarray) else value for value in case)


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the reader's function; an error inside it is a wrong answer."""
    try:
        return function(*arguments)
    except NotImplementedError:
        return None
    except Exception as error:
        place = inspect.getinnerframes(error.__traceback__)[-1]
        line = (place.code_context or ["?"])[0].strip()
        raise WrongAnswer(
            f"{type(error).__name__}: {error}\n  in line {place.lineno}: {line}\n  for {describe(arguments)}"
        ) from error


def is_open(value: Any) -> bool:
    """Whether a stub, and not an answer, gave this value."""
    return value is None or value is ...


def is_stub(function: Callable[..., Any]) -> bool:
    """Whether nothing has been written into the body yet."""
    source = inspect.getsource(getattr(function, "py_func", function))
    return source.rstrip().endswith("return ...")


def describe(arguments: tuple[Any, ...]) -> str:
    """Arguments in short: an array by its shape, the rest by its value."""

    def word(value: Any) -> str:
        if isinstance(value, np.ndarray):
            return f"array {value.shape}"
        return f"{value:.6g}" if isinstance(value, float) else textwrap.shorten(repr(value), 60)

    return ", ".join(map(word, arguments))


def compare(found: Any, expected: Any, where: str) -> None:
    """Raise WrongAnswer with the first wrong element and both values."""
    if isinstance(expected, tuple | list):
        if not isinstance(found, tuple | list) or len(found) != len(expected):
            raise WrongAnswer(f"{len(expected)} values are expected, not {found!r:.80}, {where}")
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            compare(one, other, f"in value {i}, {where}")
        return
    if not isinstance(expected, np.ndarray | float | np.floating):
        if found != expected:
            raise WrongAnswer(f"{found!r:.80} where {expected!r:.80} is expected, {where}")
        return
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise WrongAnswer(f"shape {found.shape} where {expected.shape} is expected, {where}")
    tolerance = TOLERANCE.get(expected.dtype, 0) * np.abs(expected).max(initial=0)
    wrong = np.argwhere(~(np.abs(found - expected.astype(float)) <= tolerance))
    if len(wrong):
        index = tuple(map(int, wrong[0]))
        raise WrongAnswer(
            f"{len(wrong)} of {expected.size} elements are wrong, {where}\n"
            f"  the first at {index}: {found[index]:.6g} where {expected[index]:.6g} is expected"
        )


def count_lines(function: Callable[..., Any]) -> int:
    """Lines of a function's body, without its docstring, comments and blank lines."""
    source = textwrap.dedent(inspect.getsource(getattr(function, "py_func", function)))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    body = definition.body[1:] if ast.get_docstring(definition) else definition.body
    text = source.splitlines()[body[0].lineno - 1 :]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text)


def record(number: str, name: str, state: str) -> None:
    """Note an exercise's state for progress.py."""
    states = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    states[number] = {"name": name, "state": state}
    RECORD.write_text(json.dumps(dict(sorted(states.items())), indent=1))


def measure(function: Callable[..., Any], *arguments: Any, turns: int = 5) -> float:
    """Seconds of one call: the shortest of some turns, after one that compiles and warms up."""
    function(*arguments)
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def show(name: str) -> None:
    """Show the current figure: where it stands in a notebook or page, and from the shell in figures/."""
    plt.rcParams["savefig.bbox"] = "tight"  # no label is cut
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        plt.show()
    elif "sphinx_gallery" not in sys.modules:  # which collects the open figures itself
        FIGURES.mkdir(exist_ok=True)
        path = FIGURES / f"{name}.png"
        plt.savefig(path, dpi=120)
        plt.close()
        print(f"Figure: {path}")
