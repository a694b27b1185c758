"""What the site takes from the chapters' files: heads for the cards, and which code only draws."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

TUTORIALS = Path(__file__).parents[1] / "tutorials"
sys.path.insert(0, str(TUTORIALS))
import lesson  # noqa: E402

SHORT = 5  # lines; less drawing is not worth a click
READ = {"tu", "follow", "trained", "train_step"}  # what a chapter is about stays in sight within drawing, too


def head(chapter: Path) -> dict[str, str]:
    """Read a chapter's title, what one builds, what it needs, and its minutes from its docstring.

    Raises
    ------
    ValueError
        The docstring lacks one of them.
    """
    text = ast.get_docstring(ast.parse(chapter.read_text(encoding="utf-8"))) or ""
    flat = " ".join(text.split())
    patterns = {
        "build": r"\*\*You will build\*\* (.*?)[.](?: |$)",
        "needed": r"Needed: (.*?)[.](?: |$)",
        "minutes": r"About (\d+) minutes",
    }
    found = {"title": text.partition("\n")[0]}
    for name, pattern in patterns.items():
        match = re.search(pattern, flat)
        if match is None:
            raise ValueError(f"{chapter.name}: its docstring does not match {pattern!r}")
        found[name] = re.sub(r" \(``[^)]*\)", "", match[1])  # without names of files
    return found


def cards(thumbnails: Path) -> Iterator[str]:
    """Yield the lines of a grid with a card per chapter, in reStructuredText.

    Of a chapter whose first picture moves, sphinx-gallery makes a thumbnail that moves, too: a GIF.
    """
    yield from (".. grid:: 1 2 2 3", "   :gutter: 3", "   :class-container: chapters", "")
    for chapter in lesson.chapters():
        about, number = head(chapter), len(lesson.exercises(chapter))
        name = f"sphx_glr_{chapter.stem}_thumb"
        picture = next((path.name for path in thumbnails.glob(f"{name}.*")), f"{name}.png")
        yield from (
            f"   .. grid-item-card:: {about['title']}",
            f"      :link: {chapter.stem}",
            "      :link-type: doc",
            f"      :img-top: images/thumb/{picture}",
            f"      :img-alt: A picture of the chapter {about['title']}",
            "",
            f"      **{about['minutes']} minutes · {number} exercises**",
            "",
            f"      You build {about['build']}.",
            "",
            f"      *Needed:* {about['needed']}.",
            "",
        )


def drawing_parts(code: str) -> list[tuple[bool, str]]:
    """Split code into parts, each with whether it only draws.

    Drawing is a function that uses `plt`, or begins where a figure is made (`fig, axes = plt.subplots()`) and
    ends with `show(...)` or `animate(...)`. It stays in sight if it is short, or uses a name of `READ`.
    """
    lines = code.splitlines()
    spans: list[tuple[int, int]] = []  # first and last line of each part that draws, the last one excluded
    begun: int | None = None
    for node in ast.parse(code).body:
        if begun is None and uses(node, "plt") and isinstance(node, ast.FunctionDef):
            spans.append((node.lineno - 1, node.end_lineno or 0))
        elif begun is None and uses(node, "plt") and isinstance(node, ast.Assign):
            begun = node.lineno - 1
        if begun is not None and ends_drawing(node):
            spans.append((begun, node.end_lineno or 0))
            begun = None
    edges = [0, *(line for span in merged(lines, spans) for line in span), len(lines)]
    parts = [(number % 2 == 1, lines[first:last]) for number, (first, last) in enumerate(pairwise(edges))]
    return [(draws, "\n".join(part).strip("\n")) for draws, part in parts if any(map(str.strip, part))]


def merged(lines: list[str], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join parts with nothing but blank lines in between, and leave out those that stay in sight."""
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and not any(map(str.strip, lines[joined[-1][1] : first])):
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return [
        (first, last)
        for first, last in joined
        if last - first >= SHORT and not uses(ast.parse("\n".join(lines[first:last])), *READ)
    ]


def uses(node: ast.AST, *names: str) -> bool:
    """Return whether code uses one of these names."""
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


def ends_drawing(node: ast.stmt) -> bool:
    """Return whether a statement is `show(...)`, or `animate(...)`, with or without a name for its result."""
    call = getattr(node, "value", None)
    return isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("show", "animate")
