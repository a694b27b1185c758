"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import tinyunet

MODULES = [
    module.name
    for module in pkgutil.walk_packages(tinyunet.__path__, "tinyunet.")
    if module.name != "tinyunet.__main__"  # runs when it is imported
]
MODULES += ["experiments.courses", "experiments.digits", "experiments.reasons"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name.startswith("tinyunet.napari."):
        pytest.importorskip("napari", reason="napari is missing: pip install -e '.[napari]'")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = finder.find(importlib.import_module("tinyunet.models.geometry"))
    assert sum(len(test.examples) for test in examples) >= 6
