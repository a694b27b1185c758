"""The kernels as nvcc compiles them, where it is: nothing spilled, the instructions that a rung claims."""

import re
import shutil
import subprocess

import pytest

from tinyunet.cuda import KERNEL_FOLDER, kernels_in, source_of

SOURCES = sorted(KERNEL_FOLDER.glob("*.cu"))
REGISTERS = 168  # a thread: three blocks of 128 threads then fit into the 65,536 of a multiprocessor
SHARED_MEMORY = 48 * 1024  # a block, without asking for more


def nvcc(source, architecture, output, *options):
    """Compile one file: what nvcc says."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on PATH: the kernels were not compiled for a GPU")
    command = ["nvcc", f"-arch={architecture}", "-std=c++17", *options, str(source), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stderr


def ptx_of(rung, folder):
    """Of conv2d: the text that nvcc makes of the file that has this rung."""
    source = source_of("conv2d", f"conv2d_forward_{rung}")
    nvcc(source, "sm_80", folder / "kernels.ptx", "-ptx")
    return (folder / "kernels.ptx").read_text()


def instructions(rung, folder):
    """Those of both directions of a rung."""
    code = dict(re.findall(r"\.entry (\w+)\((.*?)\n\}", ptx_of(rung, folder), re.DOTALL))
    return [code[f"conv2d_{direction}_{rung}"] for direction in ("forward", "backward_weight")]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_spills_and_within_the_budget(source, architecture, tmp_path):
    verbose = ["-cubin", "-Xptxas", "-v,-warn-spills,-Werror"]
    words = nvcc(source, architecture, tmp_path / "kernels.cubin", *verbose)
    registers = re.findall(r"Used (\d+) registers", words)
    assert len(registers) == len(kernels_in(source))
    assert max(map(int, registers)) <= REGISTERS
    assert all(int(size) <= SHARED_MEMORY for size in re.findall(r"(\d+) bytes smem", words))
    assert set(re.findall(r"(\d+) bytes spill", words)) == {"0"}


@pytest.mark.parametrize(
    ("rung", "instruction"),
    [
        ("tensor", "mma.sync.aligned.m16n8k8.row.col.f32.tf32"),
        ("tensor_bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16"),
    ],
)
def test_tensor_rungs_are_on_tensor_cores(tmp_path, rung, instruction):
    claims = (instruction, "cp.async.cg", "cp.async.wait_group")
    for code in instructions(rung, tmp_path):
        assert all(claimed in code for claimed in claims)
    for code in instructions("blocked", tmp_path):
        assert not any(claimed in code for claimed in claims)


def test_shared_memory_of_128_bit_accesses_is_aligned(tmp_path):
    """To 16 bytes, which an array of float is not by itself."""
    for rung, arrays in (("blocked", 2), ("tensor", 8)):  # left and right of a direction and kind of factors
        alignments = re.findall(r"\.shared \.align (\d+) \.b8", ptx_of(rung, tmp_path))
        assert alignments == ["16"] * arrays


def test_the_blocked_rung_moves_four_numbers_at_once(tmp_path):
    for code in instructions("blocked", tmp_path):
        for instruction in ("ld.global.v4.f32", "ld.shared.v4.f32", "st.shared.v4.f32", "st.global.v4.f32"):
            assert instruction in code
    assert not any("ld.global.v4" in code for code in instructions("tiled", tmp_path))
