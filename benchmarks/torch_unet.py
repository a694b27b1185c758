"""The U-Net of `tinyunet.UNet`, written in PyTorch: the same layers, the same sizes."""

from __future__ import annotations

import torch
from torch import nn


class DoubleConv(nn.Sequential):
    """Two valid 3×3 convolutions, each followed by a ReLU, and by batch normalisation before it if asked."""

    def __init__(self, in_channels: int, out_channels: int, normalised: bool = False):
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers.append(nn.Conv2d(channels, out_channels, 3, bias=not normalised))
            layers += [nn.BatchNorm2d(out_channels)] if normalised else []
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class TorchUNet(nn.Module):
    """The paper's network, images and scores in the axes (N, C, H, W)."""

    def __init__(
        self,
        base_channels: int,
        in_channels: int = 1,
        num_classes: int = 2,
        depth: int = 4,
        normalised: bool = False,
    ):
        super().__init__()
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            DoubleConv(before, after, normalised)
            for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for below, here in pairs)
        self.expansive = nn.ModuleList(DoubleConv(2 * here, here, normalised) for _, here in pairs)
        self.scores = nn.Conv2d(base_channels, num_classes, 1)
        self.depth = depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to scores."""
        skips = []
        for level, block in enumerate(self.contracting):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            if self.training and level >= self.depth - 1:
                x = nn.functional.dropout(x, 0.5)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.expansive, strict=True):
            x, skip = up(x), skips.pop()
            top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
            x = block(torch.cat([x, skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]], dim=1))
        return self.scores(x)
