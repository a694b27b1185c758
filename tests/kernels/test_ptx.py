"""What NVRTC makes of the kernels, executed by an interpreter of PTX (`helpers/ptx`) and compared with NumPy.

The engine's own launch code launches them. Inline PTX is included. The interpreter checks bounds, alignment,
races, barriers, what warps do together, and asynchronous copies; `test_ptx_faults.py` shows that it can.
"""

import numpy as np
import ptx
import pytest
from nvrtc import compiled
from oracle import assert_close
from ptx.cases import CASES
from ptx.parse import parse

from tinyunet.backend.cuda import COMPILED_FOR, KERNEL_FOLDER, kernels_in
from tinyunet.ops import conv2d_cuda

SOURCES = sorted(KERNEL_FOLDER.glob("*.cu"))
FILE_OF = {kernel: source for source in SOURCES for kernel in kernels_in(source)}
# NVRTC writes the same PTX for all GPUs up to compute capability 9.0, and for all from 10.0 on.
ARCHITECTURES = {"sm_90": (80, 86, 89, "90a"), "sm_100": (120,)}
PAIRS = [
    pytest.param(source, architecture, id=f"{source.stem}-{architecture}")
    for source in SOURCES
    for architecture in ([COMPILED_FOR[source.stem]] if source.stem in COMPILED_FOR else ARCHITECTURES)
]


@pytest.mark.parametrize(("source", "architecture"), PAIRS)
def test_compiled_kernels_agree_with_numpy(emulated, source, architecture):
    """And each line of the file that became code is reached: a shape is missing in `ptx.cases` where not."""
    reached = {}
    for case in (case for case in CASES if FILE_OF[case.kernels.split()[0]] == source):
        with ptx.interpreted(architecture) as interpretation:
            results = case.run()
        assert set(interpretation.reached) == set(case.kernels.split()), case.name
        for ours, expected in zip(results, case.expected(), strict=True):
            assert_close(ours, np.asarray(expected, ours.dtype), case.name, case.tolerance)
        for kernel, numbers in interpretation.reached.items():
            reached.setdefault(kernel, set()).update(numbers)
    for name in kernels_in(source):
        code = kernels_for(source, architecture)[name].code
        lines = {instruction.line for instruction in code} - {code[i].line for i in reached[name]}
        assert not [line for line in lines if not line.endswith(":0")], name  # 0: made by the compiler


@pytest.mark.parametrize("case", [case for case in CASES if "_tensor" in case.kernels], ids=lambda c: c.name)
def test_tensor_cores_that_keep_fewer_bits(emulated, case):
    """The PTX is that of sm_90, but sums are cut off as on sm_80."""
    with ptx.interpreted("sm_80"):
        results = case.run()
    for ours, expected in zip(results, case.expected(), strict=True):
        assert_close(ours, expected, case.name, case.tolerance)


def kernels_for(source, architecture):
    """Compile a file and parse its PTX."""
    succeeded, text, _, log = compiled(source, architecture)
    assert succeeded, log
    return parse(text)


def test_every_kernel_has_a_case():
    launched = {kernel for case in CASES for kernel in case.kernels.split()}
    assert launched == set(FILE_OF), "add a case in tests/helpers/ptx/cases.py"


@pytest.mark.parametrize("source", [s for s in SOURCES if s.stem not in COMPILED_FOR], ids=lambda s: s.stem)
def test_other_gpus_get_the_same_ptx(source):
    for architecture, others in ARCHITECTURES.items():
        kernels = kernels_for(source, architecture)
        for other in others:
            for name, kernel in kernels_for(source, f"compute_{other}").items():
                assert kernel.code == kernels[name].code, (name, other)


@pytest.mark.parametrize("rung", ["tensor", "tensor_bf16", "tensor_copies", "wgmma"])
def test_tensor_rungs_have_the_bits_of_the_emulator(emulated, rung):
    """Both go by one description of how tensor cores add: they differ only if one of them is wrong."""
    rng = np.random.default_rng(0)
    x, weight, bias, grad = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in [(1, 9, 8, 24), (3, 3, 24, 8), (8,), (1, 9, 8, 8)]
    )

    def run():
        forward = conv2d_cuda.forward(x, weight, bias, 1, True, rung)
        results = [forward, conv2d_cuda.backward_weight(x, grad, 1, 3, rung)]
        if rung == conv2d_cuda.COPIES:
            copy = conv2d_cuda.forward(x, weight, bias, 1, True, rung, rounded=True)
            results.append(copy)
            for rounded in (True, False):
                back = weight[:, :, :8].copy()  # as if the copy went into a second convolution
                results += conv2d_cuda.backward_input_and_relu(grad, back, 1, copy, rounded)
        return results

    emulated_results = run()
    with ptx.interpreted("sm_90"):
        interpreted_results = run()
    for ours, theirs in zip(interpreted_results, emulated_results, strict=True):
        np.testing.assert_array_equal(ours, theirs)
