"""Read the ONNX weights of a BioImage.IO package that `write_package` wrote, and check their checksum."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from tinyunet.data.decoded import require_modest_size
from tinyunet.errors import CheckpointError, first_names
from tinyunet.exchange.packages import require
from tinyunet.exchange.record import EXPORT_AGAIN

DESCRIPTION = "rdf.yaml"
LARGEST_DESCRIPTION = 2**20  # bytes


def onnx_of_package(path: Path) -> bytes:
    """Return the ONNX weights of a package.

    Raises
    ------
    CheckpointError
        It is damaged, no package, has no ONNX weights, or these do not have their checksum.
    OptionError
        pyyaml is not installed.
    """
    require("yaml")
    try:
        with zipfile.ZipFile(path) as package:
            return _checked_weights(path, package)
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:  # zip and zlib raise half a dozen types for a damaged archive
        raise _bad(path, "damaged, or not a zip archive", f"{type(error).__name__}: {error}") from error


def _checked_weights(path: Path, package: zipfile.ZipFile) -> bytes:
    weights = _description(path, package).get("weights")
    onnx = weights.get("onnx") if isinstance(weights, dict) else None
    if not isinstance(onnx, dict):
        found = first_names([str(name) for name in weights]) if isinstance(weights, dict) else "nothing"
        raise _bad(path, "a package without ONNX weights, which tinyunet writes", found)
    source, expected = str(onnx.get("source")), onnx.get("sha256")
    content = _read(path, package, source)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path}: {source} does not match its checksum, it was changed or is damaged",
            {"expected": expected, "found": found},
            "use a copy, or export it again",
        )
    return content


def _description(path: Path, package: zipfile.ZipFile) -> dict[str, Any]:
    yaml = require("yaml")
    if DESCRIPTION not in package.namelist():
        raise _bad(
            path, f"not a package of the BioImage.IO model zoo, {DESCRIPTION} is missing", package.namelist()
        )
    size = package.getinfo(DESCRIPTION).file_size
    if size > LARGEST_DESCRIPTION:
        raise _bad(path, f"{DESCRIPTION} is too large for a description", f"{size:,} bytes")
    try:
        description = yaml.safe_load(package.read(DESCRIPTION))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _bad(path, f"{DESCRIPTION} is damaged", error) from error
    if not isinstance(description, dict) or description.get("type") != "model":
        raise _bad(path, f"{DESCRIPTION} describes no model", type(description).__name__)
    return description


def _read(path: Path, package: zipfile.ZipFile, name: str) -> bytes:
    if name not in package.namelist():
        raise _bad(path, f"{name}, which {DESCRIPTION} names, is missing", package.namelist())
    require_modest_size(path, package.getinfo(name).file_size)
    return package.read(name)


def _bad(path: Path, what: str, found: object) -> CheckpointError:
    text = first_names(found) if isinstance(found, list) else found
    return CheckpointError(f"{path}: {what}", {"found": text}, EXPORT_AGAIN)
