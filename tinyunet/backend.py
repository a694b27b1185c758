"""Which kernels run: ``numpy`` (the reference), ``numba`` (the default), ``cuda`` or ``cuda-emulated``.

The last two run the same CUDA kernels: on a GPU, or slowly on the CPU, to learn from them and to check them.
An op is split into its directions (`forward`, `backward_input`, …); each direction is one `Kernel`, which
holds an implementation for each backend and calls the active one. `KERNELS` is the table of them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tinyunet import cuda_emulator
from tinyunet.errors import BackendError

BACKENDS = ("numpy", "numba", "cuda", "cuda-emulated")


class Kernel:
    """One direction of one op, with an implementation for each backend.

    Parameters
    ----------
    op, direction : str
        Its place in the table, such as ``"conv2d", "backward_weight"``.
    **implementations : callable
        By backend; "cuda" serves "cuda-emulated" too. All take the same arguments and return the same
        values, up to rounding.
    """

    def __init__(self, op: str, direction: str, **implementations: Callable[..., Any]):
        self.name = f"{op}.{direction}"
        self.implementations = implementations
        KERNELS[op, direction] = self

    def __call__(self, *arguments: Any) -> Any:
        implementation = self.implementations.get(active_backend().removesuffix("-emulated"))
        if implementation is None:
            raise BackendError(
                f"{self.name}: no implementation for the backend {active_backend()!r}",
                {"implemented for": ", ".join(self.implementations)},
                "choose one of these with tinyunet.use_backend(...)",
            )
        return implementation(*arguments)


KERNELS: dict[tuple[str, str], Kernel] = {}


class use_backend:  # noqa: N801  a verb, used like a function
    """Choose the kernels, until the end of a ``with`` block or, called plainly, from now on.

    Parameters
    ----------
    name : {"numpy", "numba", "cuda", "cuda-emulated"}

    Raises
    ------
    BackendError
        Unknown name, or a backend that this machine or this version cannot run.

    Examples
    --------
    >>> import tinyunet as tu
    >>> with tu.use_backend("numpy"):
    ...     tu.active_backend()
    'numpy'
    """

    def __init__(self, name: str):
        global _active
        _require(name)
        self._previous = _active  # None: not looked up yet, and a wrong environment variable is no matter
        _active = name

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        _active = self._previous


_active: str | None = None


def active_backend() -> str:
    """The backend in use: the one chosen last, else the environment variable TINYUNET_BACKEND, else numba."""
    global _active
    if _active is None:
        name = os.environ.get("TINYUNET_BACKEND", "numba")
        _require(name)
        _active = name
    return _active


def _require(name: str) -> None:
    """Raise unless the backend can run here."""
    if name not in BACKENDS:
        raise BackendError(
            f"unknown backend {name!r}", {"expected": " | ".join(BACKENDS)}, "choose one of these"
        )
    if name == "cuda":
        _require_cuda()
    if name == "cuda-emulated":
        cuda_emulator.compiler()


def _require_cuda() -> None:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            "the backend 'cuda' needs CuPy, which is not installed",
            {"import cupy": error},
            "pip install 'tinyunet[cuda13]' (or cuda12), or use the backend 'numba'",
        ) from None
    if not cupy.cuda.is_available():
        raise BackendError(
            "the backend 'cuda' needs an NVIDIA GPU and its driver; CuPy finds none",
            {
                "cupy": cupy.__version__,
                "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "not set"),
            },
            "check that nvidia-smi lists a GPU, or use the backend 'numba'",
        )
    raise BackendError(
        "the backend 'cuda' has its kernels, but tensors live in the computer's memory in this version",
        {"missing": "CuPy arrays in Tensor, SGD and the initial weights; no kernel was run on a GPU yet"},
        "run the kernels on the CPU with 'cuda-emulated', or train with 'numba'",
    )
