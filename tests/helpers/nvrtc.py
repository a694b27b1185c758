"""NVRTC, the compiler that CuPy uses on a GPU and which needs none."""

import ctypes
import re
from functools import cache
from importlib import metadata

import pytest

from benchmarks import machine_code
from tinyunet.backend.cuda import NVRTC_OPTIONS
from tinyunet.backend.cuda_emulator import text_of


@cache
def nvrtc():
    """Load the library that pip installs."""
    try:
        files = metadata.files("nvidia-cuda-nvrtc")
    except metadata.PackageNotFoundError:
        pytest.skip("no kernel was compiled for a GPU, NVRTC is missing: pip install nvidia-cuda-nvrtc")
    # Two files, of which the second needs the first to be loaded.
    names = re.compile(r"libnvrtc-builtins\.so\.[\d.]+|libnvrtc\.so\.\d+")
    _, library = (ctypes.CDLL(str(f.locate())) for f in sorted(files or ()) if names.fullmatch(f.name))
    return library


def compiled(source, architecture):
    """Compile a file with CuPy's options; return success, PTX, machine code and the compiler's log."""
    return compiled_text(text_of(source), architecture)


@cache
def compiled_text(text, architecture):
    """Do so for the text of a file.

    With -lineinfo, which leaves the code as it is, the PTX names the lines of the source.
    """
    flags = [*NVRTC_OPTIONS, "-ftz=true", f"-arch={architecture}", "-lineinfo", "--ptxas-options=-v"]
    options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    program = ctypes.c_void_p()
    nvrtc().nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"temporary.cu", 0, None, None)
    failed = nvrtc().nvrtcCompileProgram(program, len(flags), options)
    ptx, code, log = (_result(name, program) for name in ("PTX", "CUBIN", "ProgramLog"))
    return not failed, ptx.decode().rstrip("\0"), code, log.decode().rstrip("\0")


@cache
def disassembled(text, architecture):
    """Return the machine code of the kernels in the text of a file, by name."""
    try:
        return machine_code.kernels(compiled_text(text, architecture)[2])
    except metadata.PackageNotFoundError:
        pytest.skip("no machine code was looked at, nvdisasm is missing: pip install nvidia-cuda-nvdisasm")


def _result(name, program):
    size = ctypes.c_size_t()
    getattr(nvrtc(), f"nvrtcGet{name}Size")(program, ctypes.byref(size))
    result = ctypes.create_string_buffer(size.value)
    getattr(nvrtc(), f"nvrtcGet{name}")(program, result)
    return result.raw
