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


def test_the_recipe_says_what_the_package_says() -> None:
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == PROJECT["version"]
    assert recipe["context"]["python_min"] == PROJECT["requires-python"].removeprefix(">=")
    assert recipe["about"]["license"] == PROJECT["license"]
    needed = {
        text.replace(" ", "").replace("matplotlib-base", "matplotlib")
        for text in recipe["requirements"]["run"]
    }
    assert needed == {*PROJECT["dependencies"], "python>=${{python_min}}"}
    scripts = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


def test_workflows_run_every_python_that_is_named() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    systems = set()
    for job in (workflow["jobs"]["linux"], workflow["jobs"]["others"]):
        assert named <= set(job["strategy"]["matrix"]["python"])
        systems |= {name.partition("-")[0] for name in job["strategy"]["matrix"]["os"]}
        commands = " ".join(step.get("run", "") for step in job["steps"])
        assert all((ROOT / path).exists() for path in re.findall(r"tests/[\w./]+", commands))
    assert systems == {"ubuntu", "macos", "windows"}


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")


def test_type_checkers_read_the_annotations() -> None:
    assert (files("tinyunet") / "py.typed").is_file()
