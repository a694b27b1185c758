"""NCCL where there is no GPU, between the processes of an MPI job: to be imported after `pretended_cuda`.

What is sent and received in a group becomes one call on the stream, which exchanges messages by MPI.
"""

import sys
from types import ModuleType

import cupy
import pretended_cuda
from mpi4py import MPI

NCCL_UINT8 = 1
grouped = []
open_groups = []
messages = []  # the number of bytes of each that was sent


class NcclError(RuntimeError):
    """Never raised here."""


class NcclCommunicator:
    def __init__(self, size, identity, rank):
        self._all = MPI.COMM_WORLD.Dup()
        assert identity == "of rank 0"
        assert (size, rank) == (self._all.size, self._all.rank)
        self.size, self.rank_id = lambda: size, lambda: rank

    def destroy(self):
        self._all.Free()

    def send(self, address, count, datatype, peer, stream):
        messages.append(count)
        self._group("Isend", address, count, datatype, peer, stream)

    def recv(self, address, count, datatype, peer, stream):
        self._group("Irecv", address, count, datatype, peer, stream)

    def _group(self, method, address, count, datatype, peer, stream):
        assert datatype == NCCL_UINT8
        assert peer != self.rank_id()
        assert open_groups, "outside of a group a call may wait for ever for the others"
        assert stream == cupy.cuda.get_current_stream().ptr
        grouped.append((getattr(self._all, method), address, count, peer, stream))


def group_start():
    assert not open_groups
    open_groups.append(True)


def group_end():
    open_groups.pop()
    calls, grouped[:] = list(grouped), []
    (stream,) = {stream for *_, stream in calls}
    pretended_cuda.enqueue(stream, exchange, calls)


def exchange(calls):
    MPI.Request.Waitall(
        [
            method(pretended_cuda.on_gpu(address, count)[:count], peer)
            for method, address, count, peer, _ in calls
        ]
    )


def install(*, available):
    """Let `from cupy.cuda import nccl` find this module, or one that is there but has no library."""
    module = ModuleType("cupy.cuda.nccl")
    module.__dict__.update(
        available=available,
        get_version=lambda: 23203,
        get_unique_id=lambda: "of rank 0",
        groupStart=group_start,
        groupEnd=group_end,
        NcclCommunicator=NcclCommunicator,
        NcclError=NcclError,
        NCCL_UINT8=NCCL_UINT8,
    )
    sys.modules["cupy.cuda.nccl"] = cupy.cuda.nccl = module
