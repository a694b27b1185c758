"""The networks of tinyunet in PyTorch, for weights that `python -m tinyunet.export --format torch` writes.

    model = load("model.safetensors")
    probabilities = model(images).softmax(dim=1)    # images (N, C, H, W)

`save_file(model.state_dict(), "tuned.safetensors", model.metadata)` stores it so that tinyunet can read it.
Each channel of an image has mean 0 and variance 1, over the whole image.

Copy this file into your project: it needs PyTorch and safetensors only.
"""

import json

import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F


def load(path):
    """Make the network of a file, with its weights, ready to predict."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    network = json.loads(metadata["tinyunet"])["network"]
    kind = {"unet": UNet, "fcn": FCN}[network.pop("model", "unet")]
    model = kind(**network)
    model.load_state_dict(state)
    model.metadata = metadata
    return model.eval()


class DoubleConv(nn.Module):
    """Two 3×3 convolutions, each followed by a ReLU, with batch normalisation in between or without."""

    def __init__(self, in_channels, out_channels, padding, normalised=False):
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=padding, bias=not normalised)
        self.first_norm = nn.BatchNorm2d(out_channels) if normalised else nn.Identity()
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=padding, bias=not normalised)
        self.second_norm = nn.BatchNorm2d(out_channels) if normalised else nn.Identity()

    def forward(self, x):
        """(N, C, H, W) -> (N, F, H - 4, W - 4); padded: (N, F, H, W)."""
        x = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(x)))


class UNet(nn.Module):
    """The U-Net, options as in `tinyunet.UNet`."""

    def __init__(
        self,
        in_channels=1,
        num_classes=2,
        base_channels=64,
        depth=4,
        padding="valid",
        dropout=0.5,
        variant="paper",
        normalisation="none",
        seed=0,
    ):
        super().__init__()
        self.depth, self.dropout, self.release = depth, dropout, variant == "release"
        options = int(padding == "same"), normalisation == "batch"
        channels = [base_channels * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            DoubleConv(before, after, *options)
            for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        self.up, self.expansive = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(depth)):
            below, here = channels[level + 1], channels[level]
            upsampled = below if self.release and level == 0 else here
            self.up.append(nn.ConvTranspose2d(below, upsampled, 2, stride=2))
            self.expansive.append(DoubleConv(upsampled + here, here, *options))
        self.scores = nn.Conv2d(base_channels, num_classes, 1)

    def forward(self, x):
        """Images (N, C, H, W) to scores (N, K, H', W')."""
        skips = []
        for level, block in enumerate(self.contracting):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            if level >= self.depth - 1:
                x = F.dropout(x, self.dropout, self.training)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.expansive, strict=True):
            x, skip = up(x), skips.pop()
            x = F.relu(x) if self.release else x
            top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
            x = block(torch.cat([x, skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]], dim=1))
        return self.scores(x)


class FCN(nn.Module):
    """The FCN-8s, options as in `tinyunet.FCN`."""

    def __init__(self, in_channels=1, num_classes=2, base_channels=64, depth=5, dropout=0.5, seed=0):
        super().__init__()
        self.dropout = dropout
        channels = [base_channels * 2**level for level in range(depth)]
        self.contracting = nn.ModuleList(
            DoubleConv(before, after, padding=1)
            for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        bottom = channels[-1]
        self.bottom = nn.ModuleList([nn.Conv2d(bottom, bottom, 3, padding=1), nn.Conv2d(bottom, bottom, 1)])
        self.scores = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in channels[2:])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(num_classes, num_classes, 4, stride=2, padding=1, bias=False)
            for _ in range(depth)
        )

    def forward(self, x):
        """Images (N, C, H, W) to scores (N, K, H, W)."""
        pooled = []
        for block in self.contracting:
            x = F.max_pool2d(block(x), 2)
            pooled.append(x)
        for layer in self.bottom:
            x = F.dropout(F.relu(layer(x)), self.dropout, self.training)
        pooled[-1] = x
        scored = [layer(x) for layer, x in zip(self.scores, pooled[2:], strict=True)]
        y = scored.pop()
        for up in self.up:
            y = up(y)
            if scored:
                y = y + scored.pop()
        return y
