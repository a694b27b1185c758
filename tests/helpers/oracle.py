"""PyTorch's version of each op and of the networks, in our axes, and the comparison of ours with it.

The functions of `TORCH` take and return torch tensors in tinyunet's axes (images N H W C, weights K K C F)
and permute inside. PyTorch's own autograd then gives gradients in these axes too.
"""

import numpy as np
import torch
from torch.nn import functional as F

import tinyunet as tu
from tinyunet.backend import to_backend, to_host

# The largest difference allowed, in units of the largest value. Convolutions that add a thousand products in
# another order, or by Winograd's transforms, were seen to differ by up to 1.8e-6 and 1.8e-15.
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}
DTYPES = [np.float32, np.float64]
# For CUDA: fewer elements than a block has threads, and several blocks of which the last is not full.
ELEMENTWISE = [(1, 2, 4, 3), (2, 10, 14, 5)]


def assert_close(actual, expected, what="", tolerance=None):
    """Require the same shape and dtype, no NaN, and differences within the tolerance."""
    actual, expected = to_host(actual), to_host(expected)
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    tolerance = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    allowed = tolerance * np.abs(expected).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed, err_msg=what, equal_nan=False)


def random_arrays(shapes, dtype, seed=0):
    """An array of normal numbers for each shape; None stays None."""
    rng = np.random.default_rng(seed)
    return [None if shape is None else rng.standard_normal(shape).astype(dtype) for shape in shapes]


def assert_equals_torch(op, arrays, **options):
    """Compare tu.<op> on the active backend with PyTorch: the output and the gradient of every array."""
    ours = [None if a is None else tu.Tensor(a, requires_grad=True) for a in arrays]
    theirs = [None if a is None else torch.tensor(a, requires_grad=True) for a in arrays]
    before = [None if a is None else a.copy() for a in arrays]

    y, expected = getattr(tu, op)(*ours, **options), TORCH[op](*theirs, **options)
    assert_close(y.numpy(), expected.detach().numpy(), f"{op}: output")

    grad_output = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    y.backward(grad_output)
    expected.backward(torch.tensor(grad_output))
    for i, (our, their, array) in enumerate(zip(ours, theirs, before, strict=True)):
        if array is not None:
            assert_close(our.grad, their.grad.numpy(), f"{op}: gradient of input {i}")
            assert our.grad.flags.c_contiguous
            np.testing.assert_array_equal(our.numpy(), array, err_msg=f"{op} changed its input {i}")


def conv2d(x, weight, bias=None, *, padding=0, relu=False):
    """N H W C through torch's N C H W."""
    y = F.conv2d(_permuted(x, 0, 3, 1, 2), _permuted(weight, 3, 2, 0, 1), bias, padding=padding)
    return (F.relu(y) if relu else y).permute(0, 2, 3, 1)


def conv_transpose2d(x, weight, bias=None, *, relu=False):
    """Weight (K, K, C, F) is torch's (C, F, K, K); of a 4×4 window the outermost row and column is cut."""
    cut = weight.shape[0] // 2 - 1
    weight = _permuted(weight, 2, 3, 0, 1)
    y = F.conv_transpose2d(_permuted(x, 0, 3, 1, 2), weight, bias, stride=2, padding=cut)
    return (F.relu(y) if relu else y).permute(0, 2, 3, 1)


def _permuted(tensor, *axes):
    # Contiguous: for some shapes torch's convolutions refuse the gradient of a view.
    return tensor.permute(*axes).contiguous()


def batch_norm(x, scale, shift, *, relu=False):
    """By the statistics of x. PyTorch refuses a single pixel, of which it would make the shift as well."""
    if x[..., 0].numel() == 1:
        y = 0 * x + 0 * scale + shift
    else:
        y = F.batch_norm(_permuted(x, 0, 3, 1, 2), None, None, scale, shift, training=True)
        y = y.permute(0, 2, 3, 1)
    return F.relu(y) if relu else y


def max_pool2d(x):
    """2×2, stride 2."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def crop_concat(upsampled, skip):
    """The centre of skip, behind the channels of upsampled."""
    _, height, width, _ = upsampled.shape
    top, left = (skip.shape[1] - height) // 2, (skip.shape[2] - width) // 2
    centre = skip.narrow(1, top, height).narrow(2, left, width)
    return torch.cat([upsampled, centre], dim=3)


def crop_concat_conv2d(upsampled, skip, weight, bias=None, **options):
    """One op after the other."""
    return conv2d(crop_concat(upsampled, skip), weight, bias, **options)


def softmax_cross_entropy(logits, target, weight=None, reduction="mean", ignore_label=None):
    """The per-pixel loss from torch; weighted and summed here."""
    target = torch.tensor(np.asarray(target).astype(np.int64))
    weight = torch.ones(target.shape) if weight is None else torch.tensor(weight)
    ignored = -100 if ignore_label is None else ignore_label
    each = F.cross_entropy(logits.permute(0, 3, 1, 2), target, reduction="none", ignore_index=ignored)
    weight = torch.where(target == ignored, 0, weight.to(logits.dtype))
    total = (weight * each).sum()
    return total / weight.sum() if reduction == "mean" else total


def linear_cross_entropy(x, weight, bias, target, pixel_weight=None, reduction="mean", ignore_label=None):
    """One op after the other: torch's own has no per-pixel weights."""
    return softmax_cross_entropy(conv2d(x, weight, bias), target, pixel_weight, reduction, ignore_label)


TORCH = {
    "add": torch.add,
    "batch_norm": batch_norm,
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "crop_concat": crop_concat,
    "crop_concat_conv2d": crop_concat_conv2d,
    "linear_cross_entropy": linear_cross_entropy,
    "max_pool2d": max_pool2d,
    "relu": F.relu,
    "softmax_cross_entropy": softmax_cross_entropy,
}


def torch_parameters(model):
    """Copies of a network's weights as torch tensors that require gradients, by name; of buffers without."""
    buffers = {name for name, _ in model.named_buffers()}
    state = model.state_dict().items()
    return {n: torch.tensor(to_host(array), requires_grad=n not in buffers) for n, array in state}


def torch_unet(parameters, x, *, depth=4, padding="valid", variant="paper", training=True):
    """The U-Net of the paper, section 2, in PyTorch: parameters by name, x (N, H, W, C).

    Where there are scales, with batch normalisation by the statistics of x or, not in training, the buffers.
    """
    p = parameters
    margin = 1 if padding == "same" else 0

    def double_conv(name, x):
        for part in (f"{name}.first", f"{name}.second"):
            if f"{part}.scale" not in p:
                x = conv2d(x, p[f"{part}.weight"], p[f"{part}.bias"], padding=margin, relu=True)
                continue
            x = conv2d(x, p[f"{part}.weight"], padding=margin).permute(0, 3, 1, 2)
            fixed = (None, None) if training else (p[f"{part}.mean"], p[f"{part}.variance"])
            x = F.batch_norm(x, *fixed, p[f"{part}.scale"], p[f"{part}.shift"], training=training)
            x = F.relu(x).permute(0, 2, 3, 1)
        return x

    skips = []
    for level in range(depth + 1):
        x = double_conv(f"contracting.{level}", x if level == 0 else max_pool2d(x))
        skips.append(x)
    for i in range(depth):
        up = conv_transpose2d(x, p[f"up.{i}.weight"], p[f"up.{i}.bias"], relu=variant == "release")
        x = double_conv(f"expansive.{i}", crop_concat(up, skips[depth - 1 - i]))
    return conv2d(x, p["scores.weight"], p["scores.bias"])


def torch_fcn(parameters, x, *, depth=5):
    """FCN-8s (Long et al. 2015) in PyTorch: parameters by name, x (N, H, W, C)."""
    p = parameters

    def conv(name, x, padding=0, relu=False):
        return conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=padding, relu=relu)

    pooled = {}
    for level in range(depth):
        x = conv(f"contracting.{level}.first", x, 1, True)
        pooled[level + 1] = x = max_pool2d(conv(f"contracting.{level}.second", x, 1, True))
    y = conv(f"scores.{depth - 3}", conv("bottom.1", conv("bottom.0", x, 1, True), 0, True))
    for i, stride in enumerate(range(depth, 0, -1)):  # from 2^stride to half of it
        y = conv_transpose2d(y, p[f"up.{i}.weight"])
        if stride - 1 >= 3:
            y = y + conv(f"scores.{stride - 4}", pooled[stride - 1])
    return y


def torch_sliding_window(parameters, x, *, depth=4):
    """The pixel classifier (Ciresan et al. 2012) on windows: parameters by name, x (N, window, window, C)."""
    p = parameters

    def conv(name, x, relu=True):
        return conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], relu=relu)

    for level in range(depth):
        x = max_pool2d(conv(f"convolutions.{level}", x))
    return conv("scores", conv("hidden", x), relu=False)


def torch_twin(model, parameters, x, **options):
    """The scores that PyTorch computes for x with the network's parameters."""
    if isinstance(model, tu.FCN):
        return torch_fcn(parameters, x, depth=model.depth)
    if isinstance(model, tu.SlidingWindowClassifier):
        return torch_sliding_window(parameters, x, depth=model.depth)
    return torch_unet(parameters, x, depth=model.depth, padding=model.padding, **options)


def randomised(model, seed=0):
    """Fill the parameters that start at 0 with random numbers, so that forgetting one is noticed."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        if not parameter.numpy().any():
            parameter.data[...] = to_backend(0.3 * rng.standard_normal(parameter.shape), parameter.dtype)
    return model


def assert_network_equals_torch(model, size, batch=2, **options):
    """Compare scores, loss, the gradient of each parameter by name, and the gradient of the image."""
    rng = np.random.default_rng(1)
    dtype = model.parameters()[0].dtype
    image = rng.standard_normal((batch, *size, model.in_channels)).astype(dtype)
    weights, theirs = torch_parameters(model), torch.tensor(image, requires_grad=True)
    expected = torch_twin(model, weights, theirs, **options)
    target = rng.integers(0, model.num_classes, expected.shape[:3])

    ours = tu.Tensor(image, requires_grad=True)
    scores = model(ours)
    assert_close(scores.data, expected.detach().numpy(), "scores")
    tu.softmax_cross_entropy(scores, target).backward()
    TORCH["softmax_cross_entropy"](expected, target).backward()
    assert_close(ours.grad, theirs.grad.numpy(), "image", 10 * TOLERANCE[dtype])
    for name, parameter in model.named_parameters():
        expected = weights[name].grad.numpy()
        if np.abs(expected).max() < np.finfo(dtype).eps:  # 0 but for rounding: a bias that is normalised away
            assert np.abs(parameter.grad).max() < np.finfo(dtype).eps, name
        else:
            assert_close(parameter.grad, expected, name, 10 * TOLERANCE[dtype])


def as_float64(model):
    """Convert parameters and buffers to float64, for narrow tolerances. Returns the model."""
    for tensor in (*model.parameters(), *(buffer for _, buffer in model.named_buffers())):
        tensor.data = tensor.data.astype(np.float64)
    return model
