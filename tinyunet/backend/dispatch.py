"""The choice of a backend: ``numpy`` (the reference), ``numba`` (the default), ``cuda``, ``cuda-emulated``.

The last two run the same CUDA kernels: on a GPU, or slowly on the CPU, to study and to check them. An op is
split into its directions (`forward`, `backward_input`, …). Each direction is one `Dispatch`, which holds an
implementation for each backend and calls the active one. `DISPATCH_TABLE` is the table of them all.

Arrays live where the backend computes: on the GPU for ``cuda``, as CuPy arrays; for the others they are NumPy
arrays. They are moved only by `to_backend` (what goes into a `Tensor`) and `to_host` (what is printed, stored
or given to the user); in between nothing converts them.

Each thread has its own choice of a backend, so that one may predict on the CPU while another trains on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import cache, partial
from types import ModuleType, TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinyunet.backend import cuda_emulator
from tinyunet.errors import BackendError

T = TypeVar("T")

BACKENDS = ("numpy", "numba", "cuda", "cuda-emulated")
PRECISIONS = ("float32", "tf32", "bf16")


class Dispatch:
    """One direction of one op, with an implementation for each backend.

    Parameters
    ----------
    op, direction : str
        Its place in the table, such as ``"conv2d", "backward_weight"``.
    **implementations : callable
        The function for each backend; "cuda" serves "cuda-emulated" too. All take the same arguments and
        return the same values, up to rounding.
    """

    def __init__(self, op: str, direction: str, **implementations: Callable[..., Any]):
        self.name = f"{op}.{direction}"
        self.implementations = implementations
        DISPATCH_TABLE[op, direction] = self

    def __call__(self, *arguments: Any) -> Any:
        implementation = self.implementations.get(active_backend().removesuffix("-emulated"))
        if implementation is None:
            raise BackendError(
                f"{self.name}: no implementation for the backend {active_backend()!r}",
                {"implemented for": ", ".join(self.implementations)},
                "choose one of these with tinyunet.use_backend(...)",
            )
        return implementation(*arguments)


DISPATCH_TABLE: dict[tuple[str, str], Dispatch] = {}


class use_backend:  # noqa: N801  a verb, used like a function
    """Choose this thread's backend until the end of a ``with`` block or, without ``with``, from now on.

    Other threads keep theirs. A thread starts with the environment variable TINYUNET_BACKEND, else "numba",
    whatever the thread that started it has chosen: choose in each thread, or let the new one inherit by
    ``Thread(target=contextvars.copy_context().run, args=(function,))``. An asyncio task inherits, and what it
    chooses is its own.

    Parameters
    ----------
    name : {"numpy", "numba", "cuda", "cuda-emulated"}
    precision : {"float32", "tf32", "bf16"}
        CUDA kernels round the factors of a convolution to 24, 11 or 8 significant bits before they multiply
        them. Weights, gradients, maps and all sums stay float32, but for those maps and their gradients that
        only products take: they are stored rounded. In "float32", too, tensor cores multiply on
        some GPUs: each factor is the sum of two of 11 bits there, so a run has the same bits on GPUs of one
        kind only.

    Raises
    ------
    BackendError
        The name or the precision is unknown, or this machine cannot run the backend.

    Examples
    --------
    >>> import tinyunet as tu
    >>> with tu.use_backend("numpy"):
    ...     tu.active_backend()
    'numpy'
    """

    def __init__(self, name: str, precision: str = "float32"):
        _require(name)
        _require_precision(name, precision)
        # Not for the process: until __enter__, a `with` block cannot be distinguished from a plain call.
        self._token = _choice.set((name, precision))

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _choice.reset(self._token)


# The name and the precision that this thread has chosen.
_choice: ContextVar[tuple[str, str] | None] = ContextVar("choice", default=None)


def active_backend() -> str:
    """Return this thread's last choice, else the environment variable TINYUNET_BACKEND, else "numba"."""
    choice = _choice.get()
    return choice[0] if choice else _default()


def active_precision() -> str:
    """Return the precision of this thread's backend."""
    choice = _choice.get()
    return choice[1] if choice else "float32"


@cache
def _default() -> str:
    """Return the backend of threads that have chosen none, one for the process as its environment is."""
    name = os.environ.get("TINYUNET_BACKEND", "numba")
    _require(name)
    return name


def _require_precision(name: str, precision: str) -> None:
    if precision not in PRECISIONS:
        raise BackendError(
            f"unknown precision {precision!r}", {"expected": " | ".join(PRECISIONS)}, "choose one of these"
        )
    if precision != "float32" and not name.startswith("cuda"):
        raise BackendError(
            f"the backend {name!r} does not compute in {precision}",
            remedy="leave the precision out, or use the backend 'cuda'",
        )
    if precision != "float32" and name == "cuda" and compute_capability() < (8, 0):
        raise BackendError(
            f"{precision} needs a GPU of compute capability 8.0 (of the year 2020) or later",
            {"GPU": "compute capability {}.{}".format(*compute_capability())},
            "leave the precision out, or use another GPU",
        )


def _require(name: str) -> None:
    """Raise a BackendError unless the backend can run here."""
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
    except OSError as error:
        raise cache_error(error) from None
    if cupy.cuda.is_available():
        return
    driver, needed = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    if 0 < driver < needed // 1000 * 1000:  # a driver runs all minor versions of its major one
        raise BackendError(
            "the backend 'cuda': the NVIDIA driver is too old for this CuPy",
            {"driver": f"CUDA {_version(driver)}", "cupy": f"{cupy.__version__}, CUDA {_version(needed)}"},
            "update the driver, or install a CuPy for an older CUDA, such as 'tinyunet[cuda12]'",
        )
    raise BackendError(
        "the backend 'cuda' needs an NVIDIA GPU and its driver; CuPy finds none",
        {
            "cupy": cupy.__version__,
            "driver": f"CUDA {_version(driver)}" if driver else "none",
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "not set"),
        },
        "check that nvidia-smi lists a GPU, or use the backend 'numba'",
    )


def cache_error(error: OSError) -> Exception:
    """Make the error for CuPy's folder of compiled kernels, which CuPy makes when it is imported.

    An error about anything but a file is returned as it is.
    """
    if error.filename is None:
        return error
    return BackendError(
        "the backend 'cuda': CuPy cannot write into the folder in which it keeps compiled kernels",
        {
            "file": error.filename,
            "reason": error.strerror,
            "CUPY_CACHE_DIR": os.environ.get("CUPY_CACHE_DIR", "not set: ~/.cupy/kernel_cache"),
        },
        "set CUPY_CACHE_DIR to a folder that can be written, or use the backend 'numba'",
    )


def in_this_context(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function that does the same in another thread, with the backend and on the GPU of this one.

    CUDA begins every thread with the first GPU. The other thread keeps the GPU afterwards.
    """
    inherited = partial(copy_context().run, function)
    if active_backend() != "cuda":
        return inherited
    gpu = array_library().cuda.Device()

    def on_this_gpu(*arguments: Any) -> T:
        gpu.use()
        return inherited(*arguments)

    return on_this_gpu


def compute_capability() -> tuple[int, int]:
    """Return the compute capability of the GPU: the version of its instruction set."""
    import cupy

    digits = cupy.cuda.Device().compute_capability  # "120" is 12.0
    return int(digits[:-1]), int(digits[-1])


def _version(number: int) -> str:
    """CUDA's 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def array_library() -> ModuleType:
    """Return the library of the arrays on which the active backend computes: CuPy or NumPy."""
    if active_backend() == "cuda":
        import cupy

        return cupy
    return np


def to_backend(array: Any, dtype: DTypeLike | None = None) -> Any:
    """Return an array where the active backend computes, C-contiguous. It is copied only if necessary.

    Parameters
    ----------
    array : array_like
        In host memory or on the GPU.
    dtype : optional
        The type to convert to.
    """
    library = array_library()
    if library is np:
        return np.asarray(to_host(array), dtype, order="C")
    # blocking: the caller may change the array in host memory as soon as this returns.
    return library.asarray(array, dtype, order="C", blocking=True)


def to_host(array: Any) -> NDArray[Any]:
    """Return a NumPy array of the same values: the array itself, or a copy from the GPU."""
    return array.get() if lies_on_gpu(array) else np.asarray(array)


def lies_on_gpu(array: Any) -> bool:
    """Return whether an array is CuPy's."""
    return hasattr(array, "__cuda_array_interface__")


def require_on_backend(op: str, arrays: list[Any]) -> None:
    """Raise a BackendError for an array that lies where the active backend does not compute."""
    library = array_library()
    for number, array in enumerate(arrays):
        if array is not None and not isinstance(array, library.ndarray):
            place = "on the GPU" if lies_on_gpu(array) else "in host memory"
            raise BackendError(
                f"{op}: the backend {active_backend()!r} does not compute {place}, where an input lies",
                {f"input {number}": f"{array.shape}, {type(array).__module__}"},
                "choose the backend before the network and the tensors are made, and in each thread; or make "
                "them anew: Tensor(t.numpy())",
            )
