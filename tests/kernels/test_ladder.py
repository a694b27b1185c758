"""Compares kernels/README.md and the headers of the .cu files with the kernels and the launches of Python."""

import re
import subprocess
import sys

import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet.backend import DISPATCH_TABLE
from tinyunet.backend.cuda import KERNEL_FOLDER, kernels_in
from tinyunet.backend.cuda_emulator import text_of
from tinyunet.backend.cuda_log import Totals, launch_log
from tinyunet.data import synthetic_cells
from tinyunet.ops import conv2d_cuda, conv2d_winograd_cuda, conv_transpose2d_cuda
from tinyunet.training.config import TrainConfig
from tinyunet.training.trainer import Trainer

SOURCES = sorted(KERNEL_FOLDER.glob("*.cu"))
README = (KERNEL_FOLDER / "README.md").read_text(encoding="utf-8")


def table(first_column):
    """Return the rows of the README's table that begins with this column."""
    rows = re.search(rf"^\| {first_column} .*\n\| ---.*\n((\|.*\n)+)", README, re.MULTILINE)[1]
    return [[cell.strip() for cell in row.strip("|\n").split(" | ")] for row in rows.splitlines()]


def header(source):
    """Return the comment at the top of a .cu file."""
    return re.match(r"(//.*\n)+", source.read_text(encoding="utf-8"))[0]


def directions_in(source):
    """Return the names of a file's kernels without the stem of their op and the rung of conv2d."""
    names = [re.sub(f"^({source.stem}|conv2d)_", "", name) for name in kernels_in(source)]
    return {re.sub(f"_({'|'.join(conv2d_cuda.RUNGS)})$", "", name) for name in names}


def test_every_direction_has_its_kernel():
    """But the op for which the CUDA backend calls two others, and all gradients at once, a way of the CPU."""
    missing = {name for name, kernel in DISPATCH_TABLE.items() if "cuda" not in kernel.implementations}
    assert {name for name in missing if name[0] != "crop_concat_conv2d"} == {("conv2d", "backward")}
    assert "crop_concat_conv2d" in {op for op, _ in missing}


def test_every_kernel_is_launched(emulated):
    """By a training step of a U-Net, the remaining ops and rungs, and a trainer."""
    with launch_log() as log:
        model = tu.UNet(base_channels=4, depth=1)
        (image,) = random_arrays([(1, 28, 28, 1)], np.float32)
        target = np.zeros((1, 12, 12), np.int32)
        model.loss(tu.Tensor(image), target, np.ones(target.shape)).backward()
        for optimiser in (tu.SGD, tu.AdamW):
            optimiser(model.parameters(), lr=0.01).step()
        (x,) = random_arrays([(1, 4, 4, 8)], np.float32)
        logits = tu.Tensor(x, requires_grad=True)
        tu.softmax_cross_entropy(tu.add(tu.relu(logits), logits), np.zeros((1, 4, 4), int)).backward()
        ones = np.ones(8, np.float32)
        y = tu.batch_norm(logits, *(tu.Tensor(ones, requires_grad=True) for _ in range(2)))
        y.backward(np.ones(y.shape))
        weight = np.zeros((1, 1, 8, 8), np.float32)
        DISPATCH_TABLE["batch_norm", "fold"](weight, ones, ones, ones, ones)
        for rung in conv2d_cuda.RUNGS:
            y = conv2d_cuda.forward(x, weight, None, 0, False, rung)
            conv2d_cuda.backward_weight(x, y, 0, 1, rung)
            conv2d_cuda.backward_input(y, weight, 0, rung)
        conv2d_cuda.sum_parts(np.ones((2, 3), np.float32))
        copy, _ = conv2d_cuda.backward_relu(x, x, rung=conv2d_cuda.COPIES)
        conv2d_cuda.forward(x, weight, None, 0, False, conv2d_cuda.COPIES, rounded=True)
        for rounded in (False, True):
            conv2d_cuda.backward_input_and_relu(x, weight, 0, copy, rounded)
        conv2d_cuda.sum_rows(np.ones((conv2d_cuda.MOST_PARTS + 1, 3)))
        conv2d_cuda.gather_and_add(x, 8, conv2d_cuda.COPIES)
        weight = np.zeros((3, 3, 8, 8), np.float32)
        for rung in conv2d_cuda.WINOGRADS:
            y = conv2d_cuda.forward(x, weight, None, 0, False, rung)
            conv2d_cuda.backward_weight(x, y, 0, 3, rung)
        weight = np.zeros((2, 2, 8, 8), np.float32)
        conv_transpose2d_cuda.backward_weight(x, conv_transpose2d_cuda.forward(x, weight, None, False))
        y = conv_transpose2d_cuda.forward(x, weight, None, False, "naive")
        conv_transpose2d_cuda.backward_input(y, weight, "naive")
        conv_transpose2d_cuda.backward_weight(x, y, "naive")
        tu.predict_tiled(model, image[0], tile=12)
        config = TrainConfig(steps=1, base_channels=1, depth=1, tile=8)
        list(Trainer(config, *[synthetic_cells(n=1, size=20, seed=0)] * 2).run())
    assert set(log.totals) == {name for source in SOURCES for name in kernels_in(source)}


def test_the_table_of_files():
    listed = {row[0].strip("`"): row[1] for row in table("file")}
    files = sorted(KERNEL_FOLDER.glob("*.cu*"))
    assert list(listed) == [file.name for file in files]
    for source in files:
        assert set(re.findall(r"`(\w+)`", listed[source.name])) == directions_in(source)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_header_names_every_kernel(source):
    listed = set(re.findall(r"^//   (\w+) ", header(source), re.MULTILINE))
    if source.stem.startswith("conv"):  # its list is one of rungs
        assert set(re.findall(r"\w+", header(source))) >= directions_in(source)
    else:
        assert listed == directions_in(source)


def test_the_rungs_are_the_same_everywhere():
    """In the README, the file's header and Python, in the same order, and in the code."""
    sources = sorted(KERNEL_FOLDER.glob("conv2d*.cu"))
    rungs = list(conv2d_cuda.RUNGS)
    assert [row[0] for row in table("rung")] == rungs
    up = (KERNEL_FOLDER / "conv_transpose2d.cu").read_text(encoding="utf-8")
    assert re.findall(r"^//   (naive|product) ", up, re.MULTILINE) == list(conv_transpose2d_cuda.RUNGS)
    assert [row[0] for row in table("rung of conv_transpose2d")] == list(conv_transpose2d_cuda.RUNGS)
    assert re.findall(r"^//   (\w{5,}) ", header(sources[0]), re.MULTILINE) == rungs
    for direction in ("forward", "backward_weight"):
        kernels = [name for source in sources for name in kernels_in(source)]
        matches = [re.fullmatch(f"conv2d_{direction}_(\\w+)", name) for name in kernels]
        assert sorted(match[1] for match in matches if match) == sorted(rungs)


def test_the_numbers_of_the_ladder():
    """Operations and bytes per result, from the tiles that Python launches, for K = 3 and C = 64."""
    depth = 9 * 64
    for rung, _, operations, read, results, threads in table("rung"):
        rows, columns = conv2d_cuda.TILES.get(rung, ((1, 1), None))[0]
        assert int(operations) == 2 * depth
        width = 2 if rung in conv2d_cuda.OF_COPIES else 4
        assert int(read) == (rows + columns) / (rows * columns) * depth * width
        grid, block = conv2d_cuda._grid_and_block(rung, 1024, 256)
        assert np.prod(grid) * np.prod([int(n) for n in results.split("×")]) == 1024 * 256
        assert "×".join(map(str, block)) == threads
    assert f"parts of {conv2d_cuda.ROWS_PER_PART} pixels" in README
    product_operations, transform_operations = re.search(
        r"is (\d+)\noperations per result.* and some (\d+) in", README
    ).groups()
    assert int(product_operations) == 2 * 64 * 36 / 16
    transforms = conv2d_winograd_cuda.INPUT_FLOPS + conv2d_winograd_cuda.OUTPUT_FLOPS
    assert int(transform_operations) == pytest.approx(transforms / 16, abs=1)
    assert f"from {conv2d_cuda.MIN_CHANNELS} channels and filters on" in README
    for rung, _, operations, read in table("rung of conv_transpose2d"):
        rows, columns = conv2d_cuda.TILES["blocked"][0] if rung == "product" else (1, 1)
        moved_again = 8 if rung == "product" else 0  # read and written by scatter
        assert int(operations) == 2 * 128
        assert int(read) == (rows + columns) / (rows * columns) * 128 * 4 + moved_again


def test_the_bytes_of_the_fused_loss(emulated):
    """Per pixel with 64 channels; sums and weights add 2 %."""
    shapes = [(1, 64, 64, 64), (1, 1, 64, 2), (2,)]
    x, weight, bias = (tu.Tensor(a, requires_grad=True) for a in random_arrays(shapes, np.float32))
    target = np.zeros((1, 64, 64), int)
    moved = []
    for loss_of in (
        lambda: tu.linear_cross_entropy(x, weight, bias, target),
        lambda: tu.softmax_cross_entropy(tu.conv2d(x, weight, bias), target),
    ):
        with launch_log() as log:
            loss_of().backward()
        log.totals.pop("linear_cross_entropy_backward", None)  # reads a single number
        moved.append(sum(total.bytes for total in log.totals.values()) / target.size)
    stated = re.search(r"it moves (\d+) bytes;(?s:.)*backward, move (\d+)\.", README).groups()
    assert moved == [pytest.approx(int(number), rel=0.02) for number in stated]


def test_no_atomics_and_no_headers_but_ours():
    for source in SOURCES:
        text = text_of(source)
        assert "atomic" not in text
        assert "#include" not in text


def test_the_command_of_the_readme(emulated, tmp_path):
    """It prints the launches of one training step."""
    command = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1].replace("python -", f"'{sys.executable}' -")
    result = subprocess.run(
        ["bash", "-ec", command], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stderr.splitlines()]
    assert rows[0][:6] == ["kernel", "launches", "kB", "kflop", "flop/byte", "global"]
    launches = {row[0]: int(row[1]) for row in rows[1:]}
    forward = sum(n for name, n in launches.items() if name.startswith("conv2d_forward"))
    backward = sum(n for name, n in launches.items() if name.startswith("conv2d_backward_weight"))
    assert backward == 8  # seven convolutions and an up-convolution
    assert forward == 8 + 7  # and the gradients of their inputs, except the image
    assert launches["sgd_step"] == 1


def test_the_log_counts(emulated):
    x, y = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    with launch_log() as log:
        tu.add(tu.Tensor(x), tu.Tensor(y))
        tu.add(tu.Tensor(x), tu.Tensor(y))
    tu.add(tu.Tensor(x), tu.Tensor(y))
    assert log.totals == {"add_forward": Totals(launches=2, bytes=2 * 3 * 24, flops=12)}
    assert str(log).splitlines()[1].split() == ["add_forward", "2", "0.1", "0.0", "0.08"]
