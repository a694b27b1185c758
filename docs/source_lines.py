"""A role for pages of the site: {source}`tinyunet/models/unet.py UNet.forward` becomes its file and line.

Lines are looked up when the site is built, so they are never stale. A name that is missing is a warning, with
which the build fails.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[1]


def line_of(reference: str) -> tuple[str, int]:
    """Find the file and the line of a reference: a path, a space, and a name, or a text in the file.

    Raises
    ------
    LookupError
        The file does not exist, or has neither a definition nor a line with this text.
    """
    path, _, name = reference.partition(" ")
    if not (TOP / path).is_file():
        raise LookupError(f"there is no file {path}")
    text = (TOP / path).read_text(encoding="utf-8")
    if path.endswith(".py") and re.fullmatch(r"[\w.]+", name):
        return path, definition(ast.parse(text), name, path)
    for number, line in enumerate(text.splitlines(), 1):
        if name in line:
            return path, number
    raise LookupError(f"no line of {path} has the text {name!r}")


def definition(tree: ast.Module, name: str, path: str) -> int:
    """Find the line of a function, a class, a method or an attribute: "UNet.forward"."""
    body: list[Any] = tree.body
    line = 0
    for part in name.split("."):
        for node in body:
            target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
            if part in (getattr(node, "name", None), getattr(target, "id", None)):
                line, body = node.lineno, getattr(node, "body", [])
                break
        else:
            raise LookupError(f"{path} does not define {name}")
    return line


def source_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[Any], list[Any]]:
    """Replace the role by the name, the file and the line."""
    from docutils import nodes

    try:
        path, line = line_of(text)
    except LookupError as error:
        problem = inliner.reporter.warning(f"source: {error}", line=lineno)
        return [inliner.problematic(rawtext, rawtext, problem)], [problem]
    return [nodes.literal(rawtext, f"{path}:{line}")], []


def setup(app: Any) -> dict[str, Any]:
    """Register the role."""
    app.add_role("source", source_role)
    return {"parallel_read_safe": True}
