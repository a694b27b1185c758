"""Check your answers, get hints, and see what is next.

    python -m tutorials.check              what is solved, and what is next
    python -m tutorials.check 03 --start   make answers/03.py with the exercises of the chapter
    python -m tutorials.check 03.2         check one exercise, or with 03 all of the chapter
    python -m tutorials.check 03.2 --hint  show a hint; once more for the next one
    python -m tutorials.check 03 --recall  ask five questions on the chapter

In this folder: `python check.py 03.2`. The exit status is 0 if all that was checked is solved, 1 if not, and
2 for a command that does not exist.
"""

from __future__ import annotations

import argparse
import ast
import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `python -m`
import lesson

COMMAND = "python -m tutorials.check"
QUESTIONS = lesson.FOLDER / "questions.md"
MARKS = {"solved": "*", "wrong": "!", "open": "."}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    first, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=first,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", default="progress", metavar="EXERCISE", help="03.2, or 03 for all")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--start", action="store_true", help="make your file of answers for the chapter")
    action.add_argument("--hint", action="store_true", help="show the next hint for an exercise")
    action.add_argument("--recall", action="store_true", help="ask questions on the chapter, one by one")
    options = parser.parse_args(arguments)

    every = {number: name for path in lesson.chapters() for number, name in lesson.exercises(path)}
    if options.what == "progress" and not (options.start or options.hint or options.recall):
        return show_progress()
    chosen = {n: name for n, name in every.items() if options.what in (n, n[:2])}
    if not chosen:
        parser.error(f"there is no exercise {options.what}: write 03.2, or 03; the last is {max(every)}")
    if options.start:
        return start(options.what[:2])
    if options.recall:
        return recall(options.what[:2])
    if options.hint:
        if len(chosen) > 1:
            parser.error(f"--hint takes one exercise: {', '.join(chosen)}")
        return show_hint(*next(iter(chosen.items())))
    return check(chosen)


def check(chosen: dict[str, str]) -> int:
    """Check exercises, given by number and name, and print a message for each."""
    solved = True
    for number, name in chosen.items():
        try:
            answer = lesson.load_answers(number[:2]).get(name)
        except lesson.WrongAnswer as wrong:
            print(wrong)
            return 1
        if answer is None:
            lesson.record(number, state="open")
            state, message = "open", f"Exercise {number}, {name}: open."
        else:
            state, message = lesson.assess(number, name, answer)
        print(message)
        solved &= state == "solved"
    print(next_step(after=next(iter(chosen))))
    return 0 if solved else 1


def recall(chapter: str) -> int:
    """Ask the questions on a chapter one by one, and show each answer when Enter is pressed."""
    section = re.split(r"^## ", QUESTIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{chapter}. "))
    pairs = re.findall(r"<summary>([^\n]*)</summary>\n\n(.*?)\n\n</details>", text, re.DOTALL)
    for number, (question, answer) in enumerate(pairs, 1):
        lesson.say(f"{number}. {html.unescape(re.sub('<.*?>', '', question))}")
        if sys.stdin.isatty():
            input("   (Enter shows the answer) ")
        lesson.say(f"   {answer}")
    lesson.say(f"A harder task: {text[text.index('★') + 4 :]}")
    return 0


def show_hint(number: str, name: str) -> int:
    """Print the first hint that has not been shown, with its number; the last one again and again."""
    solutions = lesson.load_solutions(number[:2])
    hints = getattr(solutions, f"hints_{name}")
    count = min(lesson.recorded().get(number, {}).get("hints", 0) + 1, len(hints))
    lesson.record(number, hints=count)
    lesson.say(f"Hint {count} of {len(hints)} for {number}, {name}: {hints[count - 1]}")
    if count == len(hints):
        lines = lesson.count_lines(getattr(solutions, name))
        path = Path(str(solutions.__file__)).relative_to(lesson.FOLDER)
        print(f"The worked answer has {lines} line(s): {path.as_posix()}.")
    return 0


def show_progress() -> int:
    """Print a line for each chapter with a mark for each exercise, and what is next."""
    states, total = lesson.recorded(), 0
    for path in lesson.chapters():
        numbers = [number for number, _ in lesson.exercises(path)]
        marks = "".join(MARKS[states.get(number, {}).get("state", "open")] for number in numbers)
        title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem).splitlines()[0]
        print(f"{marks:<6}{title}")
        total += len(numbers)
    solved = sum(entry.get("state") == "solved" for entry in states.values())
    print(f"{solved} of {total} solved (*), wrong (!) or open (.) when last checked.")
    print(next_step())
    return 0


def next_step(after: str = "") -> str:
    """Return a line or two on the first exercise from number `after` on that is not solved, or the first."""
    states = lesson.recorded()
    left = [
        (number, name, path)
        for path in lesson.chapters()
        for number, name in lesson.exercises(path)
        if states.get(number, {}).get("state") != "solved"
    ]
    if not left:
        return "All are solved."
    number, name, path = next((entry for entry in left if entry[0] >= after), left[0])
    chapter = number[:2]
    if (lesson.ANSWERS / f"{chapter}.py").exists():
        return f"Next: {number}, {name}, in answers/{chapter}.py. For a hint: {COMMAND} {number} --hint"
    return f"Next: {number}, {name}. Read {path.name}, and begin with: {COMMAND} {chapter} --start"


def start(chapter: str) -> int:
    """Write the exercises of a chapter into its file of answers; leave those alone that are there."""
    (path,) = lesson.FOLDER.glob(f"{chapter}_*.py")
    target = lesson.ANSWERS / f"{chapter}.py"
    there = target.read_text(encoding="utf-8") if target.exists() else ""
    try:
        present = {node.name for node in ast.parse(there).body if isinstance(node, ast.FunctionDef)}
    except SyntaxError as error:
        print(f"{target}, line {error.lineno}: {error.msg}; nothing was added")
        return 1
    missing = [(number, name) for number, name in lesson.exercises(path) if name not in present]
    if missing:
        lesson.ANSWERS.mkdir(exist_ok=True)
        target.write_text(there + stubs(path, missing, header=not there), encoding="utf-8")
    print(
        f"{len(missing)} exercise(s) added to {target}. Replace each `return ...`, then:\n{COMMAND} {chapter}"
    )
    return 0


def stubs(path: Path, missing: Sequence[tuple[str, str]], header: bool) -> str:
    """Return the source of exercises as they are in the chapter, with what the chapter gives for them."""
    text = path.read_text(encoding="utf-8")
    lines, body = text.splitlines(), ast.parse(text).body
    worked = ast.parse(
        Path(str(lesson.load_solutions(path.name[:2]).__file__)).read_text(encoding="utf-8")
    ).body
    names = set(dict(lesson.exercises(path)).values())
    answers = [node for node in [*body, *worked] if isinstance(node, ast.FunctionDef) and node.name in names]
    used = set().union(*map(lesson.names_from_outside, answers))
    given = lesson.definitions(body, {"np", *used} - names, beside=names)
    imports = [node for node in given if isinstance(node, ast.Import | ast.ImportFrom)]
    others = [node for node in given if node not in imports]

    def source(node: ast.stmt) -> str:
        return "\n".join(lines[node.lineno - 1 : node.end_lineno])

    title = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    blocks = [f"# {number}\n\n\n{source(functions[name])}" for number, name in missing]
    if header:
        first = f'"""My answers to chapter {title}"""\n\n' + "\n".join(map(source, imports))
        blocks = [first, *map(source, others), *blocks]
    return "\n\n\n".join(blocks) + "\n" if header else "\n\n" + "\n\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    sys.exit(main())
