"""What the machine code of the kernels says about their speed: loads in flight, instructions for each byte.

The budgets are what the kernels need now, so each may shrink. `python -m benchmarks.gpu_model` turns the same
counts into times.
"""

import re

import pytest
from nvrtc import compiled, disassembled

from benchmarks import machine_code
from benchmarks.machine_code import cost, parsed, sections
from tinyunet.backend.cuda import COMPILED_FOR, KERNEL_FOLDER, source_of
from tinyunet.backend.cuda_emulator import text_of

SHARED_MEMORY = 228 * 1024  # of a multiprocessor, of which each block takes one KiB more than it asks for
# For sm_86 and sm_90a ptxas makes the loops that it makes for sm_89 and sm_90.
architectures = pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120"])


def line(instruction):
    return f"        /*0000*/                   {instruction} ;"


LOOP = [
    ".L_x_1:",
    line("LDG.E.128 R4, desc[UR4][R2.64]"),
    line("@!P0 LDG.E R8, desc[UR4][R2.64+0x10]"),
    line("IADD3 R2, P1, R2, 0x20, RZ"),
    line("STS.128 [R20], R4"),
    line("LDG.E.64 R10, desc[UR4][R2.64]"),
    line("FFMA.FTZ R0, R8, R10, R0"),
    line("@!PT LDS RZ, [RZ]"),
    line("HMMA.16816.F32.BF16 R24, R28, R32, R24"),
    line("@P1 BRA `(.L_x_1)"),
]


def test_a_loop_counted_by_hand():
    """It waits where STS uses the first of two loads, and where FFMA uses the third."""
    text = "\n".join([line("S2R R0, SR_TID.X"), *LOOP, line("EXIT"), ".L_x_2:", line("BRA `(.L_x_2)")])
    loop, rest = sections(text)
    assert [each.name for each in rest] == ["S2R", "EXIT", "BRA"]
    found = cost(loop)
    assert (found.issued, found.fetches, found.fetched, found.shared) == (8, 3, 16 + 4 + 8, 16)
    assert (found.waits, found.in_flight) == (2, 2)
    assert found.multiplications == {"FFMA": 32, "BF16": 16 * 8 * 16}
    assert found.units == {"integer": 1, "fma": 1}


def test_what_products_take_from_shared_memory():
    """By ldmatrix four registers; by a warpgroup 64×16 and 16×128 numbers of two bytes, for 128 threads."""
    load = line("LDSM.16.MT88.4 R4, [R2+0x400]")
    product = line("HGMMA.64x128x16.F32.BF16 R24, gdesc[UR16].tnspB, R24, gsb0")
    copy, back = line("LDGSTS.E.BYPASS.128 [R9], desc[UR14][R2.64], P0"), line("BRA `(.L_x_1)")
    found = cost(sections("\n".join([".L_x_1:", copy, load, product, back]))[0])
    assert found.shared == 16 + 16 + (64 + 128) * 16 * 2 / 128
    assert found.multiplications == {"FFMA": 0, "BF16 of warpgroups": 64 * 128 * 16 / 4}


@pytest.mark.parametrize(("left", "in_flight"), [(0, 2), (1, 4), (2, 6)])
def test_copies_that_are_left_in_flight(left, in_flight):
    copy = line("LDGSTS.E.BYPASS.128 [R9], desc[UR14][R2.64], P0")
    barrier = line(f"DEPBAR.LE SB0, {left:#x}")
    loop, _ = sections("\n".join([".L_x_1:", barrier, copy, copy, line("BRA `(.L_x_1)")]))
    assert loop.waits() == (1, in_flight)


def test_every_line_is_parsed():
    """Each instruction that is printed, but those that never run."""
    text = disassembled(text_of(KERNEL_FOLDER / "dropout.cu"), "sm_90")["dropout_forward"]
    printed = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", text, re.MULTILINE)
    unused = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:NOP|@!PT )", text, re.MULTILINE)
    found, _ = parsed(text)
    assert len(found) == len(printed) - len(unused)
    assert len(found) > 40


@architectures
@pytest.mark.parametrize(
    ("kernel", "multiplication", "fetched", "from_shared"),
    [
        ("conv2d_forward_blocked", "FFMA", 3, 32 / 512),
        ("conv2d_backward_weight_blocked", "FFMA", 3, 32 / 512),
        ("conv2d_winograd_multiply", "FFMA", 3, 32 / 512),
        ("conv2d_winograd_multiply_transposed", "FFMA", 3, 32 / 512),
        ("conv2d_winograd_tensor_multiply", "HMMA", 16, 12 / 96),
        ("conv2d_winograd_tensor_multiply_transposed", "HMMA", 16, 20 / 96),
        ("conv2d_forward_tensor", "HMMA", 12, 48 / 32),
        ("conv2d_backward_weight_tensor", "HMMA", 12, 48 / 32),
        ("conv2d_forward_tensor_bf16", "HMMA", 12, 48 / 16),
        ("conv2d_backward_weight_tensor_bf16", "HMMA", 12, 48 / 16),
    ],
)
def test_products_fetch_ahead(kernel, multiplication, fetched, from_shared, architecture):
    """All fetches of a pass are in flight before the first is used; those past the registers of two passes.

    Each brings 16 bytes to each thread. Loads from shared memory are limited for each multiplication.
    """
    code = disassembled(text_of(source_of("conv2d", kernel)), architecture)[kernel]
    loop, _ = sections(code)
    found = cost(loop)
    assert (found.waits, found.in_flight) == (1, fetched)
    assert found.fetched == 16 * found.fetches
    assert len(loop.named("LDS")) / len(loop.named(multiplication)) <= from_shared


@pytest.mark.parametrize(("direction", "issued"), [("forward", 110), ("backward_weight", 127)])
def test_products_of_warpgroups_are_asynchronous(direction, issued):
    """While a pass multiplies, its threads fetch what is multiplied two passes later."""
    source, name = source_of("conv2d", "conv2d_forward_wgmma"), f"conv2d_{direction}_wgmma"
    loop, _ = sections(disassembled(text_of(source), COMPILED_FOR[source.stem])[name])
    found = cost(loop)
    assert found.issued <= issued
    assert found.multiplications["BF16 of warpgroups"] * 8 == 128 * 128 * 32  # by eight warps
    assert (found.waits, found.in_flight, found.fetched) == (1, 8, 4 * 16)
    assert found.shared == 4 * 16 + 2 * (64 + 128) * 16 * 2 / 128
    names = [
        each.name.split(".")[0] for each in loop if each.name.startswith(("HGMMA", "LDGSTS", "WARPGROUP"))
    ]
    assert names == ["WARPGROUP", *["HGMMA"] * 2, *["LDGSTS"] * 4, "WARPGROUP"]


@pytest.mark.parametrize("architecture", ["sm_90", "sm_90a", "sm_100"])
def test_four_blocks_on_tensor_cores_fit(architecture):
    """Where a multiprocessor has 228 KiB of shared memory; the registers then are the limit."""
    *_, log = compiled(KERNEL_FOLDER / "conv2d_tensor.cu", architecture)
    for registers, shared in machine_code.resources(log).values():
        assert 0 < registers <= 128
        assert 4 * (shared + 1024) <= SHARED_MEMORY
    *_, log = compiled(KERNEL_FOLDER / "conv2d_blocked.cu", architecture)
    assert machine_code.resources(log)["conv2d_forward_blocked"][0] <= 128


def test_six_blocks_of_winograds_products_fit():
    """On tensor cores: twelve warps, also where a multiprocessor has 100 KiB less of shared memory."""
    *_, log = compiled(KERNEL_FOLDER / "conv2d_winograd_tensor.cu", "sm_90")
    for registers, shared in machine_code.resources(log).values():
        assert 0 < registers <= 65536 // (6 * 64)
        assert 6 * (shared + 1024) <= SHARED_MEMORY


# Kernels that move numbers: bytes of a thread, its instructions (both ways of an if), its waits for loads.
MOVERS = {
    "add_forward": (12, 21, 1),
    "relu_forward": (8, 19, 1),
    "relu_backward": (12, 22, 1),
    "dropout_forward": (8, 56, 2),
    "max_pool2d_forward": (16 + 5, 116, 1),
    "max_pool2d_backward": (5 + 16, 111, 8),
    "conv2d_flip_weight": (32, 127, 1),
    "conv_transpose2d_gather": (8, 86, 1),
    "conv_transpose2d_scatter": (8, 95, 1),
    "conv_transpose2d_swap_axes": (8, 75, 1),
    "conv_transpose2d_gather_by_four": (32, 85, 1),
    "conv_transpose2d_scatter_by_four": (32, 105, 1),
    "conv_transpose2d_swap_axes_by_four": (32, 75, 1),
    "crop_concat_forward": (8, 121, 1),
    "crop_concat_backward": (8, 168, 2),
    "crop_concat_forward_by_four": (32, 122, 2),
    "crop_concat_backward_by_four": (32, 166, 2),
    "batch_norm_forward": (8, 184, 3),
    "batch_norm_backward": (12, 237, 5),
    "sgd_step": (20, 67, 4),
    "adam_step": (28, 240, 6),
    "softmax_cross_entropy_backward": (8, 20, 1),
}
TRANSFORMS = {  # of Winograd's algorithm, likewise
    "conv2d_winograd_inputs": (4 * (36 + 36), 640, 6),
    "conv2d_winograd_output_grads": (4 * (16 + 36), 410, 1),
    "conv2d_winograd_weights": (4 * (9 + 36), 186, 1),
    "conv2d_winograd_outputs": (4 * (36 + 16), 654, 32),
}
# While the memory of an H200 moves a byte (4.15 TB/s), its 132 multiprocessors issue instructions for 128
# threads each in every cycle (1.98 GHz): eight. With more of them the memory waits.
HIDDEN = 132 * 128 * 1.98e9 / 4.15e12
# Those that divide by the sizes of maps or of weights, some twenty instructions for each division.
DIVIDING = {
    "batch_norm_backward",
    "batch_norm_forward",
    "conv_transpose2d_gather",
    "conv_transpose2d_scatter",
    "conv_transpose2d_swap_axes",
    "crop_concat_backward",
    "crop_concat_forward",
}


def over_budget(code, budgets):
    """Return the kernels with more instructions or waits than they may have, and how many."""
    found = {name: [*map(cost, sections(code[name]))] for name in budgets}
    counts = {name: (sum(s.issued for s in both), sum(s.waits for s in both)) for name, both in found.items()}
    return {name: c for name, c in counts.items() if c[0] > budgets[name][1] or c[1] > budgets[name][2]}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_movers_issue_few_instructions_and_wait_rarely(architecture):
    """Their files are compiled as one, because nvdisasm takes half a second to start."""
    sources = sorted({source_of(name.split("_")[0], name) for name in MOVERS})
    text = "\n".join(f"namespace {source.stem} {{\n{text_of(source)}\n}}" for source in sources)
    assert over_budget(disassembled(text, architecture), MOVERS) == {}


@architectures
def test_transforms_issue_few_instructions_and_wait_rarely(architecture):
    source = KERNEL_FOLDER / "conv2d_winograd.cu"
    assert over_budget(disassembled(text_of(source), architecture), TRANSFORMS) == {}


def test_which_movers_keep_the_memory_waiting():
    """Only those that divide, and AdamW's square roots and divisions."""
    budgets = MOVERS | TRANSFORMS
    slow = {name for name, (moved, instructions, _) in budgets.items() if instructions / moved > HIDDEN}
    assert slow == DIVIDING | {"adam_step"}


@pytest.mark.parametrize(
    ("kernel", "at_once"),
    [
        ("conv2d_sum_parts", 16),
        ("conv2d_backward_bias", 8),
        ("conv2d_backward_bias_end", 5),
        ("conv2d_backward_relu", 6),  # each of 16 bytes
        ("conv2d_backward_weight_few_channels", 17),  # eight of them of 16 bytes
        ("conv2d_gather_to_bf16", 4),
    ],
)
def test_sums_load_many_numbers_at_once(kernel, at_once):
    code = disassembled(text_of(source_of("conv2d", kernel)), "sm_90")[kernel]
    assert cost(sections(code)[0]).in_flight >= at_once
