"""The files of a release say the same, and the package is marked as typed."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import yaml

import tinyunet as tu

ROOT = Path(tu.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert PROJECT["version"] == tu.__version__ == str(citation["version"]) == changes[0]
    assert citation["license"] == PROJECT["license"]


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")


def test_type_checkers_read_the_annotations() -> None:
    assert (files("tinyunet") / "py.typed").is_file()
