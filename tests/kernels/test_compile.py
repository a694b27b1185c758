"""The kernels compiled by NVRTC, which CuPy uses on a GPU and which needs none.

No registers are spilled, each rung has the instructions that it claims, and its main loop mostly multiplies.
"""

import re

import pytest
from nvrtc import compiled, disassembled

from benchmarks import machine_code
from tinyunet.backend.cuda import COMPILED_FOR, KERNEL_FOLDER, kernels_in, source_of
from tinyunet.backend.cuda_emulator import text_of

SOURCES = sorted(KERNEL_FOLDER.glob("*.cu"))
# Per thread, of the 65,536 of a multiprocessor: three blocks of 128 threads then fit, or two of 256.
REGISTERS = {"conv2d_tensor_copies": 128, "conv2d_wgmma": 128}
MOST_REGISTERS = 168
SHARED_MEMORY = 48 * 1024  # per block, without opting in to more
architectures = pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
ALL_ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120"]


def instructions(rung, architecture):
    """Return the PTX of both directions of a rung of conv2d."""
    _, ptx, *_ = compiled(source_of("conv2d", f"conv2d_forward_{rung}"), architecture)
    code = dict(re.findall(r"\.entry (\w+)\((.*?)\n\}", ptx, re.DOTALL))
    return [code[f"conv2d_{direction}_{rung}"] for direction in ("forward", "backward_weight")]


@pytest.mark.parametrize(
    ("source", "architecture"),
    [
        pytest.param(source, architecture, id=f"{source.stem}-{architecture}")
        for source in SOURCES
        for architecture in ALL_ARCHITECTURES
        if COMPILED_FOR.get(source.stem, architecture) == architecture
    ],
)
def test_no_spills_and_within_the_budget(source, architecture):
    succeeded, _, _, log = compiled(source, architecture)
    assert succeeded, log
    registers = re.findall(r"Used (\d+) registers", log)
    assert len(registers) == len(kernels_in(source))
    assert max(map(int, registers)) <= REGISTERS.get(source.stem, MOST_REGISTERS)
    assert all(int(size) <= SHARED_MEMORY for size in re.findall(r"(\d+) bytes smem", log))
    assert set(re.findall(r"(\d+) bytes spill", log)) == {"0"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_older_gpus(source):
    """A GPU of 2018 has all rungs except those on tensor cores; one of 2013 is unknown to the compiler."""
    succeeded, *_, log = compiled(source, "sm_75")
    assert succeeded == ("tensor" not in source.stem and source.stem not in COMPILED_FOR), log
    assert succeeded or "requires .target sm_80" in log
    succeeded, *_, log = compiled(source, "sm_35")
    assert not succeeded
    assert "--gpu-architecture" in log


@architectures
@pytest.mark.parametrize(
    ("rung", "instruction"),
    [
        ("tensor", "mma.sync.aligned.m16n8k8.row.col.f32.tf32"),
        ("tensor_bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16"),
        ("tensor_copies", "mma.sync.aligned.m16n8k16.row.col.f32.bf16"),
        ("tensor_copies", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"),
    ],
)
def test_tensor_rungs_are_on_tensor_cores(rung, instruction, architecture):
    claims = (instruction, "cp.async.cg", "cp.async.wait_group")
    for code in instructions(rung, architecture):
        assert all(claimed in code for claimed in claims)
    for code in instructions("blocked", architecture):
        assert not any(claimed in code for claimed in claims)


def test_the_rung_of_warpgroups():
    """Its instructions are for one kind of GPU. Products overlap: ptxas says where it serializes them."""
    source = source_of("conv2d", "conv2d_forward_wgmma")
    claims = (
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16",
        "fence.proxy.async.shared::cta",
        "cp.async.cg",
    )
    for code in instructions("wgmma", COMPILED_FOR[source.stem]):
        assert all(claimed in code for claimed in claims)
    *_, log = compiled(source, COMPILED_FOR[source.stem])
    assert "serialized" not in log
    for architecture in ("sm_90", "sm_100"):
        succeeded, *_, log = compiled(source, architecture)
        assert not succeeded
        assert f"'wgmma.fence' not supported on .target '{architecture}'" in log


@architectures
def test_winograds_products_are_on_tensor_cores(architecture):
    """Those of one of its rungs, each by three instructions and with copies past the registers."""
    claims = ("mma.sync.aligned.m16n8k8.row.col.f32.tf32", "cp.async.cg", "cp.async.wait_group")
    for stem, claimed in (("conv2d_winograd_tensor", True), ("conv2d_winograd", False)):
        _, ptx, *_ = compiled(KERNEL_FOLDER / f"{stem}.cu", architecture)
        products = re.findall(r"\.entry \w+_multiply\w*\(.*?\n\}", ptx, re.DOTALL)
        assert len(products) == 2
        assert all((claim in code) == claimed for code in products for claim in claims)


@architectures
@pytest.mark.parametrize(
    ("stem", "arrays"),
    [
        ("conv2d_blocked", 2),
        ("conv2d_few_channels", 4),
        ("conv2d_tensor", 8),
        ("conv2d_tensor_copies", 10),
        ("conv2d_winograd_tensor", 4),
    ],
)
def test_shared_memory_of_128_bit_accesses_is_aligned(stem, arrays, architecture):
    """To 16 bytes, unlike an array of float by default. Two arrays for each product."""
    _, ptx, *_ = compiled(KERNEL_FOLDER / f"{stem}.cu", architecture)
    of_products = r"\.shared \.align (\d+) \.b8 (?!\w*(?:copy_and_add|flip))"
    assert re.findall(of_products, ptx) == ["16"] * arrays


def test_shared_memory_of_products_is_aligned():
    """To the 1024 bytes after which the places of chunks repeat."""
    _, ptx, *_ = compiled(KERNEL_FOLDER / "conv2d_wgmma.cu", COMPILED_FOR["conv2d_wgmma"])
    assert re.findall(r"\.shared \.align (\d+) \.b8", ptx) == ["1024"] * 4


@architectures
def test_the_blocked_rung_moves_four_numbers_at_once(architecture):
    """Forward also moves single ones: the bias, and windows transposed on their way into shared memory."""
    moves = [
        set(re.findall(r"(?:ld|st)\.(?:global|shared)\.[\w.]+", code))
        for code in instructions("blocked", architecture)
    ]
    fours = {"ld.global.v4.f32", "ld.shared.v4.f32", "st.shared.v4.f32", "st.global.v4.f32"}
    assert moves == [fours | {"ld.global.f32", "st.shared.f32"}, fours]
    assert not any("ld.global.v4" in code for code in instructions("tiled", architecture))


@architectures
@pytest.mark.parametrize(
    ("kernel", "multiplication", "others"),
    [
        ("conv2d_forward_blocked", "FFMA", 0.27),
        ("conv2d_backward_weight_blocked", "FFMA", 0.27),
        # Half of the others find and read the numbers of windows. By the model DRAM takes longer still.
        ("conv2d_forward_few_channels", "FFMA", 0.85),
        ("conv2d_backward_weight_few_channels", "FFMA", 1.0),
        ("conv2d_winograd_multiply", "FFMA", 0.27),
        ("conv2d_winograd_multiply_transposed", "FFMA", 0.27),
        # Three instructions multiply for each product. Of the others two in five split, one in five adds.
        ("conv2d_winograd_tensor_multiply", "HMMA", 3.7),
        ("conv2d_winograd_tensor_multiply_transposed", "HMMA", 4.1),
        (
            "conv2d_forward_tensor",
            "HMMA",
            9.5,
        ),  # each makes a thousand multiplications, with bf16 two thousand
        ("conv2d_backward_weight_tensor", "HMMA", 9.5),
        ("conv2d_forward_tensor_bf16", "HMMA", 14),
        ("conv2d_backward_weight_tensor_bf16", "HMMA", 15),
        ("conv2d_forward_tensor_copies", "HMMA", 4.5),
        ("conv2d_backward_weight_tensor_copies", "HMMA", 5.5),
    ],
)
def test_the_main_loop_mostly_multiplies(kernel, multiplication, others, architecture):
    """A multiprocessor issues few instructions per cycle, so `others` per multiplication are limited.

    Divisions in place of additions (kernels/conv2d_patches.cuh) would make a third to two thirds more.
    """
    code = disassembled(text_of(source_of("conv2d", kernel)), architecture)[kernel]
    loop, _ = machine_code.sections(code)
    count = len(loop.named(multiplication))
    assert count >= 16
    assert (len(loop) - count) / count <= others


def test_compiler_errors_name_the_line(tmp_path):
    """After a header that NVRTC got in one piece with the file."""
    source = tmp_path / "relu.cu"
    source.write_text('#include "one.cuh"\n\n__device__ float zero() { return one - undeclared; }\n')
    source.with_suffix(".cuh").with_stem("one").write_text("constexpr float one = 1;\n")
    succeeded, _, _, log = compiled(source, "sm_90")
    assert not succeeded
    assert log.startswith("relu.cu(3): error: ")
