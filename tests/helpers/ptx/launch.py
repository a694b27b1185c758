"""Takes the emulator's place behind the engine's launch code: its grids, blocks and arguments are used."""

from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import numpy as np
from nvrtc import compiled_text

from ptx.fault import Fault
from ptx.machine import Machine
from ptx.memory import Arrays
from ptx.parse import parse
from tinyunet.backend import cuda_emulator
from tinyunet.backend.cuda import COMPILED_FOR
from tinyunet.backend.cuda_emulator import text_of

THREADS_AT_ONCE = 4096  # more make no instruction faster per thread


class Interpretation:
    """What was interpreted.

    Attributes
    ----------
    reached : dict of str to set of int
        For each kernel that was launched the numbers of its instructions that some thread executed.
    kernels : dict of str to Kernel
    """

    def __init__(self, architecture, change):
        self.architecture, self.change = architecture, change
        self.reached, self.kernels = {}, {}

    def function(self, source, name, parameters, kernels, reached=None):
        """Return a kernel that is called as `cuda_emulator.function`'s is."""
        architecture = COMPILED_FOR.get(source.stem, self.architecture)
        kernel = module(text_of(source), architecture, self.change)[name]
        self.kernels[name] = kernel
        reached_by_name = self.reached.setdefault(name, set())

        def run(grid, block, arguments, shared_mem=0):
            launch(kernel, parameters, grid, block, arguments, reached or {}, shared_mem, reached_by_name)

        return run


@cache
def module(source, architecture, change):
    """Compile the text of a .cu file, change the PTX and parse it: kernels by name."""
    succeeded, text, _, log = compiled_text(source, architecture)
    assert succeeded, log
    return parse(change(text))


def run_source(source, name, grid, block, *arguments, shared_mem=0, change=None, architecture="sm_90"):
    """Compile the text of a .cu file and run one of its kernels, or raise a Fault.

    Parameters
    ----------
    source, name : str
    grid, block : tuple of three int
    *arguments : ndarray or NumPy scalar
        The kernel writes into these arrays.
    shared_mem : int
        Bytes of shared memory beyond the declared.
    change : function of str, optional
        Gives the PTX to be run instead.
    architecture : str
    """
    kernel = module(source, architecture, change or unchanged)[name]
    names = [name for name, _ in kernel.parameters]
    launch(kernel, names, grid, block, arguments, {}, shared_mem, set())


def unchanged(text):
    """Leave the PTX as it is."""
    return text


@contextmanager
def interpreted(architecture="sm_90", change=unchanged):
    """Run the kernels of the backend "cuda-emulated" as PTX inside the ``with`` block.

    Parameters
    ----------
    architecture : str
    change : function of str
        Gives the text of a module to be run instead of the one that it gets.

    Yields
    ------
    Interpretation
    """
    interpretation = Interpretation(architecture, change)
    with patch.object(cuda_emulator, "function", interpretation.function):
        yield interpretation


def launch(kernel, names, grid, block, arguments, others, dynamic, reached):
    """Run a kernel on arrays of the host, or raise a Fault.

    Parameters
    ----------
    kernel : Kernel
    names : sequence of str
        The names of the kernel's parameters.
    grid, block : tuple of three int
    arguments : sequence of ndarray and NumPy scalar
    others : dict of str to ndarray
        Arrays whose addresses are in one of the arguments.
    dynamic : int
        Bytes of shared memory beyond the declared.
    reached : set of int
        Takes the numbers of the instructions that some thread executed.
    """
    threads = int(np.prod(block))
    if threads > kernel.most_threads:
        most = kernel.most_threads
        raise Fault(f"{kernel.name}: {threads} threads per block, the kernel is compiled for at most {most}")
    given = {name: a for name, a in zip(names, arguments, strict=True) if isinstance(a, np.ndarray)}
    tables = [name for name, a in given.items() if others and a.dtype == np.uint64]
    arrays = Arrays({**given, **others}, tables)
    parameters = {
        name: np.uint64(arrays.address(a)) if isinstance(a, np.ndarray) else a
        for (name, _), a in zip(kernel.parameters, arguments, strict=True)
    }
    count, at_once = int(np.prod(grid)), max(1, THREADS_AT_ONCE // threads)
    with np.errstate(all="ignore"):
        for first in range(0, count, at_once):
            blocks = range(first, min(count, first + at_once))
            Machine(kernel, arrays, parameters, grid, block, blocks, dynamic, reached).run()
    arrays.write_back()
