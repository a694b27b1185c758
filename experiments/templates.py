"""Render the pages of results from their templates, which hold the prose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from tinyunet.metrics.naming import lower_is_better, readable_name


def render(template: str, **facts: Any) -> str:
    """Return a page: a template of this folder with these facts, each of which it needs."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters.update(
        readable=readable_name,
        arrow=lambda measure: "↓" if lower_is_better(measure) else "↑",
        count_of=lambda number, what: f"{number} {what}{'' if number == 1 else 's'}",
    )
    return templates.get_template(template).render(**facts)
