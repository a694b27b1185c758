"""The U-Net of `tinyunet.UNet`, written in PyTorch: the same layers, the same sizes."""

from __future__ import annotations

import torch
from torch import nn


class DoubleConv(nn.Sequential):
    """Two valid 3×3 convolutions, each followed by a ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3),
            nn.ReLU(inplace=True),
        )


class TorchUNet(nn.Module):
    """The paper's network, images and scores in the axes (N, C, H, W)."""

    def __init__(self, base_channels: int, in_channels: int = 1, num_classes: int = 2, depth: int = 4):
        super().__init__()
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            DoubleConv(before, after) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for below, here in pairs)
        self.expansive = nn.ModuleList(DoubleConv(2 * here, here) for _, here in pairs)
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
