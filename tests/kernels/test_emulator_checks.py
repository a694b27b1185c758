"""Bugs planted in the kernels: the checking build finds each and names its line."""

import numpy as np
import pytest
from oracle import random_arrays

import tinyunet as tu
from tinyunet.backend import cuda, cuda_emulator
from tinyunet.errors import KernelError
from tinyunet.nn import adam as adam_module
from tinyunet.nn.sgd import step
from tinyunet.ops import conv2d_cuda
from tinyunet.sampling import augment_cuda, weight_map_cuda
from tinyunet.sampling.augment import Augmenter


def relu():
    tu.relu(tu.Tensor(*random_arrays([(2, 10, 14, 5)], np.float32)))


def conv2d(rung, channels=20, filters=68, flips=False):
    def program():
        x, weight = random_arrays([(1, 13, 14, channels), (3, 3, channels, filters)], np.float32)
        y = conv2d_cuda.forward(x, weight, None, 0, False, rung)
        conv2d_cuda.backward_weight(x, y, 0, 3, rung)
        if flips:
            conv2d_cuda.backward_input(y, weight, 0, rung)

    program.__name__ = f"conv2d_{rung}"
    return program


conv2d_naive, conv2d_tiled, conv2d_blocked, conv2d_tensor, conv2d_winograd, conv2d_winograd_tensor = map(
    conv2d, ("naive", "tiled", "blocked", "tensor", "winograd", "winograd_tensor")
)
conv2d_few_channels = conv2d("few_channels", channels=3, filters=36)
conv2d_tensor_copies, conv2d_wgmma = (
    conv2d(rung, channels=24, filters=136) for rung in ("tensor_copies", "wgmma")
)
conv2d_flip = conv2d("naive", channels=5, filters=34, flips=True)


def batch_norm():
    """With several pixels for each thread of a block, and with more channels than it has threads."""
    for shape in ((1, 13, 14, 20), (1, 7, 6, 300)):
        arrays = random_arrays([shape, shape[3:], shape[3:]], np.float32)
        y = tu.batch_norm(*(tu.Tensor(array, requires_grad=True) for array in arrays), relu=True)
        y.backward(np.ones(y.shape))


def bias():
    conv2d_cuda.backward_bias(*random_arrays([(1, 13, 14, 20)], np.float32))


def relu_copies():
    arrays = random_arrays([(1, 13, 14, 72), (1, 13, 14, 72)], np.float32)
    conv2d_cuda.backward_relu(*arrays, rung=conv2d_cuda.COPIES)


def gathered_copies():
    conv2d_cuda.gather_and_add(*random_arrays([(1, 6, 14, 72)], np.float32), 8, conv2d_cuda.COPIES)


def rounded_results():
    x, weight, grad, back = random_arrays(
        [(1, 13, 14, 24), (3, 3, 24, 136), (1, 9, 10, 8), (3, 3, 136, 8)], np.float32
    )
    y = conv2d_cuda.forward(x, weight, None, 0, False, conv2d_cuda.COPIES, rounded=True)
    for rounded in (True, False):
        conv2d_cuda.backward_input_and_relu(grad, back, 0, y, rounded)


def max_pool2d():
    x = tu.Tensor(*random_arrays([(2, 10, 14, 5)], np.float32), requires_grad=True)
    y = tu.max_pool2d(x)
    y.backward(np.ones(y.shape))


def crop_concat():
    tu.crop_concat(*map(tu.Tensor, random_arrays([(1, 4, 4, 3), (1, 8, 8, 3)], np.float32)))


def crop_concat_by_four():
    shapes = [(1, 4, 4, 4), (1, 7, 7, 8)]
    upsampled, skip = (tu.Tensor(a, requires_grad=True) for a in random_arrays(shapes, np.float32))
    y = tu.crop_concat(upsampled, skip)
    y.backward(np.ones(y.shape))


def loss():
    (logits,) = random_arrays([(1, 15, 20, 2)], np.float32)
    tu.softmax_cross_entropy(tu.Tensor(logits), np.zeros((1, 15, 20), np.uint8))


def fused_loss():
    arrays = random_arrays([(1, 15, 20, 12), (1, 1, 12, 2), (2,)], np.float32)
    x, weight, bias = (tu.Tensor(array, requires_grad=True) for array in arrays)
    loss = tu.linear_cross_entropy(x, weight, bias, np.zeros((1, 15, 20), np.uint8), reduction="sum")
    loss.backward(np.float32(3))


def sgd():
    weights, grads, velocities = (random_arrays([(5,), (600,), (7,)], np.float32) for _ in range(3))
    step(weights, grads, velocities, 0.1, 0.9, 0.0)


def adam():
    lists = (random_arrays([(5,), (600,), (7,)], np.float32) for _ in range(4))
    adam_module.step(*lists, np.array([0.1, 0.1, 0.001], np.float32), 0.9, 0.999, 1e-8, 0.0)


def tile():
    """Make a tile larger than its image."""
    (image,), labels = random_arrays([(9, 11, 1)], np.float32), [np.zeros((9, 11), int)]
    augmenter = Augmenter([image], labels, input_size=20, output_size=12, label_margin=2)
    augment_cuda.TileMaker(augmenter, labels, labels).tile(0, augmenter.draw(0, np.random.default_rng(0)))


def weights():
    cells = np.zeros((20, 21), np.int32)
    cells[3:5, 4:6], cells[7:11, 15:17] = 1, 2
    classes = np.ascontiguousarray(cells[2:-2, 2:-2] > 0).astype(np.int32)
    weight = weight_map_cuda.weight_map(cells, classes, np.ones(2, np.float32), w0=10, sigma=5)
    weight_map_cuda.sums_by_class(classes, weight, 2)


def overlap_tile():
    tu.predict_tiled(tu.UNet(base_channels=2, depth=1), np.zeros((3, 9, 1), np.float32), tile=4)


# For each bug a name, the program, the text to replace, its replacement, the message, and the text of the
# line that is named: the first with this text after the replacement.
BUGS = [
    (
        "a point beyond the border is not mirrored",
        tile,
        "x = mirror(x, width)",
        "mirror(x, width)",
        r"out of bounds: .* reads 4 bytes at source\[-",
        "weights_x[b] * row",
    ),
    (
        "the label tile is as large as the image tile",
        tile,
        "0 <= i && i < middle && 0 <= j",
        "0 <= j",
        r"out of bounds: .* writes 4 bytes at classes_out\[144\]",
        "classes_out[in_classes] =",
    ),
    (
        "a column is followed beyond the image",
        weights,
        "if (i + dy < height) insert",
        "insert",
        r"out of bounds: .* reads 4 bytes at cells\[420\]",
        "insert(near, cells[(i + dy)",
    ),
    (
        "a margin that the classes do not have",
        weights,
        "int label = classes[index]",
        "int label = classes[i * width + j]",
        r"out of bounds: .* reads 4 bytes at \w+\[",  # of whichever array lies nearest in memory
        "int label = classes",
    ),
    (
        "the sums of all classes in one place",
        weights,
        "sums[label * width + j] = sum",
        "sums[j] = sum",
        r"race: thread 0 writes sums\[0\], which thread 0 of another block wrote",
        "sums[j] = sum",
    ),
    (
        "one element past a parameter",
        sgd,
        "if (i >= row.count)",
        "if (i > row.count)",
        r"out of bounds: thread 5 of block \(0, 0, 0\) reads 4 bytes at \w+\[0\]\[5\], which has 5 elements",
        "float weight = row.weight[i], rate",
    ),
    (
        "one element past each of four arrays",
        adam,
        "if (i >= row.count)",
        "if (i > row.count)",
        r"out of bounds: thread 5 of block \(0, 0, 0\) reads 4 bytes at \w+\[0\]\[5\], which has 5 elements",
        "float weight = row.weight[i]",
    ),
    (
        "one element too many is read",
        relu,
        "if (i < count) y",
        "if (i <= count) y",
        r"out of bounds: thread 120 of block \(5, 0, 0\) reads 4 bytes at x\[1400\], .* has 1400",
        "i <= count",
    ),
    (
        "a window of five is written",
        max_pool2d,
        "for (int k = 0; k < 4; k++) corner",
        "for (int k = 0; k < 5; k++) corner",
        "race: thread .* writes grad_x.*, which thread .* wrote",
        "k < 5",
    ),
    (
        "an index before the array",
        crop_concat,
        "i + top) * skip_width + j + left",
        "i - 9) * skip_width + j",
        r"out of bounds: .* reads 4 bytes at .*\[-",
        "upsampled[pixel * channels + c]",
    ),
    (
        "two threads write the same four channels",
        crop_concat_by_four,
        "grad_upsampled[index] =",
        "grad_upsampled[index / 2] =",
        r"race: thread \d+ writes grad_upsampled\[\d+\], which thread \d+ wrote",
        "grad_upsampled[index / 2]",
    ),
    (
        "blocks write the same elements",
        relu,
        "y[i] = x[i]",
        "y[threadIdx.x] = x[i]",
        r"race: thread 0 writes y\[0\], which thread 0 of another block wrote",
        "y[threadIdx.x]",
    ),
    (
        "threads write the same byte",
        max_pool2d,
        "place[i] = at",
        "place[i / 2] = at",
        r"race: thread 1 writes place\[0\], which thread 0 wrote",
        "place[i / 2]",
    ),
    (
        "no barrier before a tile is read",
        conv2d_tiled,
        "__syncthreads();  // both tiles are complete",
        "",
        "reads word .* of the shared memory, which no thread of the block has written",
        "sum += patches[threadIdx.y][e]",
    ),
    (
        "no barrier before a tile is overwritten",
        conv2d_tiled,
        "__syncthreads();  // nothing reads them any more",
        "",
        "race: thread 1 reads the shared memory.*which thread 0 wrote",
        "patches[threadIdx.y][threadIdx.x] = left",
    ),
    (
        "no barrier before windows are read",
        conv2d_few_channels,
        "__syncthreads();  // patches and weights are complete",
        "",
        "reads word .* of the shared memory, which no thread of the block has written",
        "float4 four = ",
    ),
    (
        "no barrier before windows are overwritten",
        conv2d_few_channels,
        "__syncthreads();  // nothing reads them any more",
        "",
        "race: thread .* the shared memory.*which thread",
        "patches[k][threadIdx.x] = numbers",
    ),
    (
        "a row of y after the last",
        conv2d_few_channels,
        "if (row < rows && f < filters)",
        "if (f < filters)",
        r"out of bounds: .* writes 16 bytes at y\[4752\], which has 4752",
        "as_float4(y[row * filters + f]) = ",
    ),
    (
        "a gradient after the last of its part",
        conv2d_few_channels,
        "first + pixel(half, e), last, f",
        "first + pixel(half, e), first + PIXELS, f",
        r"out of bounds: .* reads 16 bytes at grad_output\[4752\], which has 4752",
        "return offset.exists ? as_float4(",
    ),
    (
        "each warp leaves its sums in the same place",
        conv2d_few_channels,
        "as_float4(of_warp[threadIdx.x / 32][k *",
        "as_float4(of_warp[0][k *",
        "race: thread 32 writes the shared memory.*which thread 0 wrote",
        "as_float4(of_warp[0][k *",
    ),
    (
        "one buffer where two are needed",
        conv2d_blocked,
        "store_tile(buffer ^ 1)",
        "store_tile(buffer)",
        "race: thread 1 reads the shared memory.*which thread 0 wrote",
        "tiles.left[buffer][part + e][row] =",
    ),
    (
        "no barrier between the tiles of a block",
        conv2d_blocked,
        "__syncthreads();  // the new tiles are complete",
        "//",
        "reads word .* of the shared memory, which no thread",
        "as_float4(left[0]) = as_float4(tiles",
    ),
    (
        "a copy that is not waited for",
        conv2d_tensor,
        "wait_for_copies<STAGES - 2>();",
        "wait_for_copies<STAGES - 1>();",
        "reads word .* of the shared memory, which no thread of the block has written",
        "a[m][e] = ",
    ),
    (
        "no barrier between the copies of other threads and their use",
        conv2d_tensor,
        "__syncthreads();  // these tiles",
        "// these tiles",
        "reads word .* of the shared memory, which no thread of the block has written",
        "a[m][e] = ",
    ),
    (
        "a copy to tiles that are in use",
        conv2d_tensor,
        "fetch(fetched, depth",
        "fetch(used, depth",
        "reads word .* of the shared memory, which no thread of the block has written",
        "a[m][e] = ",
    ),
    (
        "copies that ldmatrix does not wait for",
        conv2d_tensor_copies,
        "wait_for_copies<STAGES - 2>();",
        "wait_for_copies<STAGES - 1>();",
        "reads word .* of the shared memory, which no thread of the block has written",
        "emulator::load_matrices<TRANSPOSED>",
    ),
    (
        "a matrix from the middle of a chunk",
        conv2d_tensor_copies,
        "left.chunk(row + low, first + high)",
        "(&left.chunk(row + low, first + high))[4]",
        r"misaligned: .* reads 16 bytes at the shared memory",
        "emulator::load_matrices<TRANSPOSED>",
    ),
    (
        "a row of a matrix past the end of its tile",
        conv2d_tensor_copies,
        "left.chunk(row + low, first + high)",
        "left.chunk(row + lane, first + high)",
        "reads word .* of the shared memory, which no thread of the block has written",
        "emulator::load_matrices<TRANSPOSED>",
    ),
    (
        "pixels after the last",
        conv2d_tensor_copies,
        "if (row >= s.rows) windows[e].i = s.height;",
        "",
        r"out of bounds: .* reads 16 bytes at x\[4704\], which has 4368",
        "emulator::wait_for_copies",
    ),
    (
        "copies that products do not wait for",
        conv2d_wgmma,
        "wait_for_copies<STAGES - 2>();",
        "wait_for_copies<STAGES - 1>();",
        "reads word .* of the shared memory, which no thread of the block has written",
        "emulator::begin_product",
    ),
    (
        "copies that the async proxy does not see",
        conv2d_wgmma,
        "        fence_proxy();\n",
        "",
        "a product reads word .* with no fence.proxy.async by that thread in between",
        "emulator::begin_product",
    ),
    (
        "no barrier between the copies of other threads and a product",
        conv2d_wgmma,
        "__syncthreads();  // these tiles",
        "// these tiles",
        "reads word .* of the shared memory, which no thread of the block has written|no fence.proxy.async",
        "emulator::begin_product",
    ),
    (
        "copies to factors of a product that is not done",
        conv2d_wgmma,
        "wait_for_products<0>(sums);\n    }",
        "wait_for_products<1>(sums);\n    }",
        "reads word .* of the shared memory, which no thread of the block has written",
        "emulator::begin_product",
    ),
    (
        "sums without a fence",
        conv2d_wgmma,
        "        fence_registers(sums);\n",
        "",
        "no wgmma.fence since the registers of this product were accessed",
        "emulator::begin_product",
    ),
    (
        "the copy of a row after the last",
        relu_copies,
        "            if (row < rows)\n",
        "",
        r"out of bounds: .* writes 8 bytes at grad\[\d+\], which has 13104",
        "(copy + place(row, f))",
    ),
    (
        "the sums of half of the warps are not left",
        relu_copies,
        "if (threadIdx.y % 2 == 0) of_warp",
        "if (threadIdx.y % 4 == 0) of_warp",
        "reads word .* of the shared memory, which no thread of the block has written",
        "sum += rows[warp]",
    ),
    (
        "two pixels of a square at one place",
        gathered_copies,
        "tap = line % 2 * 2 + column % 2",
        "tap = column % 2",
        r"race: thread .* writes grad\[\d+\], which thread .* wrote",
        "(copy + place(row, f))",
    ),
    (
        "sums in tiles that are still multiplied",
        rounded_results,
        "    __syncthreads();  // all warps have multiplied the last tiles\n",
        "",
        "race: .* the shared memory",
        "of_warps[warp_row() / 64]",
    ),
    (
        "the ReLU of rows after the last",
        rounded_results,
        "if (row >= s.rows || column >= s.filters) continue;",
        "if (column >= s.filters) continue;",
        # What is read there may belong to another array. Then what is written is found.
        r"out of bounds: .* (reads 4 bytes at x|writes 4 bytes at grad_x)\[\d+\], which has 17952",
        "unsigned two =",
    ),
    (
        "four numbers from an odd address",
        conv2d_blocked,
        "as_float4(array[offset.value])",
        "as_float4(array[offset.value + 1])",
        r"misaligned: .* reads 16 bytes at x\[1\]",
        "as_float4(array[offset.value + 1])",
    ),
    (
        "no barrier before a tile is transposed",
        conv2d_flip,
        "    __syncthreads();\n#pragma unroll\n    for (int e = 0; e < SIDE; e += THREADS) {\n        int f",
        "#pragma unroll\n    for (int e = 0; e < SIDE; e += THREADS) {\n        int f",
        "reads word .* of the shared memory, which no thread of the block has written",
        "convert(tile",
    ),
    (
        "filters after the last",
        conv2d_flip,
        "if (c < channels && f < filters) tile",
        "if (c < channels) tile",
        r"out of bounds: .* reads 4 bytes at weight\[1530\], which has 1530",
        "= from[c * filters + f]",
    ),
    (
        "a tile that sticks out of the image",
        conv2d_winograd,
        "i + r < height && 0 <= j + c",
        "0 <= j + c",
        r"out of bounds: .* reads 4 bytes at x\[3640\]",
        "tile[r][c] = inside",
    ),
    (
        "tiles after the last",
        conv2d_winograd_tensor,
        "offset_in_matrix(blockIdx.x * TILE_ROWS + row + 16 * e, rows, k + part",
        "offset_in_matrix(blockIdx.x * TILE_ROWS + row + 16 * e, rows + 64, k + part",
        r"out of bounds: .* reads 16 bytes at v\[",
        "emulator::wait_for_copies",
    ),
    (
        "copies that the split does not wait for",
        conv2d_winograd_tensor,
        "wait_for_copies<STAGES - 2>();",
        "wait_for_copies<STAGES - 1>();",
        "reads word .* of the shared memory, which no thread of the block has written",
        "float4 columns = ",
    ),
    (
        "a tile of the output that sticks out of it",
        conv2d_winograd,
        "if (t.i + r < height && t.j + c < width)",
        "if (t.j + c < width)",
        r"out of bounds: .* writes 4 bytes at y\[8976\], which has 8976",
        "y[((t.n * height",
    ),
    (
        "the products of all frequencies in one place",
        conv2d_winograd,
        "write_result(m + blockIdx.z * rows * filters, rows",
        "write_result(m, rows",
        r"race: thread 0 writes m\[0\], which thread 0 of another block wrote",
        "as_float4(result[row * columns + column]) =",
    ),
    (
        "no barrier before the centres of a block are read",
        batch_norm,
        "    __syncthreads();\n    float centre",
        "    float centre",
        r"race: thread .* reads the shared memory.*which thread .* wrote .* with no barrier",
        "float centre = centres[",
    ),
    (
        "no barrier before the next sum of a block",
        batch_norm,
        "__syncthreads();  // the next sum may overwrite them",
        "// the next",
        "race: thread .* the shared memory.*which thread",
        "of_thread[threadIdx.x] = value",
    ),
    (
        "threads without a channel add numbers of the next pixel",
        batch_norm,
        "s.first = row < s.step && s.channel < channels ?",
        "s.first = row < s.step ?",
        r"out of bounds: .* reads 4 bytes at x\[12600\], which has 12600",
        "sum += x[pixel",
    ),
    (
        "half of the threads write their sum",
        bias,
        "of_warp[threadIdx.y][threadIdx.x] = sum",
        "if (threadIdx.y < 4) of_warp[threadIdx.y][threadIdx.x] = sum",
        "reads word .* of the shared memory, which no thread",
        "sum += rows[warp]",
    ),
    (
        "threads leave before a barrier",
        bias,
        "    __syncthreads();\n    if (threadIdx.y > 0 || f >= filters) return;",
        "    if (threadIdx.y > 0 || f >= filters) return;\n    __syncthreads();",
        "divergent barrier: thread .* ended without reaching it",
        "__syncthreads();\n    sums[blockIdx.y",
    ),
    (
        "a barrier in each branch",
        bias,
        "    __syncthreads();\n    if (threadIdx.y > 0",
        "    if (threadIdx.x < 7) __syncthreads();\n    else\n__syncthreads();\n    if (threadIdx.y > 0",
        "divergent barrier: thread 7 waits at conv2d.cu:",
        "if (threadIdx.x < 7) __sync",
    ),
    (
        "an index past a row of shared memory",
        conv2d_tiled,
        "sum += patches[threadIdx.y][e]",
        "sum += patches[threadIdx.y][e + 1]",
        "out of bounds: .* uses index 16 outside",
        "[e + 1]",
    ),
    (
        "a shuffle that some lanes miss",
        loss,
        "energy = sum_over_block(energy);",
        "if (pixel < count) energy = sum_over_block(energy);",
        r"waits for lanes of its warp that do not arrive \(mask ffffffff\)",
        "__shfl_xor_sync",
    ),
    (
        "lanes outside of their mask",
        loss,
        "__shfl_xor_sync(0xffffffff",
        "__shfl_xor_sync(0x0000ffff",
        "the shuffle reads lane 17, which is not in its mask",
        "__shfl_xor_sync",
    ),
    (
        "no barrier between the warps",
        loss,
        "    __syncthreads();\n    return sum_over_warps(of_warp, 0)",
        "    return sum_over_warps(of_warp, 0)",
        "reads word .* of the shared memory, which no thread",
        "sum += rows[warp]",
    ),
    (
        "a lane without channels reads those of the next pixel",
        fused_loss,
        "float4 v = takes_part ?",
        "float4 v = pixel < last ?",
        r"out of bounds: .* reads 16 bytes at x\[3600\], which has 3600",
        "float4 v = pixel",
    ),
    (
        "a part that goes on after the last pixel",
        fused_loss,
        "last = min(count, first + pixels_per_part)",
        "last = first + pixels_per_part",
        r"out of bounds: .* reads 16 bytes at x\[3600\]",
        "float4 v = takes_part",
    ),
    (
        "lanes of a pixel after the last do not take part",
        fused_loss,
        "int pixel = start + threadIdx.x / lanes;",
        "int pixel = start + threadIdx.x / lanes; if (pixel >= last) break;",
        r"waits for lanes of its warp that do not arrive \(mask ffffffff\)",
        "__shfl_xor_sync",
    ),
    (
        "no barrier between the sums of the warps",
        fused_loss,
        "    __syncthreads();\n    double* row",
        "    double* row",
        "race: thread 0 reads the shared memory.*which thread 32 wrote",
        "sum += rows[warp]",
    ),
    (
        "each warp writes its sums into the same place",
        fused_loss,
        "as_float4(products_of_warp[warp][k *",
        "as_float4(products_of_warp[0][k *",
        "race: thread 32 writes the shared memory.*which thread 0 wrote",
        "as_float4(products_of_warp[0][k *",
    ),
    (
        "the threads scale all gradients",
        fused_loss,
        "for (int i = begin; i < x_count; i += stride)",
        "for (int i = 0; i < x_count; i += stride)",
        r"race: thread 1 reads grad_x\[0\], which thread 0 wrote",
        "grad_x[i] *= scale",
    ),
    (
        "pixels before the first are not folded",
        overlap_tile,
        "i = (i % period + period) % period",
        "i = i % period",
        r"out of bounds: .* reads 4 bytes at image\[-",
        "tile[index] = image[origin",
    ),
    (
        "the columns of the scores as its rows",
        overlap_tile,
        "(top + i) * down + (left + j) * across",
        "(top + j) * down + (left + i) * across",
        r"out of bounds: .* at scores\[",
        "scores[origin +",
    ),
    (
        "all parts in one place",
        conv2d_naive,
        "parts[blockIdx.z * count + index] = sum",
        "parts[index % 32] = sum",
        "race: thread 32 writes parts.*which thread 0 wrote",
        "parts[index % 32]",
    ),
]


@pytest.mark.parametrize(
    ("program", "old", "new", "message", "line"), [bug[1:] for bug in BUGS], ids=[bug[0] for bug in BUGS]
)
def test_the_bug_is_found(emulated, monkeypatch, tmp_path, program, old, new, message, line):
    lines, source_of = set(), cuda.source_of

    def with_bug(source):
        text = source.read_text(encoding="utf-8").replace(old, new, 1)
        (tmp_path / source.name).write_text(text, encoding="utf-8")
        if line in text:
            lines.add(f"{source.name}:{1 + text[: text.index(line)].count(chr(10))}")
        return tmp_path / source.name

    for header in cuda.KERNEL_FOLDER.glob("*.cuh"):
        with_bug(header)
    monkeypatch.setattr(cuda, "source_of", lambda stem, kernel: with_bug(source_of(stem, kernel)))
    with cuda_emulator.checks(), pytest.raises(KernelError, match=message) as caught:
        program()
    assert any(line in str(caught.value) for line in lines), (lines, str(caught.value))


PROGRAMS = sorted({bug[1] for bug in BUGS}, key=lambda program: program.__name__)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_kernels_without_bugs_are_clean(emulated, program):
    with cuda_emulator.checks():
        program()
