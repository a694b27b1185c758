"""The reference names for each object the chapter that explains it: the one that its source file names."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

CHAPTER = re.compile(r"tutorials/(\d\d_\w+)\.py")


def chapters_of(obj: Any) -> list[str]:
    """Return the chapters that the file of a function or a class names, in its order."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(obj))
    except TypeError:  # not a function or a class
        return []
    return list(dict.fromkeys(CHAPTER.findall(Path(path).read_text(encoding="utf-8")))) if path else []


def add_chapters(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add the links at the end of a docstring; methods are left to their class."""
    if what in ("function", "class") and (chapters := chapters_of(obj)):
        links = ", ".join(f":doc:`/chapters/{chapter}`" for chapter in chapters)
        lines += ["", f".. seealso:: Explained in {links}", ""]


def setup(app: Any) -> dict[str, Any]:
    """Register the change of docstrings, after that of numpydoc."""
    app.connect("autodoc-process-docstring", add_chapters, priority=900)
    return {"parallel_read_safe": True}
