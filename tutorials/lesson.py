"""Exercises that check themselves, and figures: what the chapters share.

An exercise is a function with a stub for a body. The reader writes an answer in its place, or in a file of
answers (`answers/03.py`, made by `check.py`), which goes first. While the function returns `None` or `...` it
is open: the chapter says so and continues with the worked answer, which has the same name and is in
`solutions/`, in the file named like the chapter. An answer is checked on cases with random shapes. A wrong
one stops the chapter, which shows the first wrong element and, where it is a known one, names the mistake.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import sys
import textwrap
import time
import traceback
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
FIGURES = FOLDER / "figures"
ANSWERS = FOLDER / "answers"  # the reader's, a file per chapter: 03.py
RECORD = (
    FOLDER / ".progress.json"
)  # the state that the last check of each exercise found, and the hints shown
LINE_WIDTH = 88

# Relative to the largest value, because an answer may sum in another order.
TOLERANCE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-4}


class WrongAnswer(SystemExit):
    """A wrong answer to an exercise. It ends a script with this message and without a traceback."""


def exercise(number: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as the exercise of this number ("03.1"), and check it where it is defined.

    Raises
    ------
    WrongAnswer
        The function is no longer a stub, or the reader's file has an answer, and the answer is wrong.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        name = getattr(function, "py_func", function).__name__
        function = answers_in(ANSWERS / f"{number[:2]}.py").get(name, function)
        state, message = assess(number, name, function)
        if state == "wrong":
            raise WrongAnswer(message)
        say(message if state == "solved" else f"{message} The worked answer is used.")
        return function if state == "solved" else getattr(load_solutions(number[:2]), name)

    return mark


def assess(number: str, name: str, function: Callable[..., Any]) -> tuple[str, str]:
    """Check an answer and record the result; return its state (open, solved or wrong) and a message."""
    solutions = load_solutions(number[:2])
    try:
        solved = check(solutions, name, function)
        if solved:
            used, enough = count_lines(function), count_lines(getattr(solutions, name))
            state = "solved"
            fewer = f"; {enough} {'is' if enough == 1 else 'are'} enough" if used > enough else ""
            message = f"solved in {used} line(s){fewer}."
            if score := getattr(solutions, f"score_{name}", None):
                message += f" {score(function)}"
        else:
            why = "" if is_stub(source_of(function)) else ", because it returns nothing"
            state, message = "open", f"open{why}."
    except WrongAnswer as wrong:
        state, message = "wrong", str(wrong)
    record(number, state=state)
    return state, f"Exercise {number}, {name}: {message}"


def chapters() -> list[Path]:
    """Return the files of the chapters in their order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def exercises(chapter: Path) -> list[tuple[str, str]]:
    """Read the number and the name of each exercise of a chapter from its decorators."""
    return [
        (decorator.args[0].value, node.name)
        for node in ast.parse(chapter.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if is_exercise(decorator)
    ]


def is_exercise(decorator: ast.expr) -> bool:
    """Return True for the decorator of an exercise."""
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "exercise"


def constants(chapter: str, *names: str) -> list[Any]:
    """Read constants of a chapter ("07") from its file, without running the chapter."""
    (path,) = FOLDER.glob(f"{chapter}_*.py")
    wanted = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in names
    ]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), namespace)
    return [namespace[name] for name in names]


def load_answers(chapter: str) -> dict[str, Callable[..., Any]]:
    """Load the reader's answers to a chapter ("03"): from their own file, else from the chapter."""
    (path,) = FOLDER.glob(f"{chapter}_*.py")
    return answers_in(path) | answers_in(ANSWERS / f"{chapter}.py")


def answers_in(path: Path) -> dict[str, Callable[..., Any]]:
    """Load the answers that the reader has written into a chapter or a file of answers, by name.

    Of a chapter only these answers are run, and the imports and definitions that they use. Where an answer
    calls an exercise that is still open, it gets the worked answer.
    """
    if not path.exists():
        return {}
    solutions = load_solutions(path.name[:2])
    (chapter,) = FOLDER.glob(f"{path.name[:2]}_*.py")
    names = {name for _, name in exercises(chapter)}
    source = path.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        body = ast.parse(source).body
        functions = {
            node.name: node for node in body if isinstance(node, ast.FunctionDef)
        }  # the last of a name
        stubs = {name for name, node in functions.items() if is_stub(ast.unparse(node))}
        for node in body:
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = [mark for mark in node.decorator_list if not is_exercise(mark)]
        if path == chapter:
            body = definitions(body, names - stubs)
        exec(compile(ast.Module(body, []), str(path), "exec"), namespace)
    except Exception as error:
        line = getattr(error, "lineno", None) or traceback.extract_tb(error.__traceback__)[-1].lineno
        raise WrongAnswer(f"{path.name}, line {line}: {type(error).__name__}: {error}") from error
    namespace |= {name: getattr(solutions, name) for name in names & stubs}
    return {name: namespace[name] for name in names - stubs if name in namespace}


def names_from_outside(function: ast.FunctionDef) -> set[str]:
    """Return the names that a function uses and neither takes as a parameter nor assigns."""
    parts = [part for part in ast.walk(function) if isinstance(part, ast.Name | ast.arg)]
    own = {part.arg for part in parts if isinstance(part, ast.arg)}
    own |= {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    return {part.id for part in parts if isinstance(part, ast.Name)} - own


def definitions(
    body: Sequence[ast.stmt], names: Iterable[str], beside: Collection[str] = ()
) -> list[ast.stmt]:
    """Return the functions of these names, and the imports, functions and classes that they use.

    Names `beside` them are left out.
    """
    bound: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound[node.name] = node
    found, wanted = set(), list(names)
    while wanted:
        node = bound.get(name := wanted.pop())
        if node is not None and node not in found and name not in beside:
            found.add(node)
            wanted += [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    return [node for node in body if node in found]


class Own:
    """The answers to all chapters as attributes: the reader's where there is one, else the worked one.

    An answer is checked when it is first used. `yours` has the numbers of those that are the reader's.
    """

    def __init__(self) -> None:
        self.yours: list[str] = []
        self.used: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        numbers = {function: number for path in chapters() for number, function in exercises(path)}
        if name not in numbers:
            raise AttributeError(f"no chapter has an exercise {name}")
        number = numbers[name]
        function = getattr(load_solutions(number[:2]), name)
        answer = load_answers(number[:2]).get(name)
        self.used.append(number)
        if answer is not None:
            state, message = assess(number, name, answer)
            if state == "wrong":
                raise WrongAnswer(message)
            if state == "solved":
                self.yours.append(number)
                function = answer
        setattr(self, name, function)
        return function


own = Own()


def say(text: str) -> None:
    """Print a text, broken into lines."""
    print(textwrap.fill(text, LINE_WIDTH))


def load_solutions(chapter: str) -> types.ModuleType:
    """Load the worked answers of a chapter, given its two digits."""
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
    """Return True if an exercise is solved and False if it is open; raise WrongAnswer if it is wrong.

    `cases_NAME(rng)` in the solutions yields tuples of arguments, on which the function must agree with the
    worked answer and leave its arguments as they were. Where there is more than one right answer,
    `check_NAME(function)` decides instead. `returns_NAME` names the values of a tuple that is returned, and
    `wrong_NAME` maps known mistakes to functions that make them, `score_NAME(function)` describes how good a
    right answer is, and `hints_NAME` has hints, the vaguest first.
    """
    judge = getattr(solutions, f"check_{name}", None)
    if judge is not None:
        try:
            return judge(function)
        except WrongAnswer as wrong:
            raise WrongAnswer(f"{wrong}{recognise_message(solutions, name, str(wrong))}") from None
    answer, parts = getattr(solutions, name), getattr(solutions, f"returns_{name}", ())
    arguments = inspect.signature(answer).parameters
    for case in getattr(solutions, f"cases_{name}")(np.random.default_rng(0)):
        given, where = copied(case), f"for {describe(case, arguments)}" if case else "in the answer"
        try:
            found = attempt(function, *given)
            if is_open(found):
                return False
            compare(found, answer(*copied(case)), where, parts)
        except WrongAnswer as wrong:
            raise WrongAnswer(f"{wrong}{recognise(solutions, name, case, function)}") from None
        for argument, before, after in zip(arguments, case, given, strict=True):
            if not unchanged(before, after):
                what = f"the array {argument}" if isinstance(before, np.ndarray) else f"what is in {argument}"
                raise WrongAnswer(f"{what} has changed, {where}\n  make a new array instead")
    return True


def recognise(
    solutions: types.ModuleType, name: str, case: tuple[Any, ...], function: Callable[..., Any]
) -> str:
    """Describe the known mistake that gives the same results, or return an empty string.

    Small cases do not tell all mistakes apart, so one that agrees with the answer on all of them goes first.
    """
    mistakes = getattr(solutions, f"wrong_{name}", {})
    here = [mistake for mistake, wrong in mistakes.items() if same(function, wrong, case)]
    for mistake in here:
        cases = getattr(solutions, f"cases_{name}")(np.random.default_rng(0))
        if all(same(function, mistakes[mistake], other) for other in cases):
            return f"\n  The same result comes from this mistake: {mistake}."
    for mistake in here:
        return f"\n  The same result, but not in all cases, comes from this mistake: {mistake}."
    return ""


def recognise_message(solutions: types.ModuleType, name: str, message: str) -> str:
    """Describe the known mistake that is refused with the same numbers, or return an empty string."""
    told = not re.search(r"\d.* where ", message) or "this mistake" in message
    if told or hasattr(solutions, "PUZZLES"):  # which compare for themselves, as compiling takes long
        return ""
    for mistake, wrong in getattr(solutions, f"wrong_{name}", {}).items():
        try:
            getattr(solutions, f"check_{name}")(wrong)
        except WrongAnswer as refused:
            if str(refused) == message:
                return f"\n  The same message comes from this mistake: {mistake}."
        except Exception:
            continue
    return ""


def same(one: Callable[..., Any], other: Callable[..., Any], case: tuple[Any, ...]) -> bool:
    """Return whether two functions return the same on a case, or raise the same error."""
    try:
        compare(outcome(one, case), outcome(other, case), "")
    except (WrongAnswer, Exception):  # what a wrong answer returns may be anything
        return False
    return True


def outcome(function: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    """Return what a function returns on a case, or the text of the error that it raises."""
    try:
        with np.errstate(all="ignore"):
            return function(*copied(case))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def copied(value: Any) -> Any:
    """Return arguments with copies of all arrays, those in lists, tuples and dicts as well."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    return {key: copied(part) for key, part in value.items()} if type(value) is dict else value


def unchanged(before: Any, after: Any) -> bool:
    """Return whether a copy of an argument, after the call, is still what it was."""
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after, equal_nan=before.dtype.kind in "fc")
    if type(before) in (list, tuple):
        return len(before) == len(after) and all(map(unchanged, before, after))
    if type(before) is dict:
        return before.keys() == after.keys() and all(unchanged(before[key], after[key]) for key in before)
    return True


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the reader's function. An error inside it is a wrong answer."""
    try:
        return function(*arguments)
    except NotImplementedError:
        return None
    except Exception as error:
        frames = inspect.getinnerframes(error.__traceback__)
        mine = [frame for frame in frames if frame.filename == file_of(function)]
        place = (mine or frames)[-1]  # a library may have raised it, called with what the reader's line gave
        line = (place.code_context or ["?"])[0].strip()
        raise WrongAnswer(
            f"{type(error).__name__}: {error}\n  in line {place.lineno}: {line}\n"
            f"  for {describe(arguments, parameters(function))}"
        ) from error


def is_open(value: Any) -> bool:
    """Return True for the value that a stub returns."""
    return value is None or value is ...


def is_stub(source: str) -> bool:
    """Return True if nothing has been written into a function's body yet."""
    return source.rstrip().endswith("return ...")


def source_of(function: Callable[..., Any]) -> str:
    """Return the source text of a function, compiled or not."""
    return textwrap.dedent(inspect.getsource(getattr(function, "py_func", function)))


def file_of(function: Callable[..., Any]) -> str:
    """Return the path of the file that a function was written in, compiled or not."""
    code = getattr(getattr(function, "py_func", function), "__code__", None)
    return code.co_filename if code else ""


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters."""
    return list(inspect.signature(getattr(function, "py_func", function)).parameters)


def describe(arguments: Iterable[Any], names: Iterable[str]) -> str:
    """Describe arguments in short: each by its name, an array by its shape, the rest by its value."""

    def short(value: Any) -> str:
        if isinstance(value, np.ndarray) and value.ndim:
            return f"array {value.shape}"
        if isinstance(value, float | np.ndarray):
            return f"{float(value):.6g}"
        if callable(value):
            name = getattr(value, "__name__", "")
            return name if name.isidentifier() and not name.startswith("_") else "a function"
        return textwrap.shorten(repr(value), 60)

    return ", ".join(f"{name} = {short(value)}" for name, value in zip(names, arguments, strict=False))


def compare(found: Any, expected: Any, where: str, parts: Sequence[str] = ()) -> None:
    """Raise WrongAnswer with the first wrong element and both values; `parts` names the values of a tuple."""
    if isinstance(expected, tuple | list):
        compare_sequences(found, expected, where, parts)
        return
    if not isinstance(expected, np.ndarray | float | np.floating):
        if not np.array_equal(found, expected):
            found = found.item() if isinstance(found, np.generic) else found
            raise WrongAnswer(f"{found!r:.80} where {expected!r:.80} is expected, {where}")
        return
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise WrongAnswer(f"shape {found.shape} where {expected.shape} is expected, {where}")
    if np.iscomplexobj(found) and not np.iscomplexobj(expected):
        raise WrongAnswer(f"complex numbers where real ones are expected, {where}")
    if expected.dtype == np.float32 and found.dtype != np.float32:
        raise WrongAnswer(f"dtype {found.dtype} where float32 is expected, {where}")
    size = np.abs(expected).max(initial=0, where=np.isfinite(expected))
    with np.errstate(invalid="ignore"):  # known mistakes have infinities and NaNs, too
        near = np.abs(found - expected.astype(float)) <= TOLERANCE.get(expected.dtype, 0) * size
        near |= (found == expected) | (np.isnan(found) & np.isnan(expected))
    wrong = np.argwhere(~near)
    if not len(wrong):
        return
    index = tuple(map(int, wrong[0]))
    digits = next((n for n in (6, 9, 12) if f"{found[index]:.{n}g}" != f"{expected[index]:.{n}g}"), 17)
    both = f"{found[index]:.{digits}g} where {expected[index]:.{digits}g} is expected"
    if expected.ndim == 0:
        raise WrongAnswer(f"{both}, {where}")
    count = f"{len(wrong)} of {expected.size} elements are wrong"
    raise WrongAnswer(f"{count}, {where}\n  the first at {index}: {both}")


def compare_sequences(found: Any, expected: Sequence[Any], where: str, parts: Sequence[str]) -> None:
    """Compare value by value; an entry such as `(570, 64)` is shown as a whole."""
    found = list(found) if isinstance(found, np.ndarray) and found.ndim else found
    names = f" ({', '.join(parts)})" if parts else ""
    if not isinstance(found, tuple | list):
        names = names or " in a tuple or list"
        raise WrongAnswer(f"{len(expected)} values are expected{names}, not {found!r:.80}, {where}")
    count = ""
    if len(found) != len(expected):
        count = f"{len(found)} value(s) where {len(expected)} are expected{names}, {where}"
        if parts:
            raise WrongAnswer(count)
    for i, (one, other) in enumerate(zip(found, expected, strict=False)):
        place = f"in {parts[i] if parts else f'value {i}'}"
        try:
            compare_entry(one, other, place if count else f"{place}, {where}")
        except WrongAnswer as wrong:
            if not count:
                raise
            raise WrongAnswer(f"{count}\n  the first that differs: {wrong}") from None
    if count:
        raise WrongAnswer(count)


def compare_entry(found: Any, expected: Any, where: str) -> None:
    """Compare one value of a tuple or list."""
    if not is_plain(expected):
        compare(found, expected, where)
    elif not is_plain(found) or list(found) != list(expected):
        raise WrongAnswer(f"{found!r:.80} where {expected!r:.80} is expected, {where}")


def is_plain(value: Any) -> bool:
    """Return True for a tuple or list of whole numbers and texts, which is short enough to be shown."""
    return isinstance(value, tuple | list) and all(isinstance(part, int | np.integer | str) for part in value)


def count_lines(function: Callable[..., Any]) -> int:
    """Count the lines of a function's body without its docstring, comments, blank lines and bare quotes."""
    source = source_of(function)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    body = definition.body[1:] if ast.get_docstring(definition) else definition.body
    text = [line.strip() for line in source.splitlines()[body[0].lineno - 1 :]]
    return sum(bool(line) and not line.startswith("#") and line not in QUOTES for line in text)


QUOTES = ('return """', '"""')  # around a kernel that is written on lines of its own


def recorded() -> dict[str, dict[str, Any]]:
    """Return what is known of the exercises by their numbers: `state`, and `hints`, the number shown."""
    try:
        return json.loads(RECORD.read_text())
    except (OSError, ValueError):  # none yet, or a damaged one: nothing is known
        return {}


def record(number: str, **facts: Any) -> None:
    """Record an exercise's state, or the number of hints shown."""
    states = recorded()
    states[number] = states.get(number, {}) | facts
    draft = RECORD.with_name(f"{RECORD.name}.{os.getpid()}")
    draft.write_text(json.dumps(dict(sorted(states.items())), indent=1))
    os.replace(draft, RECORD)  # at once: a chapter may run in another terminal meanwhile


def measure(function: Callable[..., Any], *arguments: Any, turns: int = 5) -> float:
    """Measure the seconds of one call: the shortest of several, after one that compiles and warms up."""
    function(*arguments)
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def animate(name: str, fig: Any, draw: Callable[[int], Any], frames: int, interval: int = 500) -> Any:
    """Make a moving picture of a figure that `draw(frame)` changes: in its notebook or page, or in figures/.

    It is a page of HTML with all frames in it, a slider and buttons, and needs nothing else.
    """
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation

    animation = FuncAnimation(fig, draw, frames=frames, interval=interval, init_func=lambda: None)
    if "sphinx_gallery" in sys.modules:  # which collects animations itself
        return animation
    with plt.rc_context({"savefig.bbox": None}):  # frames of one size
        page = self_contained(animation.to_jshtml())
    plt.close(fig)  # or a notebook shows the last frame as well
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        from IPython.display import HTML, display

        display(HTML(page))
    else:
        FIGURES.mkdir(exist_ok=True)
        path = FIGURES / f"{name}.html"
        path.write_text(page, encoding="utf-8")
        print(f"Moving picture: {path}")
    return animation


def self_contained(page: str) -> str:
    """Give Matplotlib's page of a moving picture buttons that need no other host, and room for fingers.

    Matplotlib takes the icons from a font on another host; without a network its buttons are empty.
    """
    page = re.sub(r'<link rel="stylesheet"\s+href="https:[^>]*font-awesome[^>]*>', CONTROLS, page)
    page = re.sub(r'<i class="fa fa-([\w -]+)"></i>', lambda icon: ICONS[icon[1]], page)
    page = page.replace('class="anim-slider"', 'class="anim-slider" aria-label="Frame"')
    return page.replace('<img id="_anim_img', '<img alt="A frame of the moving picture" id="_anim_img')


ICONS = {
    "minus": "−",
    "fast-backward": "«",
    "step-backward": "‹",
    "play fa-flip-horizontal": "◀",
    "pause": "||",
    "play": "▶",
    "step-forward": "›",
    "fast-forward": "»",
    "plus": "+",
}
CONTROLS = """<style>
.animation { max-width: 100%; }
.animation .anim-controls input.anim-slider { width: 100%; max-width: 374px; height: 40px; }
.animation .anim-buttons { display: flex; justify-content: center; }
.animation .anim-buttons button { flex: 0 1 40px; min-width: 30px; height: 40px; font-size: 1rem; }
.animation .anim-state label { display: inline-block; padding: 8px 4px; }
</style>"""


def show(name: str) -> None:
    """Show the current figure in its notebook or page, or from the shell write it to figures/."""
    import matplotlib.pyplot as plt  # here, because a check of an exercise needs no figure

    plt.rcParams["savefig.bbox"] = "tight"  # no label is cut
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        plt.show()
    elif "sphinx_gallery" not in sys.modules:  # which collects the open figures itself
        FIGURES.mkdir(exist_ok=True)
        path = FIGURES / f"{name}.png"
        plt.savefig(path, dpi=120)
        plt.close()
        print(f"Figure: {path}")
