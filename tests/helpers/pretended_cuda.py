"""The real CuPy where there is no GPU: a pytest plugin, for the tests that need one.

    PYTHONPATH=tests/helpers python -m pytest -p pretended_cuda -m gpu tests

CuPy's modules reach CUDA through functions that they import from one another. Some of these functions are
replaced here before they are imported: GPU memory is host memory, a stream is a list of pending calls, and
the kernels of this repository run on the emulator. All else is CuPy's: arrays, memory pools, capture, the
arguments of kernels, and NVRTC, which compiles for an H100.

Nothing runs before something waits for it, which reveals memory freed or overwritten too early. There are
three GPUs; which of them have been given memory is noted. The replacements cannot raise through CuPy's C
code, so an unsupported call ends the process.
"""

import ctypes
import os
import re
import threading
import traceback
from functools import cache
from itertools import count

import cupy_backends.cuda.api.driver as driver
import cupy_backends.cuda.api.runtime as runtime
import numpy as np

from tinyunet.backend import cuda_emulator
from tinyunet.backend.cuda import kernels_in
from tinyunet.backend.cuda_emulator import KERNEL_FOLDER

ALIGNMENT = 512
CAPABILITY = {75: 9, 76: 0}  # by CUDA's number of the attribute: compute capability 9.0
TO_GPU, TO_HOST, ON_GPU = 1, 2, 3  # kinds of memcpy
RELAXED = 2  # mode of a capture
TOTAL = 80 * 10**9
FAILED = 70  # exit status

handles = count(16, 16)  # for streams, events, graphs, modules and kernels
memory = {}  # GPU memory, by address
pinned = {}  # pinned host memory, by address
pending = []  # calls on all streams, with their arguments
capturing = {}  # captured calls, by stream
graphs, modules, kernels = {}, {}, {}
compiled = [""]  # the text being compiled
GPUS = 3
current = threading.local()  # each thread's GPU
used = set()  # the GPUs with memory


def enqueue(stream, function, *arguments):
    """Run a call later, or at each launch of the graph being captured."""
    capturing.get(stream, pending).append((function, arguments))


def wait(*_):
    """Finish the calls of all streams."""
    calls, pending[:] = list(pending), []
    run(calls)


def run(calls):
    """Run calls in order."""
    for function, arguments in calls:
        function(*arguments)


def on_gpu(address, size=0):
    """Return the bytes from an address to the end of its memory."""
    start = max(start for start in memory if start <= address)
    block = memory[start][address - start :]
    assert size <= len(block) > 0, "an address outside of all memory"
    return block


def new_memory(size):
    """Allocate bytes of 255 at an aligned address."""
    room = np.full(size + ALIGNMENT, 255, np.uint8)
    begin = -room.ctypes.data % ALIGNMENT
    return room[begin : begin + size]


def device():
    return getattr(current, "number", 0)


def set_device(number):
    assert 0 <= number < GPUS
    current.number = number


def malloc(size):
    used.add(device())
    block = new_memory(size)
    memory[block.ctypes.data] = block
    return block.ctypes.data


def free(address):
    wait()
    memory.pop(address)[:] = 254


def host_alloc(size, flags):
    block = new_memory(size)
    pinned[block.ctypes.data] = block
    return block.ctypes.data


def memory_type(address):
    return int(any(start <= address < start + len(block) for start, block in pinned.items()))


def memcpy_async(to, source, size, kind, stream):
    def copy():
        for address in [to] * (kind in (TO_GPU, ON_GPU)) + [source] * (kind in (TO_HOST, ON_GPU)):
            on_gpu(address, size)
        ctypes.memmove(to, source, size)

    enqueue(stream, copy)


def memset_async(address, value, size, stream):
    enqueue(stream, lambda: on_gpu(address, size)[:size].fill(value))


def begin_capture(stream, options):
    number, mode = ctypes.cast(options, ctypes.POINTER(ctypes.c_int))[:2]
    assert (number, mode) == (1, RELAXED)
    capturing[stream] = []


def end_capture(stream):
    return new_handle(graphs, capturing.pop(stream))


def synchronize(stream):
    assert stream not in capturing
    wait()


def new_handle(table, value):
    """Store a value under a new handle."""
    handle = next(handles)
    table[handle] = value
    return handle


def launch(kernel, *sizes_and_more):
    grid, block = sizes_and_more[:3], sizes_and_more[3:6]
    shared, stream, slots = sizes_and_more[6:9]
    assert max(grid[1:]) <= 65535
    assert np.prod(block) <= 1024
    assert shared == 0
    name, text = kernels[kernel]
    slots = ctypes.cast(slots, ctypes.POINTER(ctypes.c_void_p))
    own_source = source_of(name)
    if own_source is None:
        function = CUPY_KERNELS[re.match("cupy_[a-z]+", name)[0]]
        enqueue(stream, function, *arguments_of_cupy_kernel(name, text, slots))
    else:
        arguments = arguments_of_own_kernel(kernels_in(own_source)[name], slots)
        enqueue(stream, run_own_kernel, own_source, name, grid, block, arguments)


FUNCTIONS = {
    runtime: {
        "getDeviceCount": lambda: GPUS,
        "getDevice": device,
        "setDevice": set_device,
        "getDeviceProperties": lambda device: {"name": b"pretended"},
        "deviceGetPCIBusId": lambda device: f"0000:{device:02x}:00.0",
        "_ensure_context": lambda: None,
        "deviceGetAttribute": lambda attribute, device: CAPABILITY.get(attribute, 0),
        "memGetInfo": lambda: (TOTAL - sum(map(len, memory.values())), TOTAL),
        "malloc": malloc,
        "free": free,
        "hostAlloc": host_alloc,
        "freeHost": lambda address: pinned.pop(address),
        "pointerGetMemoryType": memory_type,
        "memcpyAsync": memcpy_async,
        "memsetAsync": memset_async,
        "streamCreateWithPriority": lambda flags, priority: next(handles),
        "streamDestroy": lambda stream: None,
        "streamSynchronize": synchronize,
        "streamIsCapturing": lambda stream: stream in capturing,
        "streamBeginCapture": begin_capture,
        "streamEndCapture": end_capture,
        "graphInstantiate": lambda graph: new_handle(graphs, graphs[graph]),
        "graphLaunch": lambda graph, stream: enqueue(stream, run, graphs[graph]),
        "graphDestroy": lambda graph: graphs.pop(graph),
        "graphExecDestroy": lambda graph: graphs.pop(graph),
        "eventCreateWithFlags": lambda flags: next(handles),
        "eventDestroy": lambda event: None,
        "eventRecord": lambda event, stream: None,
        "eventSynchronize": wait,
        "eventQuery": lambda event: 600 if pending else 0,  # cudaErrorNotReady
    },
    driver: {
        "moduleLoadData": lambda cubin: new_handle(modules, compiled[0]),
        "moduleUnload": lambda module: None,
        "moduleGetFunction": lambda module, name: new_handle(kernels, (name, modules[module])),
        "launchKernel": launch,
    },
}


# Kernels


@cache
def source_of(kernel):
    """Find the file of this repository with a kernel, or None."""
    found = [source for source in KERNEL_FOLDER.glob("*.cu") if kernel in kernels_in(source)]
    return found[0] if found else None


def value_at(slot, dtype):
    return np.frombuffer(ctypes.string_at(slot, np.dtype(dtype).itemsize), dtype)[0]


def arguments_of_own_kernel(parameters, slots):
    """Return an array as its address and type, a scalar as its value."""
    return [
        (int(value_at(slots[i], np.uint64)), p.dtype) if p.is_array else value_at(slots[i], p.dtype)
        for i, p in enumerate(parameters)
    ]


def run_own_kernel(source, name, grid, block, given):
    """Run a kernel on the emulator. An array extends to the end of its memory."""
    arguments = []
    for argument in given:
        if isinstance(argument, tuple):
            address, dtype = argument
            behind = on_gpu(address) if address else np.zeros(0, np.uint8)
            argument = behind[: len(behind) // dtype.itemsize * dtype.itemsize].view(dtype)
        arguments.append(argument)
    names = tuple(p.name for p in kernels_in(source)[name])
    cuda_emulator.function(source, name, names, tuple(kernels_in(source)))(grid, block, tuple(arguments))


C_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
}


def arguments_of_cupy_kernel(name, text, slots):
    """Yield the arguments: a scalar as its value, an array as a view of its memory."""
    names = {new: old for old, new in re.findall(r"typedef ([\w ]+) (\w+);", text)}
    signature = re.search(rf"__global__ void {name}\((.*?)\) {{", text, re.DOTALL)[1]
    for i, parameter in enumerate(re.split(r",(?![^<]*>)", signature.replace("const ", ""))):
        array = re.match(r"\s*CArray<([\w ]+), (\d+)", parameter)
        if array:  # a structure: address, size, shape, strides
            dtype, axes = np.dtype(C_TYPES[names.get(array[1], array[1])]), int(array[2])
            address, _, *sizes = (int(value_at(slots[i] + 8 * k, np.int64)) for k in range(2 + 2 * axes))
            yield array_at(address, dtype, sizes[:axes], sizes[axes:])
        elif "CIndexer" not in parameter:
            dtype = parameter.rsplit(maxsplit=1)[0].strip()
            yield value_at(slots[i], C_TYPES[names.get(dtype, dtype)])


def array_at(address, dtype, shape, strides):
    return np.ndarray(shape, dtype, on_gpu(address), strides=strides)


def concatenate(addresses, axis, begins, strides, joined):
    """Concatenate along the first axis."""
    assert axis == 0
    ends = [*begins[1:], len(joined)]
    for address, begin, end, steps in zip(addresses, begins, ends, strides, strict=True):
        part = joined[begin:end]
        part[...] = array_at(int(address), part.dtype, part.shape, tuple(map(int, steps)))


CUPY_KERNELS = {
    "cupy_fill": lambda x, y: np.copyto(y, x, casting="unsafe"),
    "cupy_copy": lambda x, y: np.copyto(y, x, casting="unsafe"),
    "cupy_add": lambda a, b, total: np.add(a, b, out=total),
    "cupy_multiply": lambda a, b, product: np.multiply(a, b, out=product),
    "cupy_concatenate": concatenate,
}


# Replacing CUDA's functions

CTYPES = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "intptr_t": ctypes.c_ssize_t,
    "PyObject *": ctypes.py_object,
}
api = ctypes.pythonapi
api.PyCapsule_GetName.restype = ctypes.c_char_p
api.PyCapsule_GetName.argtypes = [ctypes.py_object]
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
kept = []


def replace(module, name, function):
    """Replace a function that a module of CuPy exports by a Python function."""
    signature = api.PyCapsule_GetName(module.__pyx_capi__[name])
    result, parameters = re.fullmatch(r"(.+?) ?\((.*)\)", signature.decode()).groups()
    types = [p.strip() for p in parameters.split(",") if p != "void"]
    given = [i for i, p in enumerate(types) if "__pyx_skip_dispatch" not in p]

    def call(*arguments):
        try:
            value = function(*(arguments[i] for i in given))
        except BaseException:
            traceback.print_exc()
            os._exit(FAILED)
        return True if value is None else value  # ctypes does not count references to None

    def type_of(parameter):
        return CTYPES.get(parameter, ctypes.c_void_p if "*" in parameter else ctypes.c_int)

    form = ctypes.PYFUNCTYPE(CTYPES[result], *map(type_of, types))
    kept.extend([callback := form(call), signature])
    address = ctypes.cast(callback, ctypes.c_void_p).value
    module.__pyx_capi__[name] = api.PyCapsule_New(address, signature, None)
    setattr(module, name, function)


for module, functions in FUNCTIONS.items():
    for name, function in functions.items():
        replace(module, name, function)

from cupy.cuda import compiler  # noqa: E402  after CUDA is replaced

compile_text = compiler._compile_module_with_cache


def compile_and_remember(source, *arguments, **options):
    compiled[0] = source
    return compile_text(source, *arguments, **options)


compiler._compile_module_with_cache = compile_and_remember
