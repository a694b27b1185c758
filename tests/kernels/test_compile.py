"""The kernels as NVRTC compiles them, which CuPy calls on a GPU and which needs none.

Nothing is spilled, a rung has the instructions that it claims, and its main loop mostly multiplies.
"""

import ctypes
import re
import subprocess
from functools import cache
from importlib import metadata
from tempfile import NamedTemporaryFile

import pytest

from tinyunet.backend.cuda import KERNEL_FOLDER, NVRTC_OPTIONS, kernels_in, source_of
from tinyunet.backend.cuda_emulator import text_of

SOURCES = sorted(KERNEL_FOLDER.glob("*.cu"))
REGISTERS = 168  # a thread: three blocks of 128 threads then fit into the 65,536 of a multiprocessor
SHARED_MEMORY = 48 * 1024  # a block, without asking for more
architectures = pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])


@cache
def nvrtc():
    """The library, as pip installs it."""
    try:
        files = metadata.files("nvidia-cuda-nvrtc")
    except metadata.PackageNotFoundError:
        pytest.skip("no kernel was compiled for a GPU, NVRTC is missing: pip install nvidia-cuda-nvrtc")
    # Two files, of which the second looks for the first among those that are loaded.
    names = re.compile(r"libnvrtc-builtins\.so\.[\d.]+|libnvrtc\.so\.\d+")
    _, library = (ctypes.CDLL(file.locate()) for file in sorted(files) if names.fullmatch(file.name))
    return library


@cache
def compiled(source, architecture):
    """A file with CuPy's options: whether it compiles, PTX, machine code, and what the compiler says."""
    words = [*NVRTC_OPTIONS, "-ftz=true", f"-arch={architecture}", "--ptxas-options=-v"]
    options = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
    program = ctypes.c_void_p()
    nvrtc().nvrtcCreateProgram(
        ctypes.byref(program), text_of(source).encode(), b"temporary.cu", 0, None, None
    )
    failed = nvrtc().nvrtcCompileProgram(program, len(words), options)
    ptx, code, words = (_told(what, program) for what in ("PTX", "CUBIN", "ProgramLog"))
    return not failed, ptx.decode().rstrip("\0"), code, words.decode().rstrip("\0")


def _told(what, program):
    size = ctypes.c_size_t()
    getattr(nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    told = ctypes.create_string_buffer(size.value)
    getattr(nvrtc(), f"nvrtcGet{what}")(program, told)
    return told.raw


def instructions(rung, architecture):
    """PTX of both directions of a rung of conv2d."""
    _, ptx, *_ = compiled(source_of("conv2d", f"conv2d_forward_{rung}"), architecture)
    code = dict(re.findall(r"\.entry (\w+)\((.*?)\n\}", ptx, re.DOTALL))
    return [code[f"conv2d_{direction}_{rung}"] for direction in ("forward", "backward_weight")]


@architectures
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_spills_and_within_the_budget(source, architecture):
    succeeded, _, _, words = compiled(source, architecture)
    assert succeeded, words
    registers = re.findall(r"Used (\d+) registers", words)
    assert len(registers) == len(kernels_in(source))
    assert max(map(int, registers)) <= REGISTERS
    assert all(int(size) <= SHARED_MEMORY for size in re.findall(r"(\d+) bytes smem", words))
    assert set(re.findall(r"(\d+) bytes spill", words)) == {"0"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_older_gpus(source):
    """One of 2018 has all rungs but those on tensor cores; one of 2013 is unknown to the compiler."""
    succeeded, *_, words = compiled(source, "sm_75")
    assert succeeded == (source.stem != "conv2d_tensor"), words
    assert succeeded or "requires .target sm_80" in words
    succeeded, *_, words = compiled(source, "sm_35")
    assert not succeeded
    assert "--gpu-architecture" in words


@architectures
@pytest.mark.parametrize(
    ("rung", "instruction"),
    [
        ("tensor", "mma.sync.aligned.m16n8k8.row.col.f32.tf32"),
        ("tensor_bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16"),
    ],
)
def test_tensor_rungs_are_on_tensor_cores(rung, instruction, architecture):
    claims = (instruction, "cp.async.cg", "cp.async.wait_group")
    for code in instructions(rung, architecture):
        assert all(claimed in code for claimed in claims)
    for code in instructions("blocked", architecture):
        assert not any(claimed in code for claimed in claims)


@architectures
@pytest.mark.parametrize(("rung", "arrays"), [("blocked", 2), ("tensor", 8)])
def test_shared_memory_of_128_bit_accesses_is_aligned(rung, arrays, architecture):
    """To 16 bytes, which an array of float is not by itself. Two arrays for each direction and precision."""
    _, ptx, *_ = compiled(source_of("conv2d", f"conv2d_forward_{rung}"), architecture)
    assert re.findall(r"\.shared \.align (\d+) \.b8", ptx) == ["16"] * arrays


@architectures
def test_the_blocked_rung_moves_four_numbers_at_once(architecture):
    """Forward also single ones: the bias, and windows that are turned on their way into shared memory."""
    moves = [
        set(re.findall(r"(?:ld|st)\.(?:global|shared)\.[\w.]+", code))
        for code in instructions("blocked", architecture)
    ]
    fours = {"ld.global.v4.f32", "ld.shared.v4.f32", "st.shared.v4.f32", "st.global.v4.f32"}
    assert moves == [fours | {"ld.global.f32", "st.shared.f32"}, fours]
    assert not any("ld.global.v4" in code for code in instructions("tiled", architecture))


@cache
def disassembled(source, architecture):
    """The machine code of the kernels of a file, by name."""
    try:
        (program,) = (f for f in metadata.files("nvidia-cuda-nvdisasm") if f.stem == "nvdisasm")
    except metadata.PackageNotFoundError:
        pytest.skip("no machine code was looked at, nvdisasm is missing: pip install nvidia-cuda-nvdisasm")
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled(source, architecture)[2])
        file.flush()
        command = [program.locate(), "--print-code", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, *parts = text.split("\n.text.")
    return {part.partition(":")[0]: part for part in parts}


def loops(code):
    """The names of the instructions from each label to each jump that goes back there."""
    names, labels = [], {}
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(names)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(\w+)(.*)", line):
            names.append(found[1])
            target = re.search(r"`\((\.L_x_\d+)\)", found[2])
            if found[1] == "BRA" and target and target[1] in labels:
                yield names[labels[target[1]] :]


@architectures
@pytest.mark.parametrize(
    ("kernel", "multiplication", "others"),
    [
        ("conv2d_forward_blocked", "FFMA", 0.27),
        ("conv2d_backward_weight_blocked", "FFMA", 0.27),
        ("conv2d_winograd_multiply", "FFMA", 0.27),
        ("conv2d_winograd_multiply_transposed", "FFMA", 0.27),
        ("conv2d_forward_tensor", "HMMA", 9.5),  # each a thousand multiplications, with bf16 two thousand
        ("conv2d_backward_weight_tensor", "HMMA", 9.5),
        ("conv2d_forward_tensor_bf16", "HMMA", 14),
        ("conv2d_backward_weight_tensor_bf16", "HMMA", 15),
    ],
)
def test_the_main_loop_mostly_multiplies(kernel, multiplication, others, architecture):
    """A multiprocessor issues a limited number of instructions a cycle: at most so many others for each.

    With divisions where additions do (see kernels/conv2d_patches.cuh) there were a third to two thirds more.
    """
    code = disassembled(source_of("conv2d", kernel), architecture)[kernel]
    count, length = max((loop.count(multiplication), len(loop)) for loop in loops(code))
    assert count >= 16
    assert (length - count) / count <= others


def test_words_of_the_compiler(tmp_path):
    """File and line, behind a header that NVRTC was given in one piece with the file."""
    source = tmp_path / "relu.cu"
    source.write_text('#include "one.cuh"\n\n__device__ float zero() { return one - undeclared; }\n')
    source.with_suffix(".cuh").with_stem("one").write_text("constexpr float one = 1;\n")
    succeeded, _, _, words = compiled(source, "sm_90")
    assert not succeeded
    assert words.startswith("relu.cu(3): error: ")
