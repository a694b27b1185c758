"""Packages that only an exchange needs: they are in the extras `export`, `objects` and `weights`."""

from __future__ import annotations

import importlib
from types import ModuleType

from tinyunet.errors import OptionError

DISTRIBUTIONS = {  # by the name of the module: the package, and the extra that it is in
    "onnx": ("onnx", "export"),
    "yaml": ("pyyaml", "export"),
    "shapely": ("shapely", "objects"),
    "roifile": ("roifile", "objects"),
    "torch": ("torch", "weights"),
    "h5py": ("h5py", "weights"),
    "google.protobuf": ("protobuf", "weights"),
}


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
        name, extra = DISTRIBUTIONS[module]
        raise OptionError(
            f"this format needs the package {name}, which cannot be imported",
            {"reason": error},
            f"pip install {name}; or, with all that such formats need: pip install -e '.[{extra}]'",
        ) from error
