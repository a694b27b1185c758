"""The authors' weights, in files that are made here: the network computes what PyTorch computes with them."""

import struct

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tinyunet as tu
from tinyunet.errors import CheckpointError
from tinyunet.exchange.start import read_start
from tinyunet.models import make_network


def layers_of(depth, width=2, channels=1, classes=2, last=None):
    """Names, weights and biases, from the input to the scores; `last`: the width of the last level."""
    rng = np.random.default_rng(0)

    def layer(*shape, outputs):
        fan_in = np.prod(shape[1:]) if shape[0] == outputs else 4 * shape[0]
        weight = rng.normal(0, np.sqrt(2 / fan_in), shape)
        return [weight.astype(np.float32), rng.normal(0, 0.1, outputs).astype(np.float32)]

    widths, layers = [width * 2**level for level in range(depth + 1)], {}
    before = channels
    for level, after in enumerate(widths):
        layers[f"conv_d{level}a-b"] = layer(after, before, 3, 3, outputs=after)
        layers[f"conv_d{level}b-c"] = layer(after, after, 3, 3, outputs=after)
        before = after
    for level in reversed(range(depth)):
        after = widths[level] if level else last or widths[0]
        up = widths[max(level, 1)] if depth > 1 or not level else widths[level]
        source = f"d{level + 1}c" if level == depth - 1 else f"u{level + 1}d"
        layers[f"upconv_{source}_u{level}a"] = layer(before, up, 2, 2, outputs=up)
        suffix = "" if level else "_New"  # as in the authors' file
        layers[f"conv_u{level}b-c{suffix}"] = layer(after, up + widths[level], 3, 3, outputs=after)
        layers[f"conv_u{level}c-d{suffix}"] = layer(after, after, 3, 3, outputs=after)
        before = after
    layers["conv_u0d-score_New"] = layer(classes, before, 1, 1, outputs=classes)
    return layers


def expected(layers, images, depth):
    """Scores in float64: valid convolutions, ReLUs also after up-convolutions, [up-sampled, cropped skip]."""
    layers = {name: [torch.tensor(a).double() for a in arrays] for name, arrays in layers.items()}
    x, skips = torch.tensor(images).double().permute(0, 3, 1, 2), []
    for level in range(depth + 1):
        x = F.max_pool2d(x, 2) if level else x
        for part in ("a-b", "b-c"):
            x = F.relu(F.conv2d(x, *layers[f"conv_d{level}{part}"]))
        skips.append(x)
    skips.pop()
    for level in reversed(range(depth)):
        [name] = [name for name in layers if name.startswith("upconv") and name.endswith(f"_u{level}a")]
        x = F.relu(F.conv_transpose2d(x, *layers[name], stride=2))
        skip = skips.pop()
        lost = (skip.shape[2] - x.shape[2]) // 2
        skip = skip[:, :, lost : lost + x.shape[2], lost : lost + x.shape[3]]
        x = torch.cat([x, skip], dim=1)
        for part in ("b-c", "c-d"):
            [name] = [name for name in layers if name.startswith(f"conv_u{level}{part}")]
            x = F.relu(F.conv2d(x, *layers[name]))
    return F.conv2d(x, *layers["conv_u0d-score_New"]).permute(0, 2, 3, 1).numpy()


def varint(value):
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])


def entry(number, content):
    """A field of bytes, as protobuf's description of its format has it."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def caffemodel(layers, *, legacy=False, slope=0.0):
    def blob(array):
        if legacy:  # four sides in place of a shape
            sides = [1] * (4 - array.ndim) + list(array.shape)
            shape = b"".join(varint(n << 3) + varint(side) for n, side in enumerate(sides, 1))
        else:
            shape = entry(7, entry(1, b"".join(map(varint, array.shape))))
        return entry(5, array.tobytes()) + shape

    relu = entry(1, b"relu_d0b") + entry(2, b"ReLU")
    if slope:
        relu += entry(123, varint(1 << 3 | 5) + struct.pack("<f", slope))
    content = entry(1, b"phseg") + entry(100, relu)
    for name, arrays in layers.items():
        blobs = b"".join(entry(7, blob(array)) for array in arrays)
        content += entry(100, entry(1, name.encode()) + entry(2, b"Convolution") + blobs)
    return content


def write(path, layers, **options):
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_group("data/relu_d0b")
            for name, arrays in layers.items():
                for number, array in enumerate(arrays):
                    file[f"data/{name}/{number}"] = array
    else:
        path.write_bytes(caffemodel(layers, **options))
    return path


@pytest.mark.parametrize(
    ("name", "options"), [("a.caffemodel", {}), ("a.caffemodel", {"legacy": True}), ("a.caffemodel.h5", {})]
)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_same_scores_as_pytorch(tmp_path, name, options, depth):
    """To 1e-6 of the largest: float32 against float64."""
    layers = layers_of(depth, channels=2, classes=3)
    start = read_start(write(tmp_path / name, layers, **options))
    assert (start.network["variant"], start.network["depth"]) == ("release", depth)
    model = make_network(**start.network)
    assert start.load_into(model, start.network) == []
    model.eval()
    side = model.geometry.smallest
    images = np.random.default_rng(1).standard_normal((1, side, side + 16, 2), dtype=np.float32)
    theirs = expected(layers, images, depth)
    with tu.no_grad():
        found = model(tu.Tensor(images)).numpy()
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


SUFFIXES = [".caffemodel", ".caffemodel.h5"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_networks_are_refused(tmp_path, suffix):
    layers = layers_of(2)
    nan = {**layers, "conv_d0b-c": [layers["conv_d0b-c"][0] * np.float32(np.nan), layers["conv_d0b-c"][1]]}
    broken = {
        "Fiji plugin": layers_of(2, last=4),
        "not the authors' U-Net": {"fc6": layers["conv_d0a-b"]},
        "contracting.1.first": {k: v for k, v in layers.items() if k != "conv_d1a-b"},
        "scores.bias": {**layers, "conv_u0d-score_New": layers["conv_u0d-score_New"][:1]},
        "fc6": {**layers, "fc6": layers["conv_d0a-b"]},
        "not finite": nan,
    }
    for words, other in broken.items():
        path = write(tmp_path / f"a{suffix}", other)
        with pytest.raises(CheckpointError, match=r"a\.caffemodel") as error:
            read_start(path)
        assert words in str(error.value)


def test_leaky_relus_are_refused(tmp_path):
    path = write(tmp_path / "a.caffemodel", layers_of(2), slope=0.1)
    with pytest.raises(CheckpointError, match="leaky"):
        read_start(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", layers_of(2))
    whole = path.read_bytes()
    for length in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"a\.caffemodel"):
            read_start(path)


def test_what_lies_outside_of_an_hdf5_file_is_not_read(tmp_path):
    """Links into other files, and arrays that are kept there."""
    good, path = write(tmp_path / "good.caffemodel.h5", layers_of(2)), tmp_path / "a.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file["data"] = h5py.ExternalLink(good.name, "data")
    with pytest.raises(CheckpointError, match="link"):
        read_start(path)
    write(path, layers_of(2))
    with h5py.File(path, "a") as file:
        del file["data/conv_d0a-b/1"]
        (tmp_path / "outside").write_bytes(bytes(8))
        file.create_dataset("data/conv_d0a-b/1", (2,), "f4", external=[(str(tmp_path / "outside"), 0, 8)])
    with pytest.raises(CheckpointError, match="no array of numbers in this file"):
        read_start(path)
    with h5py.File(path, "a") as file:
        del file["data/conv_d0a-b/1"]
        file.create_dataset("data/conv_d0a-b/1", (10**9,), "f4", chunks=(10**6,))  # none is stored
    with pytest.raises(CheckpointError, match="unpacks"):
        read_start(path)
