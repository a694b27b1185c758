"""Shares out the prediction of one image to workers of dask.distributed, on this machine and on others.

A task is a region or a block, whose files nothing else writes: names and a few hundred bytes are sent, and a
number comes back. `workers` has what a worker does. Tasks of a worker that is lost are done again.

The client keeps the record of what is done, unites labels across borders and writes what comes at the end.
So the bytes are those of one process, if all compute alike: `workers.computer` says what that depends on.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from tinyunet.command_line import explain
from tinyunet.errors import OptionError, RunError, TinyUNetError
from tinyunet.prediction.slides import Share, SlideWriter
from tinyunet.prediction.workers import Job, computer, differing_of, look, most_threads, work

RESOURCE = "tinyunet task"  # each worker has one
CONNECT = 20  # seconds
POLL, LOOK = 0.02, 5.0  # seconds between looks for results, and for workers
GO_ON = "what is done is kept: go on with --resume"


def require_distributed() -> Any:
    """Import dask.distributed, of the extra that needs it.

    Raises
    ------
    OptionError
        It is not installed.
    """
    try:
        import cryptography  # noqa: F401  by which workers on this machine take tasks from this process only
        import distributed
    except ImportError as error:
        raise OptionError(
            "workers are started and found by dask.distributed, which is not installed",
            {"missing": error.name},
            "pip install -e '.[distributed]'",
        ) from error
    return distributed


@contextmanager
def connected(workers: int | None, scheduler: str | None) -> Iterator[Cluster]:
    """Start workers on this machine, or connect to a scheduler that runs already.

    Raises
    ------
    OptionError
        dask.distributed is not installed, or the address is none.
    RunError
        No scheduler answers there.
    """
    distributed = require_distributed()
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            assert workers is not None
            with _interrupts_held_back():
                scheduler = stack.enter_context(_local_cluster(workers))
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # errors are raised here, too
        try:
            client = stack.enter_context(distributed.Client(scheduler, timeout=CONNECT, set_as_default=False))
        except ValueError as error:
            raise OptionError(
                f"scheduler {scheduler!r}: {error}", remedy="give an address such as tcp://host:8786"
            ) from error
        except (OSError, TimeoutError) as error:
            raise RunError(
                f"scheduler {scheduler}: does not answer",
                {"reason": error},
                "start it with: dask scheduler; and workers with: dask worker ADDRESS --nthreads 8",
            ) from error
        yield Cluster(client)


def _local_cluster(workers: int) -> Any:
    """Make a cluster on this machine, to which only this process can connect: it would run any code."""
    import distributed

    threads = max(1, most_threads() // workers)
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        host="127.0.0.1",
        protocol="tls",
        security=distributed.Security.temporary(),
        memory_limit=0,  # tiles are chosen to fit; dask would stop a worker that takes a little more
        dashboard_address="127.0.0.1:0",  # any port: others may be in use
        silence_logs=logging.CRITICAL,
        env={"NUMBA_NUM_THREADS": str(threads)},
    )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hide Ctrl-C, which a terminal sends to all processes, from those started here: this one stops them.

    Threads and processes inherit what is held back, so that it holds for workers that are started later, too.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # it would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Cluster:
    """The workers of a scheduler.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Any):
        self._client = client
        self._looked, self._waits = 0.0, False

    def check(self, job: Job) -> Job:
        """Complete a job by what the workers say of themselves: the memory of each, and what they are like.

        Raises
        ------
        RunError
            A worker lacks a file or a package, or they would not all compute the same bits.
        """
        if not self._client.nthreads():
            self._say_that_it_waits()
            self._client.wait_for_workers(1)
        answers = self._client.run(look, job, on_error="return")
        for address, answer in answers.items():
            if isinstance(answer, BaseException):
                raise _cannot_take_part(address, answer)
        alike = {f"worker {address}": answer.computer for address, answer in answers.items()}
        here = computer(job.backend)
        machine = {name: here[name] for name in ("processor", "instructions", "GPU") if name in here}
        for address, described in alike.items():
            # The client does not compute regions: its processor may be another, its versions may not.
            if differing := differing_of({"here": here, address: described | machine}):
                raise RunError("a worker has other versions", differing, "install the same ones everywhere")
        if differing := differing_of(alike):
            raise RunError(
                "the workers would not compute the same bits",
                differing,
                "use machines of one kind, or a scheduler for each kind",
            )
        per_machine = Counter(answer.machine for answer in answers.values())
        memory = min(answer.memory // per_machine[answer.machine] for answer in answers.values())
        return replace(job, memory=job.memory or memory, computer=next(iter(alike.values())))

    def share(self, job: Job) -> Share:
        """Return what has tasks done by the workers: see `tinyunet.prediction.slides.Share`."""
        return partial(self._share, job)

    def _share(
        self, job: Job, step: Callable[[SlideWriter, Any], Any], tasks: Iterable[Any]
    ) -> Iterator[Any]:
        from distributed import as_completed

        futures: list[Any] = []
        try:
            plugin = _one_task_each()
            self._client.register_plugin(plugin, name=plugin.name)
            futures = self._client.map(
                partial(work, job, step),
                list(tasks),
                pure=False,
                resources={RESOURCE: 1},
                key=f"tinyunet-{uuid.uuid4()}",
            )
            completed = as_completed(futures, loop=self._client.loop)
            while completed.count():
                batch = completed.next_batch(block=False)
                for future in batch:
                    yield _result(future)
                if not batch:
                    self._look_for_workers()
                    time.sleep(POLL)
        except OSError as error:  # of a connection
            raise RunError("the scheduler was lost", {"reason": error}, GO_ON) from error
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                self._client.cancel(futures)

    def _look_for_workers(self) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        if self._client.status == "running" and not self._client.nthreads():
            self._say_that_it_waits()

    def _say_that_it_waits(self) -> None:
        if not self._waits:
            self._waits = True
            print("the scheduler has no worker: waiting for one", file=sys.stderr, flush=True)


def _one_task_each() -> Any:
    """Make a plugin by which every worker, also one that comes later, takes one of our tasks at a time."""
    from distributed import WorkerPlugin

    resource = RESOURCE

    class OneTask(WorkerPlugin):
        name = "tinyunet-one-task"
        idempotent = True

        async def setup(self, worker: Any) -> None:
            await worker.set_resources(**{resource: 1})

    return OneTask()


def _result(future: Any) -> Any:
    """Return the result of a task, or raise its error in words."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return future.result()
    except TinyUNetError as error:
        raise type(error)(f"{error}\n  {GO_ON}") from error
    except KilledWorker as error:
        raise RunError(
            f"{error.allowed_failures + 1} workers died over the same task",
            {"the last": error.last_worker.address},
            f"give less --memory, if the system stopped them for want of it; {GO_ON}",
        ) from error
    except CancelledError as error:
        raise RunError("the scheduler was lost", {"reason": error}, GO_ON) from error


def _cannot_take_part(address: str, error: BaseException) -> RunError:
    if isinstance(error, TinyUNetError | OSError | MemoryError):
        reason = explain(error)
    else:
        reason = f"{type(error).__name__}: {error}"
    return RunError(
        f"worker {address}: cannot take part",
        {"reason": reason},
        "every worker needs tinyunet, its extra [distributed], and these files at the same paths",
    )
