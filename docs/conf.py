"""Configuration of the site: the tutorials with their figures, and the reference from the docstrings.

    pip install -e '.[docs]'
    python -m sphinx -n -W --keep-going docs site
    python -m sphinx -n -W --keep-going -D language=zh_CN docs site/zh_CN

Every chapter is run; `-D plot_gallery=0` skips that. The result is site/index.html. The second line makes
the Chinese edition from the catalogues in locale/ and what the first line has run.
"""

import sys
import warnings
from pathlib import Path

import matplotlib

import tinyunet

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP / "tutorials"))  # for `import lesson`
sys.path.insert(0, str(TOP / "docs"))  # for `import browser_demo`, and the extensions beside this file
import notebooks  # noqa: E402

matplotlib.use("agg")
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

project = "tinyunet"
author = copyright = "the tinyunet authors"
release = tinyunet.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "source_lines",
    "chapter_pages",
    "reference_pages",
    "notebooks",
    "translations",
]
exclude_patterns = ["_templates", "locale"]

# The Chinese edition: a catalogue per page. Code is in none of them, so it is the same in both editions.
locale_dirs = ["locale"]
gettext_compact = False
gettext_location = False
gettext_additional_targets: list[str] = []

templates_path = ["_templates"]
html_theme = "furo"
html_title = f"tinyunet {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"  # of chapter_pages
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/languages.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}

autodoc_typehints = "none"  # the docstrings give the types, with shapes
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
suppress_warnings = ["sphinx_gallery.duplicate_filename"]  # a chapter and its solutions share a name
default_role = "code"  # `x` in a docstring is code, as in Markdown
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block", "colon_fence"]

sphinx_gallery_conf = {
    "examples_dirs": str(TOP / "tutorials"),
    "gallery_dirs": "chapters",
    "filename_pattern": r"/\d\d_",
    "ignore_pattern": r"\b(check|lesson|puzzle|race|tape)\.py|solutions|answers",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": True,
    "first_notebook_cell": notebooks.FIRST_CELL,
    "image_srcset": ["2x"],
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "nested_sections": False,
}


def complete_demo(app, exception):
    """Add to the built site what the demonstration in the browser needs besides what is committed."""
    import browser_demo
    from sphinx.util import logging

    if exception or app.builder.format != "html":
        return
    if reason := browser_demo.fetch_runtime():
        logging.getLogger(__name__).info(f"demo.html goes without onnxruntime-web: {reason}")
    browser_demo.complete(Path(app.outdir) / "_static")


def setup(app):
    app.connect("build-finished", complete_demo)
