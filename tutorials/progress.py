"""List the exercises and those that are solved, as of the last run of each chapter: python progress.py."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from lesson import RECORD


def main() -> None:
    """Print one line per exercise, chapter by chapter."""
    states = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    solved = total = 0
    for chapter in sorted(Path(__file__).parent.glob("[0-9][0-9]_*.py")):
        print(chapter.name)
        for number, name in exercises(chapter):
            state = states.get(number, {}).get("state", "not run yet")
            solved, total = solved + (state == "solved"), total + 1
            print(f"  {number}  {name:<32} {state}")
    print(f"{solved} of {total} solved")


def exercises(chapter: Path) -> list[tuple[str, str]]:
    """Read the number and the name of each exercise of a chapter from its decorators."""
    return [
        (decorator.args[0].value, node.name)
        for node in ast.parse(chapter.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "exercise"
    ]


if __name__ == "__main__":
    main()
