"""The reference lists the public names. The gate builds the site, with warnings as errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import tinyunet as tu
from tinyunet import data, metrics

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
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
