"""Weights of milesial/Pytorch-UNet: a network built as theirs computes what ours computes with them."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

import tinyunet as tu
from tinyunet.errors import CheckpointError, OptionError
from tinyunet.exchange import from_pickle
from tinyunet.exchange.start import read_start
from tinyunet.models import make_network


class Double(nn.Module):
    def __init__(self, before, after, bias):
        super().__init__()
        layers = []
        for channels in (before, after):
            convolution = nn.Conv2d(channels, after, 3, padding=1, bias=bias)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, before, after, bias):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), Double(before, after, bias))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, before, after, bias):
        super().__init__()
        self.up = nn.ConvTranspose2d(before, after, 2, stride=2)
        self.conv = Double(before, after, bias)

    def forward(self, x, skip):
        return self.conv(torch.cat([skip, self.up(x)], dim=1))


class Out(nn.Module):
    def __init__(self, before, classes):
        super().__init__()
        self.conv = nn.Conv2d(before, classes, 1)

    def forward(self, x):
        return self.conv(x)


class Twin(nn.Module):
    """Make a network of four levels, as theirs, but narrow; with random statistics, and scores below 1."""

    def __init__(self, channels=3, classes=2, width=4, bias=False):
        super().__init__()
        torch.manual_seed(0)
        widths = [width * 2**level for level in range(5)]
        self.inc = Double(channels, widths[0], bias)
        for level in range(4):
            setattr(self, f"down{level + 1}", Down(widths[level], widths[level + 1], bias))
            setattr(self, f"up{level + 1}", Up(widths[4 - level], widths[3 - level], bias))
        self.outc = Out(width, classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for array in (module.weight, module.running_var):
                    nn.init.uniform_(array, 0.5, 2)
                for array in (module.bias, module.running_mean):
                    nn.init.normal_(array, std=0.3)
        self.eval()
        with torch.no_grad():
            largest = self(torch.randn(1, channels, 32, 32)).abs().max()
            for parameter in self.outc.parameters():
                parameter /= 2 * largest

    def forward(self, x):
        skips = [self.inc(x)]
        for level in range(1, 5):
            skips.append(getattr(self, f"down{level}")(skips[-1]))
        x = skips.pop()
        for level in range(1, 5):
            x = getattr(self, f"up{level}")(x, skips.pop())
        return self.outc(x)


def scores(path, images):
    start = read_start(path)
    model = make_network(**start.network)
    assert start.load_into(model, start.network) == []
    model.eval()
    with tu.no_grad():
        return model(tu.Tensor(images)).numpy()


def expected(twin, images):
    """In float64."""
    with torch.no_grad():
        return twin.double()(torch.tensor(images).double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def images_of(channels):
    return np.random.default_rng(1).standard_normal((1, 32, 48, channels), dtype=np.float32)


@pytest.mark.parametrize(
    ("options", "prefix", "more"),
    [
        ({}, "", {}),
        ({"channels": 1, "classes": 3}, "module.", {"mask_values": [0, 128, 255]}),
        ({"bias": True}, "", {"mask_values": [[0, 0, 0], [255, 0, 0]]}),  # of versions before 2021
    ],
)
def test_the_twin_computes_the_same(tmp_path, options, prefix, more):
    """To 1e-6, with scores below 1: float32 against float64."""
    twin = Twin(**options)
    weights = {prefix + name: array for name, array in twin.state_dict().items()}
    torch.save({**weights, **more}, tmp_path / "MODEL.pth")
    images = images_of(options.get("channels", 3))
    found, theirs = scores(tmp_path / "MODEL.pth", images), expected(twin, images)
    assert np.ptp(theirs) > 0.1  # not blind
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-6)


def test_one_score_with_a_sigmoid_becomes_two_classes(tmp_path):
    twin = Twin(classes=1)
    torch.save({"state_dict": twin.state_dict(), "epoch": 3}, tmp_path / "MODEL.pth")
    found, theirs = scores(tmp_path / "MODEL.pth", images_of(3)), expected(twin, images_of(3))
    difference = found[..., 1] - found[..., 0]
    np.testing.assert_allclose(
        1 / (1 + np.exp(-difference)), 1 / (1 + np.exp(-theirs[..., 0])), rtol=0, atol=1e-6
    )


def test_other_networks_are_refused_with_the_reason(tmp_path):
    weights = Twin().state_dict()
    without_up = {name: array for name, array in weights.items() if ".up." not in name}
    broken = {
        "bilinear": without_up,
        "version 1": {"inc.conv.conv.0.weight": torch.ones(4, 3, 3, 3)},
        "by the average": {"down_path.0.block.0.weight": torch.ones(4, 3, 3, 3)},
        "does not know": {"conv1.weight": torch.ones(4, 3, 3, 3)},
        "up1.up.bias": {name: array for name, array in weights.items() if name != "up1.up.bias"},
        "extra": {**weights, "extra": torch.ones(1)},
        "not finite": {**weights, "outc.conv.bias": torch.tensor([0, torch.nan])},
        "inc.double_conv": {**weights, "inc.double_conv.0.weight": torch.ones(4)},
    }
    for words, arrays in broken.items():
        torch.save(arrays, tmp_path / "MODEL.pth")
        with pytest.raises(CheckpointError, match=r"MODEL\.pth") as error:
            read_start(tmp_path / "MODEL.pth")
        assert words.replace("up1.up.bias", "up.0.bias") in str(error.value), str(error.value)


class Bad:
    """Leaves a file if it is read as pickles are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_runs_code_runs_nothing(tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "MODEL.pth"
    for save in (torch.save, lambda content, to: to.write_bytes(pickle.dumps(content))):
        save({"weight": torch.ones(1), "bad": Bad(ran)}, path)
        with pytest.raises(CheckpointError, match="can run code"):
            read_start(path)
        assert not ran.exists()


def test_files_without_arrays(tmp_path):
    path = tmp_path / "MODEL.pth"
    for content in ({"epoch": 3}, [1, 2], torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="no arrays"):
            read_start(path)
    torch.save(Twin().state_dict(), path)
    whole = path.read_bytes()
    for damaged in (b"", b"no pickle", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            read_start(path)
    torch.save({"mask_values": [np.float64(0)]}, path)  # as some of their files have it: the user decides
    with pytest.raises(CheckpointError, match="weights_only=False"):
        read_start(path)


def test_a_pytorch_that_can_be_deceived_is_not_used(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "MODEL.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(OptionError, match=r"2\.6"):
        from_pickle.read_pickle(tmp_path / "MODEL.pth")
