"""The reference lists the public names. The gate builds the site, with warnings as errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

import tinyunet as tu
from tinyunet import data, metrics

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from chapter_parts import drawing_parts, head, lesson  # noqa: E402
from equations import EQUATIONS  # noqa: E402
from reference_pages import chapters_of  # noqa: E402
from source_lines import line_of  # noqa: E402

REFERENCE = (ROOT / "docs" / "reference.rst").read_text(encoding="utf-8")


def listed(module: str) -> set[str]:
    """Return the names in the tables that follow `.. currentmodule:: module`."""
    sections = re.split(r"\.\. currentmodule:: (\S+)\n", REFERENCE)
    text = "".join(body for name, body in zip(sections[1::2], sections[2::2], strict=True) if name == module)
    return set(re.findall(r"^   (\w+)$", text, re.MULTILINE))


def test_every_public_name_is_listed() -> None:
    assert listed("tinyunet") == set(tu.__all__) - {"metrics"}
    assert listed("tinyunet.data") == set(data.__all__) - {"LabelKind", "Truth", "UNKNOWN", "class_labels"}
    helpers = {"Mistake", "confusion_matrix", "seg_per_object", "thin_borders", "warp_labels"}
    assert listed("tinyunet.metrics") == set(metrics.__all__) - helpers


PAPER = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")


def test_the_paper_names_lines_and_chapters_that_exist() -> None:
    references = re.findall(r"\{source\}`([^`]+)`", PAPER)
    assert len(references) > 40
    for reference in references:
        path, line = line_of(reference)
        name = reference.split()[-1].split(".")[-1]
        assert name in (ROOT / path).read_text(encoding="utf-8").splitlines()[line - 1]
    chapters = set(re.findall(r"\(chapters/(\w+)\)", PAPER))
    assert len(chapters) >= 10
    assert not [name for name in chapters if not (ROOT / "tutorials" / f"{name}.py").is_file()]


@pytest.mark.parametrize(
    "reference",
    ["tinyunet/unet.py UNet", "tinyunet/models/unet.py UNet.backward", "kernels/sgd.cu adam_step"],
)
def test_a_reference_to_nothing_is_an_error(reference: str) -> None:
    with pytest.raises(LookupError):
        line_of(reference)


def test_chapters_that_the_code_names_exist() -> None:
    root = Path(tu.__file__).parents[1]
    sources = [path.read_text(encoding="utf-8") for path in (root / "tinyunet").rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"tutorials/\d\d_\w+\.py", source)}
    assert len(named) > 10
    assert not [name for name in named if not (root / name).is_file()]


CHAPTERS = [path.read_text(encoding="utf-8") for path in lesson.chapters()]


def test_equations_are_those_of_the_chapters() -> None:
    comments = ["\n".join(line.removeprefix("#     ") for line in text.splitlines()) for text in CHAPTERS]
    assert not [plain for plain in EQUATIONS if not any(plain in text for text in comments)]


@pytest.mark.parametrize("chapter", lesson.chapters(), ids=lambda path: path.stem)
def test_the_table_of_chapters_has_the_minutes_of_their_heads(chapter: Path) -> None:
    about = head(chapter)
    assert about["build"]
    table = (ROOT / "tutorials" / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| \[{re.escape(about['title'])}\].* \| {about['minutes']} \|$", table, re.MULTILINE)


DRAWING = """fig, axes = plt.subplots(
    2, 4
)
for panel in axes:
    panel.imshow({what})
show("00-picture")
"""


def test_only_code_that_draws_goes_behind_a_click() -> None:
    code = "x = 1\n\n" + DRAWING.format(what="x") + "assert x\n"
    assert [draws for draws, _ in drawing_parts(code)] == [False, True, False]
    assert "\n\n".join(part for _, part in drawing_parts(code)).replace("\n\n", "\n") == code.strip().replace(
        "\n\n", "\n"
    )
    assert drawing_parts(DRAWING.format(what="tu.predict_tiled(model, x)"))[0][0] is False
    assert drawing_parts("def exercise(x):\n    return ...\n\n\ny = exercise(1)")[0][0] is False


def test_nothing_of_a_chapter_is_lost_and_no_exercise_is_hidden() -> None:
    hidden = []
    for text in CHAPTERS:
        for code in re.split(r"^# %%.*$", text, flags=re.MULTILINE)[2:]:
            parts = drawing_parts(code)
            assert "".join("".join(part.split()) for _, part in parts) == "".join(code.split())
            hidden += [part for draws, part in parts if draws]
    assert len(hidden) > 40
    assert not [part for part in hidden if "@exercise" in part or "assert " in part.splitlines()[-1]]


def test_the_reference_names_the_chapter_that_explains() -> None:
    assert chapters_of(tu.conv2d) == ["03_conv2d", "04_conv2d_numba"]
    assert chapters_of(tu.UNet) == ["09_unet"]
    assert chapters_of(data.ImageSet) == chapters_of(1.0) == []


TABLES = """\
==  ===========
a   0.9 ± 0.1
b   1 → 2 (3)
==  ===========

=  =  =  =  =  =  =
a  b  c  d  e  f  g
=  =  =  =  =  =  =
"""


def test_a_number_in_a_table_stays_together_and_wide_tables_are_marked() -> None:
    pytest.importorskip("sphinx", reason="needs pip install -e '.[docs]'")
    from chapter_pages import complete_tables
    from docutils import core, nodes

    document = core.publish_doctree(TABLES)
    complete_tables(None, document)
    assert "0.9 ±\N{NO-BREAK SPACE}0.1" in document.astext()
    assert "1 →\N{NO-BREAK SPACE}2 (3)" in document.astext()
    assert [table["classes"] for table in document.findall(nodes.table)] == [[], ["wide"]]


def test_a_picture_in_the_text_leads_to_its_full_size(tmp_path: Path) -> None:
    application = pytest.importorskip("sphinx.application", reason="needs pip install -e '.[docs]'")
    from sphinx.util.docutils import docutils_namespace

    Image.new("L", (2000, 10)).save(tmp_path / "wide.png")
    (tmp_path / "index.rst").write_text(
        "A\n=\n\n.. image:: wide.png\n\n.. image:: wide.png\n   :class: card\n"
    )
    options = {"extensions": ["chapter_pages"], "html_math_renderer": "mathml"}
    with docutils_namespace():
        application.Sphinx(
            tmp_path, None, tmp_path / "site", tmp_path / "trees", "html", options, status=None
        ).build()
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<img", page)) == 2
    assert len(re.findall(r'<a [^>]*href="_images/wide.png"[^>]*>\s*<img', page)) == 1
