"""Faults planted in the PTX of the kernels: the interpreter finds each, by a check or by a wrong result."""

import re

import numpy as np
import ptx
import pytest
from oracle import assert_close
from ptx.cases import CASES

from tinyunet.backend import cuda
from tinyunet.ops import conv2d_cuda


def case(beginning):
    """Find the first case whose name begins so."""
    return next(case for case in CASES if case.name.startswith(beginning))


class Replacement:
    """Replaces a pattern in the modules that have it."""

    def __init__(self, pattern, by, count=0):
        self.pattern, self.by, self.count, self.done = pattern, by, count, False

    def __call__(self, text):
        changed, number = re.subn(self.pattern, self.by, text, count=self.count)
        self.done |= number > 0
        return changed


BARRIER = r"\tbar\.sync \t0;"
WRONG = "a wrong result"
# For each fault a name, the case, the pattern to replace, its replacement, what is found, and the file and
# the text of the line that is named.
FAULTS = [
    (
        "a group of copies too many may be on its way",
        "conv2d.forward tensor,",
        r"cp\.async\.wait_group 1;",
        "cp.async.wait_group 2;",
        "an asynchronous copy to which nobody has waited for",
    ),
    (
        "copies that belong to no group",
        "conv2d.forward tensor_bf16,",
        r"cp\.async\.commit_group;",
        "",
        "an asynchronous copy to which nobody has waited for",
    ),
    (
        "no barrier between the copies of other threads and their use",
        "conv2d.backward_weight tensor,",
        BARRIER,
        "",
        "race: .* which thread .* wrote, with no barrier in between|asynchronous copy",
    ),
    (
        "copies without zeros for what does not exist",
        "conv2d.forward tensor,",
        r"(cp\.async\.cg\.shared\.global \[[^]]+\], \[[^]]+\], 16), %r\d+;",
        r"\1, 16;",
        WRONG,
    ),
    (
        "a copy from an odd address",
        "conv2d.forward tensor,",
        r"(cp\.async\.cg\.shared\.global \[[^]]+\], \[%rd\d+)\]",
        r"\1+4]",
        "misaligned: 16 bytes at x",
    ),
    (
        "two operands of mma exchanged",
        "conv2d.forward tensor,",
        r"(mma\.sync[^{]*\{[^}]*\}, \{%r\d+),(%r\d+),(%r\d+),",
        r"\1,\3,\2,",
        WRONG,
    ),
    (
        "the sums of mma exchanged",
        "conv2d.forward tensor_bf16,",
        r"(mma\.sync[^{]*\{)(%[fr]\d+),(%[fr]\d+),([^}]*\}.*\{)\2,\3,",
        r"\1\3,\2,\4\3,\2,",
        WRONG,
    ),
    (
        "factors that are cut off to TF32, not rounded",
        "conv2d.backward_weight tensor,",
        r"cvt\.rna\.tf32\.f32",
        "mov.b32",
        WRONG,
    ),
    (
        "two numbers in a register exchanged, of one factor",
        "conv2d.forward tensor_bf16,",
        r"(cvt\.rn\.bf16x2\.f32 %r\d+, )(%[fr]\d+), (%[fr]\d+);",
        r"\1\3, \2;",
        WRONG,
        1,
    ),
    (
        "a high half that keeps all bits, so that the low half lacks them",
        "conv2d.forward winograd_tensor,",
        r"and\.b32\s+(%r\d+, %r\d+), -8192;",
        r"mov.b32 \t\1;",
        WRONG,
    ),
    (
        "a low half of zero",
        "conv2d.backward_weight winograd_tensor,",
        r"sub\.ftz\.f32 \t(%f\d+), (%f\d+), %f\d+;",
        r"sub.ftz.f32 \t\1, \2, \2;",
        WRONG,
    ),
    (
        "four numbers of one factor at another depth",
        "conv2d.forward winograd_tensor,",
        r"(cp\.async\.cg\.shared\.global \[)%r(\d+)\]",
        r"xor.b32 %r\2, %r\2, 16;\n\t\1%r\2]",
        WRONG,
        1,
    ),
    (
        "a group of copies too many on its way to ldmatrix",
        "conv2d.backward_weight tensor_copies,",
        r"cp\.async\.wait_group 1;",
        "cp.async.wait_group 2;",
        "an asynchronous copy to which nobody has waited for",
    ),
    (
        "no barrier between copies and ldmatrix",
        "conv2d.forward tensor_copies,",
        BARRIER,
        "",
        "race: .* which thread .* wrote, with no barrier in between|asynchronous copy",
    ),
    (
        "matrices that are not transposed",
        "conv2d.forward tensor_copies,",
        r"x4\.trans",
        "x4",
        WRONG,
    ),
    (
        "two matrices exchanged",
        "conv2d.backward_weight tensor_copies,",
        r"(ldmatrix[^{]*\{%r\d+),(%r\d+),(%r\d+),",
        r"\1,\3,\2,",
        WRONG,
    ),
    (
        "a row of a matrix from the middle of a chunk",
        "conv2d.forward tensor_copies,",
        r"(ldmatrix[^[]*\[%r\d+)\]",
        r"\1+8]",
        r"misaligned: 16 bytes at \d+ of shared memory",
    ),
    (
        "chunks that exchange places in one direction only",
        "conv2d.forward tensor_copies,",
        r"(cp\.async\.cg\.shared\.global \[)%r(\d+)\]",
        r"xor.b32 %r\2, %r\2, 16;\n\t\1%r\2]",
        WRONG,
        1,
    ),
    (
        "ldmatrix by half of a warp",
        "conv2d.forward tensor_copies,",
        r"\tldmatrix",
        r"\tmov.u32 %r1, %laneid;\n\tsetp.gt.u32 %p1, %r1, 15;\n\t@%p1 ret;\n\tldmatrix",
        "waits for lanes of its warp that do not arrive",
        1,
    ),
    (
        "a group of copies too many on its way to products",
        "conv2d.forward wgmma,",
        r"cp\.async\.wait_group 1;",
        "cp.async.wait_group 2;",
        "an asynchronous copy to which nobody has waited for",
    ),
    (
        "copies that the async proxy does not see",
        "conv2d.backward_weight wgmma,",
        r"fence\.proxy\.async\.shared::cta;",
        "",
        "not ready: .* with no fence.proxy.async since it was written",
    ),
    (
        "copies to factors of a product that is not done",
        "conv2d.forward wgmma,",
        r"wgmma\.wait_group\.sync\.aligned 0;",
        "wgmma.wait_group.sync.aligned 1;",
        "an asynchronous copy to which nobody has waited for",
    ),
    (
        "products in no group",
        "conv2d.forward wgmma,",
        r"wgmma\.commit_group\.sync\.aligned;",
        "",
        WRONG,
    ),
    (
        "sums without a fence",
        "conv2d.backward_weight wgmma,",
        r"wgmma\.fence\.sync\.aligned;",
        "",
        "no wgmma.fence since the registers of this product were accessed",
    ),
    (
        "no barrier between the copies of other threads and a product",
        "conv2d.forward wgmma,",
        BARRIER,
        "",
        "race: .* which thread .* wrote, with no barrier in between|asynchronous copy|no fence.proxy.async",
    ),
    (
        "a descriptor that says nothing of the exchange of chunks",
        "conv2d.forward wgmma,",
        r"(or\.b64 +\t%rd\d+, %rd\d+, )461168\d+;",
        r"\g<1>274877906944;",
        "does not know a matrix without swizzle",
    ),
    (
        "the second half of the depth begins too early",
        "conv2d.forward wgmma,",
        r"(add\.s64 \t%rd\d+, %rd\d+, )128;",
        r"\g<1>64;",
        WRONG,
    ),
    (
        "a product of a matrix that is not transposed",
        "conv2d.backward_weight wgmma,",
        r"(wgmma\.mma_async.*, 1, 1, 1), 1, 1;",
        r"\1, 0, 1;",
        "an asynchronous copy to which nobody has waited for|which nobody has written",
    ),
    (
        "two sums exchanged",
        "conv2d.forward wgmma,",
        r"(wgmma\.mma_async[^{]*\{)(%f\d+),(%f\d+),",
        r"\1\3,\2,",
        WRONG,
        1,
    ),
    (
        "two numbers of a copy exchanged",
        "conv2d.forward tensor_copies,",
        r"(cvt\.rn\.bf16x2\.f32 %r\d+, )(%[fr]\d+), (%[fr]\d+);",
        r"\1\3, \2;",
        WRONG,
    ),
    (
        "no barrier before a tile is transposed",
        "conv2d.backward_input tensor_copies, 7",
        rf"(conv2d_flip_to_bf16\((?s:.)*?){BARRIER}",
        r"\1",
        "race: .* which thread .* wrote|which nobody has written",
        1,
    ),
    (
        "the window is not rotated",
        "conv2d.backward_input tensor_copies, 7",
        r"%nctaid\.z;",
        "%ctaid.z;",
        f"{WRONG}|out of bounds",
    ),
    (
        "the neighbour's sums are left out",
        "conv2d.backward_relu (1, 9",
        r"(mov\.u32 \t%r\d+, )16;",
        r"\g<1>0;",
        WRONG,
    ),
    (
        "rows after the last",
        "conv2d.backward_relu (1, 9",
        r"@%p\d+ (bra|ld)",
        r"@%p1 \1",
        "out of bounds",
    ),
    (
        "sums in tiles that other warps still multiply",
        "conv2d.rounded_backward_input and ReLU 11",
        rf"(conv2d_rounded_backward_input_tensor_copies\((?:(?!shfl)(?s:.))*){BARRIER}",
        r"\1",
        "race: .* with no barrier in between",
        1,
    ),
    (
        "the second of two numbers goes by the first one's ReLU",
        "conv2d.backward_input and ReLU 11",
        r"and\.b32 ( *\t%r\d+, %r\d+), -65536;",
        r"shl.b32 \1, 16;",
        WRONG,
    ),
    (
        "one element too many",
        "relu.forward",
        r"setp\.ge\.s32",
        "setp.gt.s32",
        r"out of bounds: 4 bytes at x\[300\], which has 300 elements",
    ),
    (
        "an index before the array",
        "crop_concat.forward",
        r"(ld\.global\.f32 \t%\w+, \[%rd\d+)\]",
        r"\1+-4096]",
        r"out of bounds: 4 bytes at \w+\[-\d+\]",
    ),
    (
        "a row of the gradient that is gathered twice",
        "conv_transpose2d.backward_input product, 8",
        r"(conv_transpose2d_gather_by_four\((?s:.)*?mov\.u32 \t%r\d+, )%ctaid\.x;",
        r"\g<1>0;",
        f"race|{WRONG}",
    ),
    (
        "the numbers of four other filters",
        "conv_transpose2d.forward product, 8",
        r"(conv_transpose2d_scatter_by_four\((?s:.)*?ld\.global\.v4\.f32[^;]*\[%rd\d+)\]",
        r"\1+16]",
        f"out of bounds|{WRONG}",
    ),
    (
        "four channels that begin at the second",
        "crop_concat.backward by four",
        r"(ld\.global\.v4\.[uf]32 \t\{[^}]*\}, \[%rd\d+)\]",
        r"\1+4]",
        "(misaligned|out of bounds): 16 bytes at grad_output",
    ),
    (
        "four numbers from an odd address",
        "conv2d.forward blocked,",
        r"(ld\.global\.v4\.f32 \t\{[^}]*\}, \[%rd\d+)\]",
        r"\1+8]",
        "misaligned: 16 bytes at",
    ),
    (
        "no barrier before a tile is read",
        "conv2d.forward tiled,",
        BARRIER,
        "",
        "which thread \\d+ wrote|which nobody has written",
        1,
    ),
    (
        "no barrier before a tile is overwritten",
        "conv2d.forward tiled,",
        rf"({BARRIER}[^@]*?){BARRIER}",
        r"\1",
        "race: .* with no barrier in between",
        1,
    ),
    (
        "no barrier between the sums of the warps",
        "softmax_cross_entropy.forward, 3",
        BARRIER,
        "",
        "which nobody has written|which thread .* wrote",
    ),
    (
        "threads end before a barrier",
        "conv2d.backward_bias",
        rf"(setp[.\w]+ \t%p2, [^;]*;\n(?:[^\n]*\n)*?){BARRIER}",
        r"\1\t@%p2 ret;\n\tbar.sync \t0;",
        "divergent barrier: thread .* ended without reaching it",
    ),
    (
        "a barrier that some threads pass by",
        "softmax_cross_entropy.forward, 3",
        rf"\n(\tsetp[.\w]+ \t(%p\d+), %r\d+, 0;\n(?:[^\n]*\n)*?){BARRIER}",
        r"\n\1\t@\2 bar.sync \t0;",
        "race: .* which thread .* wrote, with no barrier in between",
    ),
    (
        "lanes outside of their mask",
        "softmax_cross_entropy.forward, 3",
        r"(mov\.u32 \t%r\d+, )-1;",
        r"\g<1>65535;",
        "lane 16 is not in the mask 0000ffff",
    ),
    (
        "a sum of half a warp",
        "softmax_cross_entropy.forward, 3",
        r"(mov\.u32 \t%r\d+, )16;",
        r"\g<1>0;",
        WRONG,
    ),
    (
        "no sums of the warps are left for the others",
        "softmax_cross_entropy.forward, 3",
        r"\t(?:@%p\d+ )?st\.shared\.f64[^;]*;",
        "",
        "which nobody has written",
    ),
    (
        "threads write the same element",
        "max_pool2d.forward",
        r"(st\.global\.u8 \t\[)%rd(\d+)\]",
        r"and.b64 %rd\2, %rd\2, -2;\n\t\1%rd\2]",
        r"race: .* which (another thread writes at once|thread \d+ wrote)",
    ),
    (
        "blocks write the same elements",
        "relu.forward",
        r"%ctaid\.x;",
        "0;",
        "race: .* which (thread \\d+ wrote, with no barrier in between|another thread writes at once)",
    ),
    (
        "all parts in one place",
        "conv2d.backward_weight naive, (1, 7",
        r"%ctaid\.z;",
        "0;",
        "race: .* global memory, which (thread \\d+ wrote|another thread)",
    ),
    (
        "an update of the wrong row",
        "sgd.step",
        r"(mul\.lo\.s64 \t%rd\d+, %rd\d+), 40;",
        r"\1, 48;",
        r"out of bounds: 8 bytes at table\[16\], which has 15 elements",
    ),
    (
        "sums that begin with what their registers held",
        "conv2d.backward_weight naive, (1, 7",
        r"mov\.f32 \t%f\d+, 0f00000000;",
        "",
        WRONG,
    ),
    (
        "a predicate inverted",
        "relu.forward",
        r"@(%p\d+ bra)",
        r"@!\1",
        r"out of bounds: 4 bytes at x\[300\], which has 300 elements",
    ),
    (
        "a loop without end",
        "sgd.step",
        r"@%p3 bra",
        "bra",
        "has not ended after",
    ),
    (
        "an instruction that the interpreter does not know",
        "relu.forward",
        r"st\.global\.f32",
        "st.async.f32",
        "does not know st.async.f32",
    ),
]


def run_with(change, of):
    """Run a case with changed PTX and compare its results."""
    with ptx.interpreted(change=change):
        results = of.run()
    for ours, expected in zip(results, of.expected(), strict=True):
        assert_close(ours, np.asarray(expected, ours.dtype), of.name, of.tolerance)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault[0] for fault in FAULTS])
def test_the_fault_is_found(emulated, fault):
    _, name, pattern, by, found, *count = fault
    change = Replacement(pattern, by, *count)
    if found == WRONG:
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            run_with(change, case(name))
    else:
        with pytest.raises(ptx.Fault, match=found):
            run_with(change, case(name))
    assert change.done


# Faults of the launch: the kernels are as they are.


@pytest.mark.parametrize(
    ("rung", "tile", "block", "found"),
    [
        ("tiled", (16, 16), (16, 8), "which nobody has written"),
        ("tiled", (32, 16), (16, 16), WRONG),  # half of the blocks
        ("few_channels", (256, 32), (128,), "which nobody has written"),
        ("few_channels", (512, 32), (256,), WRONG),  # half of the blocks
        ("blocked", (128, 64), (64,), "which nobody has written"),
        ("tensor", (128, 64), (160,), "160 threads per block, the kernel is compiled for at most 128"),
        ("tensor_copies", (128, 128), (128,), "which nobody has written"),
        ("tensor_copies", (128, 256), (256,), WRONG),  # half of the blocks
        ("wgmma", (128, 128), (128,), "which nobody has written"),
        ("wgmma", (128, 256), (256,), WRONG),  # half of the blocks
    ],
)
def test_a_wrong_launch_is_found(emulated, monkeypatch, rung, tile, block, found):
    monkeypatch.setitem(conv2d_cuda.TILES, rung, (tile, block))
    several_blocks = [c for c in CASES if c.name.startswith(f"conv2d.forward {rung},")][1]
    with pytest.raises((ptx.Fault, AssertionError), match=r"nan \(ACTUAL\)" if found == WRONG else found):
        run_with(lambda text: text, several_blocks)


def test_too_few_threads_are_found(emulated, monkeypatch):
    monkeypatch.setattr(cuda, "blocks", lambda count, size: max(1, count // size))
    with pytest.raises(AssertionError, match=r"nan \(ACTUAL\)"):
        run_with(lambda text: text, case("relu.forward"))
