"""The kernels as nvcc compiles them, where it is: nothing spilled, the instructions that a rung claims."""

import re
import shutil
import subprocess

import pytest

from tinyunet.cuda import KERNEL_FOLDER, kernels_in

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


def ptx_of_conv2d(folder):
    """The instructions of each kernel, by name."""
    nvcc(KERNEL_FOLDER / "conv2d.cu", "sm_80", folder / "kernels.ptx", "-ptx")
    return dict(re.findall(r"\.entry (\w+)\((.*?)\n\}", (folder / "kernels.ptx").read_text(), re.DOTALL))


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
    code = ptx_of_conv2d(tmp_path)
    for direction in ("forward", "backward_weight"):
        for claimed in (instruction, "cp.async.cg", "cp.async.wait_group"):
            assert claimed in code[f"conv2d_{direction}_{rung}"]
            assert claimed not in code[f"conv2d_{direction}_blocked"]


def test_shared_memory_of_128_bit_accesses_is_aligned(tmp_path):
    """To 16 bytes, which an array of float is not by itself."""
    nvcc(KERNEL_FOLDER / "conv2d.cu", "sm_80", tmp_path / "kernels.ptx", "-ptx")
    shared = re.findall(
        r"\.shared \.align (\d+) \.b8 \w*(blocked|tensor_cores)\w*", (tmp_path / "kernels.ptx").read_text()
    )
    # Left and right of two directions, for each kind of factors.
    assert sorted(shared) == [("16", "blocked")] * 2 + [("16", "tensor_cores")] * 8


def test_the_blocked_rung_moves_four_numbers_at_once(tmp_path):
    code = ptx_of_conv2d(tmp_path)
    for direction in ("forward", "backward_weight"):
        for instruction in ("ld.global.v4.f32", "ld.shared.v4.f32", "st.shared.v4.f32", "st.global.v4.f32"):
            assert instruction in code[f"conv2d_{direction}_blocked"]
        assert "ld.global.v4" not in code[f"conv2d_{direction}_tiled"]
