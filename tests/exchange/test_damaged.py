"""Files of which some bytes were changed are read, or refused as a user's mistake is."""

import random
from contextlib import suppress

import h5py
import numpy as np
import pytest
import torch
from networks import with_statistics
from torch import nn

from tinyunet.errors import TinyUNetError
from tinyunet.exchange.bioimageio import About, write_package
from tinyunet.exchange.onnx import to_onnx
from tinyunet.exchange.record import Record
from tinyunet.exchange.start import read_start
from tinyunet.exchange.torch_names import torch_file
from tinyunet.models import make_network

NETWORK = {"model": "unet", "in_channels": 1, "num_classes": 2, "base_channels": 1, "depth": 1}


def write_onnx(path, model):
    path.write_bytes(to_onnx(model, Record(NETWORK).to_json()))


def write_zip(path, model):
    about = About("damaged", ("nobody",), "MIT", "None.", ("class 0", "class 1"))
    with path.open("wb") as file:
        write_package(file, model, np.eye(30)[..., None], about, Record(NETWORK).to_json())


def write_safetensors(path, model):
    path.write_bytes(torch_file(model.state_dict(), Record(NETWORK).to_json()))


def write_pth(path, model):
    layers = {
        "inc.double_conv.0": nn.Conv2d(1, 2, 3),
        "up1.up": nn.ConvTranspose2d(2, 1, 2),
        "outc.conv": nn.Conv2d(2, 2, 1),
    }
    torch.save({f"{k}.{n}": a for k, v in layers.items() for n, a in v.state_dict().items()}, path)


def write_hdf5(path, model):
    layers = {"conv_d0a-b": (1, 1, 3, 3), "conv_u0b-c": (1, 3, 3, 3), "conv_u0d-score": (2, 1, 1, 1)}
    with h5py.File(path, "w") as file:
        for name, shape in layers.items():
            file[f"data/{name}/0"] = np.ones(shape, np.float32)


def write_caffemodel(path, model):
    """One layer: its name, and a blob of a shape and numbers."""
    blob = bytes([0x2A, 36]) + bytes(36) + bytes([0x3A, 6, 0x0A, 4, 1, 1, 3, 3])
    layer = bytes([0x0A, 10]) + b"conv_d0a-b" + bytes([0x3A, len(blob)]) + blob
    path.write_bytes(bytes([0xA2, 0x06, len(layer)]) + layer)


WRITERS = {
    ".onnx": write_onnx,
    ".zip": write_zip,
    ".safetensors": write_safetensors,
    ".pth": write_pth,
    ".caffemodel": write_caffemodel,
    ".caffemodel.h5": write_hdf5,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_no_other_error(tmp_path, suffix):
    path, rng = tmp_path / f"model{suffix}", random.Random(0)
    WRITERS[suffix](path, with_statistics(make_network(**NETWORK)))
    whole = path.read_bytes()
    for _ in range(80):
        content = bytearray(whole)
        beginning = min(len(content), rng.choice([300, 3000, len(content)]))  # where the names are
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(beginning)] = rng.choice([0, 255, rng.randrange(256)])
        path.write_bytes(content if rng.random() < 0.8 else content[: rng.randrange(len(content))])
        with suppress(TinyUNetError):
            read_start(path)
