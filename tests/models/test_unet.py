"""The network: its parameters, its agreement with a U-Net in PyTorch, its initialisation, its errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import (
    as_float64,
    assert_close,
    assert_network_equals_torch,
    randomised,
    torch_parameters,
    torch_unet,
)

import tinyunet as tu
from tinyunet.errors import OptionError, ShapeError
from tinyunet.ops.targets import checked_pixels


@pytest.mark.parametrize(("variant", "count"), [("paper", 31_030_658), ("release", 31_100_354)])
def test_parameter_counts(variant, count):
    model = tu.UNet(variant=variant)
    assert sum(parameter.data.size for parameter in model.parameters()) == count
    convolutions = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    assert len(convolutions) == 23


def test_parameter_names_and_shapes():
    shapes = {
        name: array.shape for name, array in tu.UNet(2, 3, base_channels=4, depth=1).state_dict().items()
    }
    assert shapes == {
        "contracting.0.first.weight": (3, 3, 2, 4),
        "contracting.0.first.bias": (4,),
        "contracting.0.second.weight": (3, 3, 4, 4),
        "contracting.0.second.bias": (4,),
        "contracting.1.first.weight": (3, 3, 4, 8),
        "contracting.1.first.bias": (8,),
        "contracting.1.second.weight": (3, 3, 8, 8),
        "contracting.1.second.bias": (8,),
        "up.0.weight": (2, 2, 8, 4),
        "up.0.bias": (4,),
        "expansive.0.first.weight": (3, 3, 8, 4),
        "expansive.0.first.bias": (4,),
        "expansive.0.second.weight": (3, 3, 4, 4),
        "expansive.0.second.bias": (4,),
        "scores.weight": (1, 1, 4, 3),
        "scores.bias": (3,),
    }


def test_release_keeps_the_channels_of_the_last_up_convolution():
    shapes = {
        k: v.shape for k, v in tu.UNet(base_channels=4, depth=2, variant="release").state_dict().items()
    }
    assert shapes["up.0.weight"] == (2, 2, 16, 8)
    assert shapes["up.1.weight"] == (2, 2, 8, 8)
    assert shapes["expansive.1.first.weight"] == (3, 3, 12, 4)


@pytest.mark.parametrize(
    ("depth", "padding", "size"),
    [
        (0, "valid", (9, 14)),
        (0, "same", (7, 5)),
        (1, "valid", (20, 26)),
        (2, "valid", (44, 52)),
        (3, "same", (24, 40)),
        (4, "valid", (188, 204)),
        (4, "same", (32, 48)),
    ],
)
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_equals_a_u_net_in_torch(backend, variant, depth, padding, size):
    options = {"depth": depth, "padding": padding, "variant": variant}
    model = tu.UNet(3, 4, base_channels=3, dropout=0, **options)
    assert_network_equals_torch(
        as_float64(randomised(model)), size, batch=1 if depth == 4 else 2, variant=variant
    )


@pytest.mark.parametrize(("depth", "padding", "size"), [(2, "valid", (44, 52)), (3, "same", (24, 40))])
@pytest.mark.parametrize("training", [False, True])
def test_equals_a_normalised_u_net_in_torch(backend, training, depth, padding, size):
    """In prediction the buffers' statistics are in the convolutions' weights, which get no gradient."""
    model = tu.UNet(
        3, 4, base_channels=3, depth=depth, padding=padding, dropout=0, normalisation="batch"
    ).train(training)
    rng = np.random.default_rng(2)
    for name, buffer in model.named_buffers():
        buffer.data[:] = rng.uniform(0.5, 2, buffer.shape) if name.endswith("variance") else rng.normal()
    as_float64(randomised(model))
    if training:
        assert_network_equals_torch(model, size)
        return
    image = rng.standard_normal((2, *size, 3))
    expected = torch_unet(
        torch_parameters(model), torch.tensor(image), depth=depth, padding=padding, training=False
    )
    assert_close(model(tu.Tensor(image)).data, expected.detach().numpy())


def test_normalisation_costs_a_number_per_channel():
    """A scale and a shift in place of each bias of the 3×3 convolutions; and the same initial weights."""
    plain, normalised = (tu.UNet(base_channels=4, depth=2, normalisation=n) for n in ("none", "batch"))
    weights = dict(plain.named_parameters())
    biases = [name for name in weights if name.endswith("bias") and not name.startswith(("up", "scores"))]
    channels = sum(weights[name].data.size for name in biases)
    sizes = [sum(p.data.size for p in model.parameters()) for model in (plain, normalised)]
    assert sizes[1] - sizes[0] == channels
    assert normalised.multiplications(60, 44) == plain.multiplications(60, 44)
    for name, parameter in normalised.named_parameters():
        if name.endswith("weight"):
            np.testing.assert_array_equal(parameter.data, weights[name].data)


def test_equals_a_u_net_in_torch_in_float32(backend):
    """The tolerance of the gradients is ten times that of one op: twelve layers lie between the ends."""
    assert_network_equals_torch(randomised(tu.UNet(base_channels=8, depth=2, dropout=0)), (60, 52))


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    depth=st.integers(0, 2),
    padding=st.sampled_from(["valid", "same"]),
    channels=st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3)),
)
def test_any_size_works_or_is_refused_as_geometry_says(height, width, depth, padding, channels):
    model = tu.UNet(*channels, depth=depth, padding=padding, dropout=0)
    x = tu.Tensor(np.zeros((1, height, width, channels[0]), np.float32))
    with tu.use_backend("numpy"):
        if model.geometry.takes(height) and model.geometry.takes(width):
            expected = tuple(model.geometry.output_size(side) for side in (height, width))
            assert model(x).shape == (1, *expected, channels[1])
        else:
            with pytest.raises(
                ShapeError, match=str(height) if not model.geometry.takes(height) else str(width)
            ):
                model(x)


def test_gradients_equal_finite_differences():
    """The whole network as one function of its image and one of its weights."""
    model = as_float64(randomised(tu.UNet(base_channels=2, depth=1, dropout=0)))
    x = tu.Tensor(np.random.default_rng(2).standard_normal((1, 20, 20, 1)), requires_grad=True)
    weight = model.contracting[0].first.weight

    def network(x, w):
        model.contracting[0].first.weight = w
        return model(x)

    with tu.use_backend("numpy"):
        assert tu.gradcheck(network, [x, weight])


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_activations_keep_their_size_at_the_start(wrap_op, padding, variant):
    """No signal vanishes or explodes on its way through the 23 layers of the initial network.

    Section 3 of the paper wants unit variance in every map, and draws weights of variance 2/N for it: a
    convolution then gives 2 E[x²], of which the ReLU leaves half. Noise of variance 1 goes in, and the mean
    square before a ReLU is near 2 in the first level. A max-pool takes the largest of four, which about
    doubles it: it rises to 34 (padded) and 46 (valid) at the bottom, and falls again on the way up, where
    skips of higher levels are mixed in. With a variance half as large, 18 layers would leave 2^-18 of it.
    """
    squares = []

    def watch(op):
        def watched(x, weight, bias, **options):
            relu = options.pop("relu")
            y = op(x, weight, bias, **options)
            squares.append(float((y.data**2).mean()))
            return tu.relu(y) if relu else y

        return watched

    for name in ("conv2d", "conv_transpose2d"):
        wrap_op(name, watch)
    model = tu.UNet(base_channels=16, padding=padding, variant=variant).eval()
    size = 188 if padding == "valid" else 96
    noise = np.random.default_rng(0).standard_normal((1, size, size, 1)).astype(np.float32)
    with tu.no_grad():
        model(tu.Tensor(noise))
    assert len(squares) == 23
    np.testing.assert_allclose(squares[:2], 2, rtol=0.3)  # only 16 channels, whose variances differ
    assert min(squares) > 1
    assert max(squares) < 100


def test_dropout_only_in_training():
    x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 16, 16, 1)).astype(np.float32))
    model = tu.UNet(base_channels=4, depth=2, padding="same")
    assert not np.array_equal(model(x).data, model(x).data)
    model.eval()
    still = model(x).data
    np.testing.assert_array_equal(still, model(x).data)
    without = tu.UNet(base_channels=4, depth=2, padding="same", dropout=0)
    np.testing.assert_array_equal(still, without(x).data)
    np.testing.assert_array_equal(still, without.eval()(x).data)


def test_dropout_is_at_the_end_of_the_contracting_path(wrap_op):
    """After the second convolution of the last two levels; the skip of the last but one carries it."""
    dropped, skips = [], []

    def dropout(x, p, rng):
        dropped.append((x.shape, p))
        return tu.Tensor(np.full(x.shape, 7.0, np.float32))

    def crop_concat(upsampled, skip):
        skips.append(bool((skip.data == 7).all()))
        return tu.crop_concat(upsampled, skip)

    wrap_op("dropout", lambda op: dropout)
    wrap_op("crop_concat", lambda op: crop_concat)
    tu.UNet(base_channels=2, depth=3, padding="same", dropout=0.3)(
        tu.Tensor(np.zeros((1, 16, 24, 1), np.float32))
    )
    assert dropped == [((1, 4, 6, 8), 0.3), ((1, 2, 3, 16), 0.3)]
    assert skips == [True, False, False]


def test_the_seed_determines_the_weights_and_the_dropout():
    x = tu.Tensor(np.ones((1, 16, 16, 1), np.float32))
    one, same, other = (tu.UNet(base_channels=4, depth=2, padding="same", seed=s) for s in (1, 1, 2))
    for name, array in one.state_dict().items():
        np.testing.assert_array_equal(array, same.state_dict()[name])
    first = one(x).data
    np.testing.assert_array_equal(first, same(x).data)
    assert not np.array_equal(one.scores.weight.data, other.scores.weight.data)
    other.load_state_dict(one.state_dict())
    assert not np.array_equal(first, other(x).data)
    np.testing.assert_array_equal(one.eval()(x).data, other.eval()(x).data)


def test_inputs_that_do_not_fit():
    model = tu.UNet(in_channels=3, base_channels=2)
    with pytest.raises(ShapeError, match=r"200(?s:.)*188(?s:.)*204"):
        model(tu.Tensor(np.zeros((1, 188, 200, 3), np.float32)))
    with pytest.raises(ShapeError, match=r"\(1, 188, 188, 1\)"):
        model(tu.Tensor(np.zeros((1, 188, 188, 1), np.float32)))
    with pytest.raises(ShapeError, match=r"\(188, 188, 3\)"):
        model(tu.Tensor(np.zeros((188, 188, 3), np.float32)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("in_channels", 0),
        ("num_classes", 1),
        ("base_channels", 0),
        ("depth", -1),
        ("padding", "reflect"),
        ("dropout", 1),
        ("dropout", -0.1),
        ("variant", "modern"),
    ],
)
def test_options_outside_their_range(option, value):
    with pytest.raises(OptionError, match=f"{option} is {value!r}"):
        tu.UNet(**{option: value})


@pytest.mark.parametrize(
    ("depth", "padding", "sides"), [(0, "valid", (9, 6)), (2, "valid", (60, 44)), (2, "same", (24, 4))]
)
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_multiplications_are_those_of_the_ops(count_multiplications, variant, depth, padding, sides):
    model = tu.UNet(3, base_channels=5, depth=depth, padding=padding, variant=variant)
    assert model.multiplications(*sides) == count_multiplications(model, *sides)


def test_multiplications_of_the_paper():
    """From the sides in figure 1 of the paper: 150 billion for a tile of 572 pixels."""
    convolved = [570, 568, 282, 280, 138, 136, 66, 64, 30, 28], [54, 52, 102, 100, 198, 196, 390, 388]
    channels = [1, 64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    back = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    up = [(28, 1024, 512), (52, 512, 256), (100, 256, 128), (196, 128, 64)]
    by_hand = (
        sum(n**2 * 9 * c * f for n, c, f in zip(convolved[0], channels, channels[1:], strict=False))
        + sum(n**2 * 9 * c * f for n, (c, f) in zip(convolved[1], back, strict=True))
        + sum(n**2 * 4 * c * f for n, c, f in up)
        + 388**2 * 64 * 2
    )
    assert tu.UNet().multiplications(572, 572) == by_hand == 150_428_424_448


def test_the_loss_of_a_subclass_is_that_of_its_own_forward():
    """It is not that of the features, which a forward of its own may bypass."""

    class Twice(tu.UNet):
        def forward(self, x):
            return tu.add(super().forward(x), super().forward(x))

    model = randomised(Twice(base_channels=4, depth=1, dropout=0))
    x = tu.Tensor(np.random.default_rng(0).standard_normal((1, 20, 20, 1), dtype=np.float32))
    target = np.zeros(model(x).shape[:3], int)
    expected = tu.softmax_cross_entropy(model(x), target)
    assert model.loss(x, *checked_pixels("test", target, None, 2)).item() == expected.item()
