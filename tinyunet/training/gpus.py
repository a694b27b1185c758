"""The GPUs of processes that train together: one for each, with NCCL between them.

NCCL [1]_ copies from GPU to GPU over the fastest link that there is, without a detour through host memory.
The order in which its own sums are added depends on the number of GPUs and on their links. So it only moves
data here: each process adds its slice itself, in the order of the tree.

Where two processes have to share a GPU, which NCCL refuses, or where it is missing, data travel through host
memory. The additions are the same, and so are the bits.

References
----------
.. [1] NVIDIA Collective Communications Library, "Point-to-point communication".
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinyunet.backend import array_library, to_backend
from tinyunet.errors import RunError
from tinyunet.training.ranks import Add, Ranks, Sum

PART = 2**23  # values that travel together, 32 MB: so much memory the exchange takes besides the gradient


def take_one(ranks: Ranks) -> str:
    """Let this process compute on a GPU of its own, if its machine has enough; returns its bus address.

    The GPUs of a machine are given to its processes in their order. A launcher that lets each process see
    one GPU alone (CUDA_VISIBLE_DEVICES) has already chosen.
    """
    cupy = array_library()
    machines = ranks.from_all(_machine())
    place = machines[: ranks.number].count(machines[ranks.number])
    gpu = cupy.cuda.Device(place % cupy.cuda.runtime.getDeviceCount())
    gpu.use()
    return gpu.pci_bus_id


def _machine() -> str:
    """Return what only the processes of one machine have in common: containers on it have different names."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def facts() -> dict[str, object]:
    """What has to be the same on all GPUs for the same bits, besides `tinyunet.training.mpi.facts`."""
    cupy = array_library()
    number = cupy.cuda.Device().id
    return {
        "CuPy": cupy.__version__,
        "NVRTC": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "the kind of GPU": cupy.cuda.runtime.getDeviceProperties(number)["name"].decode(),
    }


def connect(ranks: Ranks, own: str) -> tuple[Any, str]:
    """Connect the GPUs by NCCL.

    Parameters
    ----------
    ranks : Ranks
    own : str
        The GPU of this process on its machine, as `take_one` returns it.

    Returns
    -------
    communicator : cupy.cuda.nccl.NcclCommunicator or None
        None where data have to travel through host memory.
    transport : str
        What carries the data, and why.

    Raises
    ------
    RunError
        NCCL is there, and fails to connect them.
    """
    gpus = ranks.from_all((_machine(), own))
    nccl = _nccl()
    versions = ranks.from_all(nccl.get_version() if nccl else None)
    if None in versions:
        number = versions.index(None)
        remedy = "pip install nvidia-nccl-cu13, or cu12"
        return None, f"host memory (rank {number} has no NCCL that CuPy can load: {remedy})"
    if len(set(gpus)) < len(gpus):
        shared = next(gpu for gpu in gpus if gpus.count(gpu) > 1)
        return None, f"host memory ({gpus.count(shared)} processes share the GPU {shared[1]})"
    if len(set(versions)) > 1:
        return None, f"host memory (versions of NCCL differ: {', '.join(map(str, versions))})"
    assert nccl is not None
    with _explained(nccl):
        identity = ranks.from_first(nccl.get_unique_id() if ranks.is_first else None)
        communicator = nccl.NcclCommunicator(ranks.size, identity, ranks.number)
        _try(communicator)
    return communicator, f"NCCL {versions[0]}"


def _try(communicator: Any) -> None:
    """Exchange a number with each rank: NCCL takes its memory now, before CuPy has what a step needs."""
    cupy = array_library()
    _exchange(communicator, cupy.zeros(communicator.size(), np.float32), sum)
    cupy.cuda.get_current_stream().synchronize()


def _nccl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns that it is missing
        try:
            from cupy.cuda import nccl
        except ImportError:
            return None
    return nccl if nccl.available else None


@contextmanager
def _explained(nccl: Any) -> Iterator[None]:
    try:
        yield
    except (nccl.NcclError, KeyError) as error:  # CuPy does not know the names of all of NCCL's errors
        raise RunError(
            "NCCL cannot exchange data between the GPUs",
            {"reason": f"{type(error).__name__}: {error}", "NCCL": nccl.get_version()},
            "NCCL_DEBUG=INFO makes it say why; where NCCL is not installed, data go through host memory",
        ) from None


class NcclSum(Sum):
    """A sum over the GPUs of an MPI job, all of whose values are final.

    Parameters
    ----------
    array, add
        As in `Ranks.begin_sum`, on the GPU.
    communicator : cupy.cuda.nccl.NcclCommunicator
    """

    def __init__(self, array: Any, add: Add, communicator: Any):
        super().__init__(array)
        self._add, self._communicator = add, communicator

    def finish(self) -> Any:
        """Return the sum."""
        from cupy.cuda import nccl

        with _explained(nccl):
            for start in range(0, len(self._array), PART):
                _exchange(self._communicator, self._array[start : start + PART], self._add)
        return self._array


class SumThroughHost(Sum):
    """A sum over GPUs, all of whose values are final, that travels through host memory.

    Parameters
    ----------
    array : array, shape (n,), contiguous
        This rank's, on the GPU.
    host : Sum
        That of the copy in host memory.
    """

    def __init__(self, array: Any, host: Sum):
        super().__init__(array)
        self._host = host

    def finish(self) -> Any:
        """Return the sum, on the GPU."""
        return to_backend(self._host.finish())


def _exchange(communicator: Any, part: Any, add: Add) -> None:
    """Send each process the slice that it sums, then each sum to all."""
    size, own = communicator.size(), communicator.rank_id()
    ends = [len(part) * (number + 1) // size for number in range(size)]
    slices = [part[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    received = array_library().empty((size, len(slices[own])), part.dtype)
    received[own] = slices[own]
    _send(communicator, slices, received)
    slices[own][...] = add(list(received))
    _send(communicator, [slices[own]] * size, slices)


def _send(communicator: Any, outgoing: Sequence[Any], incoming: Sequence[Any]) -> None:
    """Send every other process one array and receive one from it, all at once, in the order of the stream."""
    import cupy
    from cupy.cuda import nccl

    stream = cupy.cuda.get_current_stream().ptr
    nccl.groupStart()
    for peer, (to, source) in enumerate(zip(outgoing, incoming, strict=True)):
        if peer != communicator.rank_id():
            communicator.send(to.data.ptr, to.nbytes, nccl.NCCL_UINT8, peer, stream)
            communicator.recv(source.data.ptr, source.nbytes, nccl.NCCL_UINT8, peer, stream)
    nccl.groupEnd()
