"""What the chapters' pages have beyond the chapters: cards, folded drawing code, hints, typeset equations.

All of it is derived when the site is built, so a chapter stays a script without marks for the site:

- `.. chapter-cards::` makes a card per chapter from the head of its file;
- code that only draws goes behind a click (`chapter_parts.drawing_parts` says which);
- below an exercise come the command that checks it, and its hints from `solutions/`, each behind a click;
- displayed equations are typeset, by `equations.py`, as MathML, which needs no script, font or network;
- moving pictures get buttons that need no network either.

On all pages, wide tables are set smaller, their numbers break at most once, and pictures can be enlarged.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chapter_parts import TUTORIALS, cards, drawing_parts, lesson
from docutils import nodes
from docutils.statemachine import StringList
from docutils.utils.math.latex2mathml import tex2mathml
from equations import EQUATIONS
from sphinx.util.docutils import SphinxDirective

LABELS = {"drawing": "Code of the picture, {} lines", "hint": "Hint {}", "check": "To check your answer: "}


def untranslated(page: str) -> dict[str, str]:
    """Return the translations of hints on a page: none, in English."""
    return {}


hints_in_language: Callable[[str], dict[str, str]] = untranslated  # the Chinese edition puts in its own


class ChapterCards(SphinxDirective):
    """The directive: a card per chapter, made of the chapters' own heads."""

    def run(self) -> list[nodes.Node]:
        """Parse the lines of `cards` in place of the directive."""
        for chapter in lesson.chapters():
            self.env.note_dependency(str(chapter))
        lines = list(cards(Path(self.env.srcdir) / "chapters/images/thumb"))
        node = nodes.Element()
        self.state.nested_parse(StringList(lines, "chapters"), self.content_offset, node)
        return node.children


def below_exercise(number: str, name: str, page: str) -> Iterator[nodes.Node]:
    """Yield what follows an exercise on a page: the command that checks it, and each hint behind a click."""
    command = nodes.literal("", f"python check.py {number}")
    yield nodes.paragraph("", "", nodes.Text(LABELS["check"]), command)
    solutions, translations = lesson.load_solutions(number[:2]), hints_in_language(page)
    for count, hint in enumerate(getattr(solutions, f"hints_{name}"), 1):
        paragraph = nodes.paragraph(hint, translations.get(hint, hint))
        paragraph.source = str(solutions.__file__)  # the catalogues take passages that have one
        yield from behind_click(LABELS["hint"].format(count), paragraph)


def behind_click(title: str, *content: nodes.Node) -> list[nodes.Node]:
    """Put content behind a click, in HTML; elsewhere it is in sight."""
    opening = f'<details class="behind"><summary>{html.escape(title)}</summary>'
    return [
        nodes.raw("", opening, format="html"),
        *content,
        nodes.raw("", "</details>", format="html"),
    ]


def complete_page(app: Any, document: nodes.document) -> None:
    """Change the page of a chapter after it was read: fold, add hints, typeset, complete moving pictures."""
    path = TUTORIALS / f"{Path(app.env.docname).name}.py"
    if not app.env.docname.startswith("chapters/") or not path.is_file():
        return
    for moving in list(document.findall(nodes.raw)):
        if 'class="animation"' in moving.astext():
            page = lesson.self_contained(moving.astext())
            moving.parent.replace(moving, nodes.raw("", page, format="html"))
    exercises = dict(lesson.exercises(path))
    for block in list(document.findall(nodes.literal_block)):
        if block.get("language", "").lower() == "python":
            block.parent.replace(block, list(completed_code(block, exercises, app.env.docname)))
        elif (equation := EQUATIONS.get(block.astext().strip())) is not None:
            math = nodes.math_block("", equation, nowrap=True, number=None, plain=block.astext().strip())
            block.parent.replace(block, math)


def completed_code(block: nodes.literal_block, exercises: dict[str, str], page: str) -> Iterator[nodes.Node]:
    """Yield a block of code in its parts, and what belongs below an exercise."""
    code = block.astext()
    for draws, part in drawing_parts(code):
        copy = nodes.literal_block(part, part, **block.attributes)
        if draws:
            yield from behind_click(LABELS["drawing"].format(len(part.splitlines())), copy)
        else:
            yield copy
    for number, name in exercises.items():
        if f'@exercise("{number}")' in code:
            yield from below_exercise(number, name, page)


def complete_tables(app: Any, document: nodes.document) -> None:
    """Keep the parts of a number together, as in ± 0.01, and mark the tables with many columns."""
    for table in document.findall(nodes.tgroup):
        if table["cols"] > 6:
            table.parent["classes"].append("wide")
        for text in list(table.findall(nodes.Text)):
            bound = re.sub(r"(?<=[±→]) (?=\d)", "\N{NO-BREAK SPACE}", text)
            if bound != text:
                text.parent.replace(text, nodes.Text(bound))


def link_pictures(app: Any, document: nodes.document) -> None:
    """Make a picture in the text a link to its full size, for phones: Sphinx does that for scaled ones."""
    for picture in document.findall(nodes.image):
        if not picture["classes"]:  # of cards
            picture.setdefault("scale", 100)


def visit_math(translator: Any, node: nodes.math) -> None:
    """Write an equation in a line of text."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    """Write a displayed equation; readers of the screen get the text of the chapter."""
    written = tex2mathml(node.astext(), as_block=True)
    if plain := node.get("plain"):
        written = written.replace("<math", f'<math alttext="{html.escape(plain)}"', 1)
    translator.body.append(f'<div class="equation">{written}</div>\n')
    raise nodes.SkipNode


def without_thumbnails(app: Any, docname: str, content: list[str]) -> None:
    """Take sphinx-gallery's own list of chapters, which are titles only, off the page that has the cards."""
    if docname == "chapters/index":
        listed = (
            r'\.\. raw:: html\s+<div class="sphx-glr-thumbnails">.*'
            r"thumbnail-parent-div-close\s+\.\. raw:: html\s+</div>"
        )
        content[0], count = re.subn(listed, "", content[0], flags=re.DOTALL)
        assert count == 1, "sphinx-gallery writes its list of chapters in another form"


def setup(app: Any) -> dict[str, Any]:
    """Register the directive, the changes of pages, and the writer of equations."""
    app.add_directive("chapter-cards", ChapterCards)
    app.connect("source-read", without_thumbnails)
    app.connect("doctree-read", complete_page)
    app.connect("doctree-read", complete_tables)
    app.connect("doctree-read", link_pictures)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True}
