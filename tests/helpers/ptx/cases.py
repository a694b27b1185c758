"""Launches that reach every path of every kernel, at the smallest odd shapes that do, with NumPy's results.

A new kernel needs a case here: `tests/kernels/test_ptx.py` fails without one, and where a part of a kernel is
never reached.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import numpy as np
from oracle import TOLERANCE, random_arrays

import tinyunet as tu
from ptx.floating_point import to_bf16, to_tf32
from ptx.tensor_cores import largest_error
from tinyunet.backend import DISPATCH_TABLE
from tinyunet.ops import conv2d_cuda, conv_transpose2d_cuda
from tinyunet.ops import conv2d_winograd_cuda as winograd
from tinyunet.ops.conv2d import (
    backward_input_numpy,
    backward_weight_numpy,
    forward_numpy,
)
from tinyunet.prediction.tiling import TilesInMemory
from tinyunet.prediction.tiling_cuda import TilesOnGpu
from tinyunet.sampling import augment_cuda, weight_map_cuda
from tinyunet.sampling.augment import Augmentation, Augmenter


@dataclass(frozen=True)
class Case:
    """Something to launch, and what it has to give."""

    name: str
    run: Callable
    """Runs kernels on the active backend and returns arrays."""
    expected: Callable
    """Computes the same arrays on the CPU."""
    kernels: str
    """All that are launched, separated by blanks. The case counts for the file of the first."""
    tolerance: float = TOLERANCE[np.dtype(np.float32)]


CASES = []


def add_case(name, run, expected, kernels, **options):
    """Add a case."""
    CASES.append(Case(name, run, expected, kernels, **options))


def dispatched(op, direction, kernels, *arguments, name=None):
    """Add a case of the dispatch table: what it returns is compared, or all that it may write in place."""

    def run():
        given = copy.deepcopy(arguments)
        result = DISPATCH_TABLE[op, direction](*given)
        if result is None:
            result = [array for a in given if isinstance(a, list) for array in a]
        return [
            np.asarray(a) for a in (result if isinstance(result, tuple | list) else [result]) if a is not None
        ]

    def expected():
        with tu.use_backend("numpy"):
            return run()

    add_case(name or f"{op}.{direction}", run, expected, kernels)


def numbers(*shapes, seed=0):
    """Make arrays of float32."""
    return random_arrays(shapes, np.float32, seed)


# Element by element: a whole block of 256 threads, and one that is not full

X, Y = numbers((1, 6, 10, 5), (1, 6, 10, 5))
dispatched("add", "forward", "add_forward", X, Y)
dispatched("relu", "forward", "relu_forward", X)
dispatched("relu", "backward", "relu_backward", X, np.maximum(Y, 0))  # half of it exactly 0
dispatched("dropout", "forward", "dropout_forward", X, 0.4, np.uint64(2**63 + 12345))
dispatched("max_pool2d", "forward", "max_pool2d_forward", *numbers((3, 6, 10, 7)))
PLACES = np.random.default_rng(1).integers(0, 4, (1, 3, 5, 23)).astype(np.uint8)
dispatched("max_pool2d", "backward", "max_pool2d_backward", *numbers(PLACES.shape), PLACES)
dispatched("crop_concat", "forward", "crop_concat_forward", *numbers((1, 5, 6, 3), (1, 8, 9, 4)))
dispatched(
    "crop_concat", "backward", "crop_concat_backward", *numbers((1, 5, 6, 7)), (1, 5, 6, 3), (1, 8, 9, 4)
)
dispatched(
    *("crop_concat", "forward", "crop_concat_forward_by_four", *numbers((2, 5, 6, 8), (2, 8, 9, 12))),
    name="crop_concat.forward by four",
)
dispatched(
    *("crop_concat", "backward", "crop_concat_backward_by_four"),
    *(*numbers((2, 5, 6, 20)), (2, 5, 6, 8), (2, 8, 9, 12)),
    name="crop_concat.backward by four",
)
PARAMETERS = [numbers((5,), (300,), (7,), seed=seed) for seed in range(3)]
dispatched("sgd", "step", "sgd_step", *PARAMETERS, 0.1, 0.9, 1e-3)
SQUARES = [array**2 for array in numbers((5,), (300,), (7,), seed=3)]
SCALARS = np.array([0.1, 0.9, 0.5], np.float32)  # the learning rate, and what corrects the two means
dispatched("adam", "step", "adam_step", *PARAMETERS, SQUARES, SCALARS, 0.9, 0.999, 0.1, 0.01)


# Batch normalisation: several blocks along the pixels, and channels that do not fill a warp

STATISTICS = "batch_norm_statistics batch_norm_statistics_end"
for shape in ((2, 9, 11, 37), (1, 33, 29, 4)):
    x, grad = numbers(shape, shape)
    scale, shift, mean = numbers(*[shape[3:]] * 3, seed=4)
    variance = np.float32(0.5) + mean**2
    for relu in (True, False):
        name = f"{shape}{', relu' * relu}"
        dispatched(
            "batch_norm",
            "forward",
            f"batch_norm_forward {STATISTICS}",
            *(x, scale, shift, relu),
            name=f"batch_norm.forward, {name}",
        )
        dispatched(
            "batch_norm",
            "backward",
            "batch_norm_backward batch_norm_sums batch_norm_sums_end",
            *(grad, x, scale, shift, mean, variance, relu),
            name=f"batch_norm.backward, {name}",
        )
dispatched(
    "batch_norm",
    "fold",
    "batch_norm_fold",
    *numbers((3, 3, 5, 37), (37,), (37,), (37,)),
    np.ones(37, np.float32),
)


# conv2d

ROUNDED = {
    "tensor": lambda a: to_tf32(a.view(np.uint32)).view(np.float32),
    "tensor_bf16": lambda a: (to_bf16(a.view(np.uint32)) << np.uint32(16)).view(np.float32),
}
ROUNDED["tensor_copies"] = ROUNDED["wgmma"] = ROUNDED["tensor_bf16"]
WINOGRAD = {  # the product first, because a case counts for its file
    "forward": "{}_multiply conv2d_winograd_inputs conv2d_winograd_weights conv2d_winograd_outputs",
    "backward_weight": (
        "{}_multiply_transposed conv2d_winograd_inputs conv2d_winograd_output_grads "
        "conv2d_winograd_weight_grad"
    ),
}


def conv2d(rung, height, width, channels, filters, size, padding, relu=True):
    """Add three cases: y, and the gradients of x and weight for a random gradient of y."""
    x, weight, bias = numbers((1, height, width, channels), (size, size, channels, filters), (filters,))
    y_shape = (1, height + 2 * padding - size + 1, width + 2 * padding - size + 1, filters)
    (grad,) = numbers(y_shape, seed=1)
    rx, rw, rg = map(ROUNDED.get(rung, np.asarray), (x, weight, grad))
    forward_error, input_error = (_error(rung, size**2 * summands) for summands in (channels, filters))
    sizes = f"{rung}, {height}×{width}×{channels} to {filters} by {size}×{size}"
    add_case(
        f"conv2d.forward {sizes}",
        lambda: [conv2d_cuda.forward(x, weight, bias, padding, relu, rung)],
        lambda: [forward_numpy(rx, rw, bias, padding, relu)],
        _kernels_of(rung, "forward"),
        tolerance=forward_error,
    )
    add_case(
        f"conv2d.backward_input {sizes}",
        lambda: [conv2d_cuda.backward_input(grad, weight, padding, rung)],
        lambda: [backward_input_numpy(rg, rw, padding)],
        f"{CASES[-1].kernels} conv2d_flip_{'to_bf16' if rung in conv2d_cuda.OF_COPIES else 'weight'}",
        tolerance=input_error,
    )
    conv2d_weight(rung, x, grad, padding, size)


def conv2d_weight(rung, x, grad, padding, size, rows_per_part=None):
    """Add a case: the gradient of weight, perhaps in parts of fewer pixels than usual."""
    rx, rg = map(ROUNDED.get(rung, np.asarray), (x, grad))
    several = grad[..., 0].size > (rows_per_part or conv2d_cuda.ROWS_PER_PART)

    def run():
        with (
            patch.object(conv2d_cuda, "ROWS_PER_PART", rows_per_part or conv2d_cuda.ROWS_PER_PART),
            patch.object(winograd, "TILES_PER_PART", rows_per_part or winograd.TILES_PER_PART),
        ):
            return [conv2d_cuda.backward_weight(x, grad, padding, size, rung)]

    add_case(
        f"conv2d.backward_weight {rung}, {x.shape} and {grad.shape}",
        run,
        lambda: [backward_weight_numpy(rx, rg, padding, size)],
        _kernels_of(rung, "backward_weight", several),
        tolerance=_error(rung, grad[..., 0].size),
    )


def _kernels_of(rung, direction, parts=False):
    """Name the kernels that a rung launches, with that for several parts if there are."""
    if rung in conv2d_cuda.WINOGRADS:
        return WINOGRAD[direction].format(f"conv2d_{rung}")
    own = f"conv2d_{direction}_{rung}" + " conv2d_sum_parts" * parts
    return own + " conv2d_round_to_bf16" * (rung in conv2d_cuda.OF_COPIES)


def _error(rung, products):
    """Return the tolerance: that of NumPy and, on tensor cores, of their sums."""
    usual = TOLERANCE[np.dtype(np.float32)]
    return 1e-6 + largest_error(products) if rung in ROUNDED else usual


for rung in ("naive", "tiled"):
    conv2d(rung, 5, 7, 3, 5, 3, 1)
    conv2d(rung, 4, 9, 5, 17, 2, 0, relu=False)  # several blocks along the pixels and the filters
conv2d("few_channels", 7, 9, 4, 36, 3, 1)  # several blocks along the filters, and passes
conv2d("few_channels", 13, 23, 4, 4, 2, 0, relu=False)  # several blocks along the pixels
for rung in ("blocked", "tensor", "tensor_bf16"):
    conv2d(rung, 7, 9, 4, 8, 3, 1)
    conv2d(rung, 11, 13, 8, 68, 2, 0)  # several blocks
    conv2d(rung, 5, 6, 4, 4, 4, 2, relu=False)
conv2d("tensor_copies", 7, 9, 8, 16, 3, 1)
conv2d("tensor_copies", 11, 13, 8, 136, 2, 0)  # several blocks
conv2d("tensor_copies", 3, 5, 40, 8, 1, 0)  # a weight of more than the 32 rows that a block transposes
conv2d("tensor_copies", 7, 8, 8, 32, 3, 2, relu=False)  # more than the 64 rows and 32 columns of a warp
conv2d("wgmma", 7, 9, 8, 16, 3, 1)
conv2d("wgmma", 11, 13, 8, 136, 2, 0)  # several blocks, and results of both warpgroups
conv2d("wgmma", 7, 8, 8, 32, 3, 2, relu=False)
# A thread computes results in both halves of the 128 rows and 64 columns of its block: a case needs more than
# 64 rows and 32 columns at once. 72 tiles, which reach beyond the output, and 36 filters.
conv2d("winograd", 29, 35, 8, 36, 3, 1)
conv2d("winograd", 6, 6, 12, 68, 3, 0, relu=False)  # several blocks
conv2d("winograd_tensor", 29, 35, 8, 36, 3, 1)
conv2d("winograd_tensor", 6, 6, 36, 68, 3, 0, relu=False)  # several blocks, and stages
for rung in ("naive", "tiled", "blocked", "tensor", "tensor_bf16"):
    # Several blocks along the rows of the gradient, and along the pixels.
    conv2d_weight(rung, *numbers((1, 7, 11, 132), (1, 7, 11, 36)), 0, 1, rows_per_part=32)
# Images of three channels. In the second pass of a part another image begins; the last part is not full.
conv2d_weight("few_channels", *numbers((2, 19, 23, 3), (2, 17, 21, 36)), 0, 3, rows_per_part=512)
# A part of four stages: in the last, to which threads move on within the loop, another image begins.
for rung in conv2d_cuda.OF_COPIES:
    conv2d_weight(rung, *numbers((2, 12, 12, 16), (2, 10, 10, 40)), 0, 3, rows_per_part=128)
# 35 tiles in parts of 24, of which a block fetches 8 at a time: three turns of the loop, and two.
conv2d_weight("winograd", *numbers((1, 22, 29, 132), (1, 20, 27, 36)), 0, 3, rows_per_part=24)
# In parts of 32: two stages, and one that is not full.
conv2d_weight("winograd_tensor", *numbers((1, 22, 29, 68), (1, 20, 27, 36)), 0, 3, rows_per_part=32)
(MAP,) = numbers((1, 9, 14, 37))
BIAS = "conv2d_backward_bias conv2d_backward_bias_end"
dispatched("conv2d", "backward_bias", BIAS, MAP)
# So many pixels that the threads of both kernels load more than once.
dispatched("conv2d", "backward_bias", BIAS, *numbers((1, 129, 129, 2)), name="conv2d.backward_bias, many")


# Gradients as copies, that before a ReLU and that of an up-convolution, and those of the bias


def widened(copy):
    """Return the numbers of a copy, bfloat16 in integers of 16 bits, as float32."""
    return (copy.astype(np.uint32) << np.uint32(16)).view(np.float32)


def relu_copies(*shape):
    """Add a case: the sums are those of numbers that are not rounded yet."""
    grad, y = numbers(shape, shape)
    y = np.maximum(y, 0)  # half of it exactly 0

    def run():
        copy, bias = conv2d_cuda.backward_relu(grad, y, rung=conv2d_cuda.COPIES)
        return [widened(copy), bias]

    def expected():
        before = np.where(y > 0, grad, 0)
        bias = before.sum(axis=(0, 1, 2))
        return [ROUNDED["tensor_copies"](before), bias]

    add_case(f"conv2d.backward_relu {shape}", run, expected, "conv2d_backward_relu conv2d_backward_bias_end")


def gathered_copies(*shape):
    """Add a case: the squares of an up-convolution's gradient, and the sums of numbers not rounded yet."""
    (grad,) = numbers(shape)
    n, height, width, filters = shape

    def run():
        copy, bias = conv2d_cuda.gather_and_add(grad, 8, rung=conv2d_cuda.COPIES)
        return [widened(copy), bias]

    def expected():
        squares = grad.reshape(n, height // 2, 2, width // 2, 2, filters).transpose(0, 1, 3, 2, 4, 5)
        rows = np.ascontiguousarray(squares).reshape(n, height // 2, width // 2, 4 * filters)
        return [ROUNDED["tensor_copies"](rows), grad.sum(axis=(0, 1, 2))]

    kernels = "conv2d_gather_to_bf16 conv2d_backward_bias_end"
    add_case(f"conv2d.gather_and_add {shape}", run, expected, kernels)


gathered_copies(2, 6, 14, 72)  # several blocks along the filters, of which the last is not full
gathered_copies(1, 130, 128, 8)  # so many pixels that a thread loads more than once


def rounded_results(height, width, channels, filters, padding):
    """Add three cases: y as a copy, and the gradient of x where it is positive, as a copy and as float32.

    A number between two of bfloat16 may be rounded to either, by the tolerance of its sum.
    """
    x, weight, bias = numbers((1, height, width, channels), (3, 3, channels, filters), (filters,))
    x = np.maximum(ROUNDED["tensor_copies"](x), 0)
    copy = (x.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    rounded_weight = ROUNDED["tensor_copies"](weight)
    (grad,) = numbers((1, height + 2 * padding - 2, width + 2 * padding - 2, filters), seed=1)
    one_off = 2.0**-7

    def forward():
        return [widened(conv2d_cuda.forward(copy, weight, bias, padding, True, conv2d_cuda.COPIES, True))]

    def gradients(as_copy):
        grad_x, sums = conv2d_cuda.backward_input_and_relu(grad, weight, padding, copy, as_copy)
        return [widened(grad_x) if as_copy else grad_x, sums]

    def expected_gradients():
        grad_x = backward_input_numpy(ROUNDED["tensor_copies"](grad), rounded_weight, padding) * (x > 0)
        return [grad_x, grad_x.sum(axis=(0, 1, 2))]

    sizes = f"{height}×{width}×{channels} to {filters}"
    add_case(
        f"conv2d.rounded_forward {sizes}",
        forward,
        lambda: [forward_numpy(x, rounded_weight, bias, padding, True)],
        "conv2d_rounded_forward_tensor_copies conv2d_round_to_bf16",
        tolerance=one_off,
    )
    for name, as_copy, tolerance in (
        ("rounded_backward_input", True, one_off),
        ("backward_input", False, 1e-6 + largest_error(9 * filters)),
    ):
        add_case(
            f"conv2d.{name} and ReLU {sizes}",
            partial(gradients, as_copy),
            expected_gradients,
            f"conv2d_{name}_tensor_copies conv2d_flip_to_bf16 conv2d_round_to_bf16 conv2d_backward_bias_end",
            tolerance=tolerance,
        )


rounded_results(11, 13, 8, 136, 0)  # more than 128 rows, and more than 128 columns forward
rounded_results(5, 6, 136, 8, 1)  # and backward
# So many rows that a block of the first launch has several loads of each thread.
PARTS = np.random.default_rng(5).standard_normal((700, 37))
add_case(
    "conv2d.sum_rows",
    lambda: [conv2d_cuda.sum_rows(PARTS)],
    lambda: [PARTS.sum(axis=0)],
    "conv2d_backward_bias_middle conv2d_backward_bias_end",
)


relu_copies(1, 9, 14, 72)  # several blocks along the filters, of which the last is not full
relu_copies(1, 129, 129, 8)  # so many pixels that a thread loads more than once


# conv_transpose2d


def conv_transpose2d(rung, channels, filters):
    """Add three cases."""
    x, up, bias = numbers((2, 3, 5, channels), (2, 2, channels, filters), (filters,))
    (grad,) = numbers((2, 6, 10, filters), seed=1)
    by = "" if filters % 4 else "_by_four"
    product, product_for_x = ("few_channels", "tiled") if channels % 4 else ("blocked", "blocked")
    swap_axes, gather = f"conv_transpose2d_swap_axes{by}", f"conv_transpose2d_gather{by}"
    for_x = f"{swap_axes} conv2d_forward_{product_for_x} conv2d_flip_weight {gather}"
    for_y = f"{swap_axes} conv2d_forward_{product} conv_transpose2d_scatter{by}"
    for direction, arguments, by_product in (
        ("forward", (x, up, bias, True), for_y),
        ("backward_input", (grad, up), for_x),
        ("backward_weight", (x, grad), f"{swap_axes} conv2d_backward_weight_{product} {gather}"),
    ):
        own = f"conv_transpose2d_{direction}_naive"
        reference = DISPATCH_TABLE["conv_transpose2d", direction].implementations["numpy"]
        function = partial(getattr(conv_transpose2d_cuda, direction), *arguments, rung)
        add_case(
            f"conv_transpose2d.{direction} {rung}, {channels} to {filters}",
            lambda function=function: [function()],
            lambda reference=reference, arguments=arguments: [reference(*arguments)],
            own if rung == "naive" else by_product,
        )


conv_transpose2d("naive", 5, 3)
conv_transpose2d("product", 5, 3)
conv_transpose2d("product", 8, 12)


# Losses

LABELS = np.random.default_rng(1).integers(-1, 3, (1, 15, 20)).astype(np.int32)  # -1: an ignored pixel
WEIGHTS = np.random.default_rng(2).uniform(0, 10, LABELS.shape).astype(np.float32)
ONE_THIRD = np.asarray(1 / 3, np.float32)
for classes in (3, 9):  # fewer and more than a loop of the compiler's takes at once
    logits = numbers((1, 15, 20, classes))[0]
    dispatched(
        "softmax_cross_entropy",
        "forward",
        "softmax_cross_entropy_forward softmax_cross_entropy_forward_end",
        *(logits, LABELS, WEIGHTS, True),
        name=f"softmax_cross_entropy.forward, {classes} classes",
    )
dispatched("softmax_cross_entropy", "backward", "softmax_cross_entropy_backward", X, ONE_THIRD)
for channels, classes, with_gradient in ((4, 1, True), (12, 3, True), (36, 4, True), (12, 2, False)):
    features, weight, bias = numbers((1, 15, 20, channels), (1, 1, channels, classes), (classes,))
    dispatched(
        "linear_cross_entropy",
        "forward",
        "linear_cross_entropy_forward conv2d_backward_bias_end",
        *(features, weight, bias, np.minimum(LABELS, classes - 1), WEIGHTS, with_gradient),
        name=f"linear_cross_entropy.forward, {channels} to {classes}, gradient {with_gradient}",
    )
GRADS = numbers((1, 6, 10, 5), (1, 1, 5, 3), (3,))
for factor in (ONE_THIRD, np.asarray(1, np.float32)):
    dispatched(
        "linear_cross_entropy",
        "backward",
        "linear_cross_entropy_backward",
        *GRADS,
        factor,
        name=f"linear_cross_entropy.backward, {factor:.1f}",
    )


# Samples and tiles

IMAGE = numbers((9, 11, 2))[0]
CELLS = np.zeros((20, 21), np.int32)
CELLS[3:5, 4:6], CELLS[5:11, 5:9], CELLS[7:11, 15:17] = 1, 2, 3
CLASSES = np.ascontiguousarray(np.where(CELLS[2:-2, 2:-2] == 3, -1, CELLS[2:-2, 2:-2] > 0), np.int32)


def augmented(name, augmentation, image):
    """Add a case: a tile larger than its image."""
    labels = [CELLS[: image.shape[0], : image.shape[1]]]
    augmenter = Augmenter(
        [image], labels, input_size=20, output_size=12, augmentation=augmentation, label_margin=2
    )

    def run():
        maker = augment_cuda.TileMaker(augmenter, labels, labels)
        image, cells, classes = maker.tile(0, augmenter.draw(0, np.random.default_rng(3)))
        return [image, cells, classes]

    def expected():
        tile = augmenter.sample(0, np.random.default_rng(3))
        return [tile.image, tile.labels, tile.labels[2:-2, 2:-2]]

    add_case(f"augment.tile, {name}", run, expected, "augment_tile")


augmented("all changes", Augmentation(elastic_points=5), IMAGE)
augmented("no change", Augmentation.off(), IMAGE)
augmented("one row of one channel", Augmentation(gamma=0), IMAGE[:1, :, :1].copy())


def nearest_two(cells, margin):
    """Compute the distances of each pixel inside the margin to the two nearest cells, from those to all."""
    pixels = np.indices(cells.shape)[:, margin:-margin, margin:-margin]
    to_cells = [
        np.sqrt(((pixels[:, :, :, None] - np.argwhere(cells == cell).T[:, None, None]) ** 2).sum(0)).min(-1)
        for cell in range(1, cells.max() + 1)
    ]
    return np.sort(to_cells, axis=0)[:2].astype(np.float32)


def weights():
    weight = weight_map_cuda.weight_map(CELLS, CLASSES, np.array([1, 2], np.float32), w0=10, sigma=50)
    sums = weight_map_cuda.sums_by_class(CLASSES, weight, 2)
    return [weight, sums, weight_map_cuda.divide(weight, 4.0)]


def expected_weights():
    d1, d2 = nearest_two(CELLS, 2)
    border = np.where(CELLS[2:-2, 2:-2] == 0, 10 * np.exp(-((d1 + d2) ** 2) / 5000), 0)
    weight = np.where(CLASSES < 0, 0, np.array([1, 2])[CLASSES] + border).astype(np.float32)
    sums = np.array([weight[label == CLASSES].sum(dtype=float) for label in range(2)])
    return [weight, sums, weight / np.float32(4)]


WEIGHT_MAP = "weight_map_columns weight_map_rows weight_map_forward weight_map_sums weight_map_scale"
add_case("weight_map", weights, expected_weights, WEIGHT_MAP, tolerance=1e-6)


def tiles(shape, transform):
    """Add a case: a tile of the mirrored image, and scores."""
    image = numbers(shape)[0]
    (output,) = numbers((1, 8, 7, 3), seed=1)

    def run(make=TilesOnGpu):
        in_memory = make(image, 3)
        tile = in_memory.cut_out(transform, (-23, 11), (-4, 9))
        for cut in ((0, 0), (2, 3)):
            in_memory.add(transform, slice(0, 3), slice(1, 4), output, cut)
        return [np.asarray(tile, np.float32), in_memory.scores()]

    add_case(f"tiling, {shape}", run, lambda: run(TilesInMemory), "tiling_gather tiling_add")


tiles((6, 9, 2), (1, True))
tiles((4, 4, 1), (0, False))
