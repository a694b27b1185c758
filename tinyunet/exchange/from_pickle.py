"""Read the arrays of a PyTorch file, which is a pickle: it could run any code, so only arrays are read.

PyTorch's reader does this, with `weights_only=True`. Before version 2.6 it could be deceived: CVE-2025-32434.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyunet.errors import CheckpointError, OptionError, first_names, shorten
from tinyunet.exchange.packages import require

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
SAFE = (2, 6)  # the first version of PyTorch whose reader runs nothing
NESTED = ("state_dict", "model_state_dict")  # where the weights are in files that hold more
PREFIX = "module."  # of a network that was trained on several GPUs
ARRAYS_ONLY = (
    "if you trust its author, read it with torch.load(…, weights_only=False), store the arrays alone with "
    "torch.save, and give that file"
)


def read_pickle(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a PyTorch file by name; what else it holds, such as `mask_values`, is left out.

    Raises
    ------
    CheckpointError
        It is damaged, or cannot be read without running code.
    OptionError
        PyTorch is not installed, or is too old to read a pickle safely.
    """
    torch = require("torch")
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE:
        raise OptionError(
            f"--start-from {path}: this PyTorch can be made to run code by a pickle; the file was not opened",
            {"PyTorch": torch.__version__, "expected": "2.6 or newer"},
            "pip install --upgrade torch",
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # of instructions that it refuses next
            stored = torch.load(path, map_location="cpu", weights_only=True)
        return _arrays(path, torch, stored)
    except (CheckpointError, PermissionError, FileNotFoundError):
        raise
    except Exception as error:  # zipfile, pickle and PyTorch raise half a dozen types
        raise _refused(path, str(error)) from error


def _arrays(path: Path, torch: Any, stored: Any) -> dict[str, NDArray[Any]]:
    if isinstance(stored, dict):
        stored = next((stored[name] for name in NESTED if isinstance(stored.get(name), dict)), stored)
    tensors = {k: v for k, v in stored.items() if torch.is_tensor(v)} if isinstance(stored, dict) else {}
    if not tensors:
        found = first_names([str(name) for name in stored]) if isinstance(stored, dict) else type(stored)
        raise CheckpointError(
            f"{path}: no arrays by name", {"found": found}, "give a file of a network's state_dict()"
        )
    return {
        str(name).removeprefix(PREFIX): np.asarray(tensor.detach().to(torch.float32).numpy())
        for name, tensor in tensors.items()
    }


def _refused(path: Path, reason: str) -> CheckpointError:
    """The error for a file that was not read; PyTorch's own advice, to read it with its code, is left out."""
    if found := re.search(r"GLOBAL ([\w.]+)|Unsupported operand \d+", reason):
        return CheckpointError(
            f"{path}: damaged, or holds more than arrays; nothing else is read, because that can run code",
            {"found": found[1] or found[0]},
            ARRAYS_ONLY,
        )
    return CheckpointError(
        f"{path}: damaged, or not a PyTorch file", {"reason": shorten(reason.strip(), 120)}, "use a copy"
    )
