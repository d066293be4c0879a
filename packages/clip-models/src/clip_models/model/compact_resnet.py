"""A small convolutional tower for small images. B batch, C channels, S image side."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.config.towers import CompactResNetConfig


class ConvNorm(nn.Module):
    """3x3 convolution, optional 2x2 max pooling, batch normalization, GELU."""

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, C', S, S), or half the side with `pool`."""
        x = self.conv(x)
        if self.pool:
            x = F.max_pool2d(x, 2)
        return F.gelu(self.bn(x))


class Stage(nn.Module):
    """Halve the side, change the channels, then one residual block."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.down = ConvNorm(in_channels, out_channels, pool=True)
        self.block1 = ConvNorm(out_channels, out_channels, pool=False)
        self.block2 = ConvNorm(out_channels, out_channels, pool=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, C', S/2, S/2)."""
        x = self.down(x)
        return x + self.block2(self.block1(x))


class CompactResNet(nn.Module):
    """Images to features by a strided stem, halving residual stages and a linear layer."""

    def __init__(self, config: CompactResNetConfig, embed_dim: int) -> None:
        super().__init__()
        self.image_sides = config.image_sides
        self.pooling = config.pooling
        self.stem = nn.Sequential(
            nn.Conv2d(3, config.widths[0], 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(config.widths[0]),
            nn.GELU(),
        )
        pairs = zip(config.widths[:-1], config.widths[1:], strict=True)
        self.stages = nn.Sequential(*(Stage(narrow, wide) for narrow, wide in pairs))
        rows, columns = (side // 2 ** len(config.widths) for side in config.image_sides)
        places = rows * columns if config.pooling == "flatten" else 1
        features = config.widths[-1] * places
        self.proj = nn.Linear(features, embed_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) to features (B, embed_dim)."""
        if self.pooling == "flatten" and images.shape[2:] != self.image_sides:
            height, width = self.image_sides
            raise ValueError(
                f"pooling 'flatten' reads images of {height} x {width}, got "
                f"{tuple(images.shape)}; resize them, or use pooling 'max'"
            )
        x = self.stages(self.stem(images))  # (B, C, S/2ᵏ, S/2ᵏ) with k widths
        x = x.flatten(1) if self.pooling == "flatten" else x.amax(dim=(2, 3))  # (B, ·)
        return self.proj(x)  # (B, embed_dim)
