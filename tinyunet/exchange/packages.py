"""Packages that only an exchange needs: the extra `export`."""

from __future__ import annotations

import importlib
from types import ModuleType

from tinyunet.errors import OptionError

DISTRIBUTIONS = {"onnx": "onnx", "yaml": "pyyaml"}  # by the name of the module


def require(module: str) -> ModuleType:
    """Import a module of `DISTRIBUTIONS`.

    Raises
    ------
    OptionError
        It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = DISTRIBUTIONS[module]
        raise OptionError(
            f"this format needs the package {name}, which cannot be imported",
            {"reason": error},
            f"pip install {name}; or, with all that exports need: pip install -e '.[export]'",
        ) from error
