"""`import tinyunet.data` needs NumPy, SciPy and Numba; what decodes files is imported where it is used."""

import ast
import sys
from pathlib import Path

import pytest

import tinyunet.data

LIGHT = {"numpy", "scipy", "numba", "tinyunet", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "path", sorted(Path(tinyunet.data.__file__).parent.glob("*.py")), ids=lambda p: p.stem
)
def test_modules_import_only_light_libraries(path):
    imported = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= LIGHT
