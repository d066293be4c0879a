"""CLIP's ResNet (Radford et al. 2021, section 2.4). B batch, C channels, S image side.

Differences to torchvision's ResNet: a stem of three convolutions with average pooling, an average
pooling in front of every strided convolution, and attention pooling at the end. Parameter names
are OpenAI CLIP's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.config.towers import ModifiedResNetConfig
from clip_models.positions import Grid, resize_grid


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut; the stride is an average pooling."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(in_channels, out_channels, 1, bias=False)),
                        ("1", nn.BatchNorm2d(out_channels)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, C', S/stride, S/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(self.avgpool(x)))
        return F.relu(x + shortcut)


class AttentionPool(nn.Module):
    """One attention query, the mean of all positions, over the feature map."""

    def __init__(self, grid: Grid, width: int, num_heads: int, out_features: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.grid = grid
        self.positional_embedding = nn.Parameter(
            torch.randn(grid[0] * grid[1] + 1, width) * width**-0.5
        )
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out_features)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, rows, columns) to (B, out_features)."""
        first, table = self.positional_embedding[:1], self.positional_embedding[1:]
        table = resize_grid(table, self.grid, (x.shape[2], x.shape[3]))
        x = x.flatten(2).transpose(1, 2)  # (B, G², C)
        mean = x.mean(dim=1, keepdim=True) + first  # (B, 1, C)
        x = torch.cat([mean, x + table], dim=1)
        head_width = x.shape[-1] // self.num_heads
        query, key, value = (
            projected.unflatten(2, (self.num_heads, head_width)).transpose(1, 2)  # (B, H, ·, C/H)
            for projected in (self.q_proj(mean), self.k_proj(x), self.v_proj(x))
        )
        pooled = F.scaled_dot_product_attention(query, key, value)  # (B, H, 1, C/H)
        return self.c_proj(pooled.flatten(1))


class ModifiedResNet(nn.Module):
    """Images to features by convolutions and attention pooling; total stride 32."""

    def __init__(self, config: ModifiedResNetConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        channels = width
        for index, blocks in enumerate(config.layers):
            stage = []
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(Bottleneck(channels, width * 2**index, stride))
                channels = width * 2**index * Bottleneck.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*stage))
        self.attnpool = AttentionPool(config.grid, channels, config.num_heads, embed_dim)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) to features (B, embed_dim)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        x = self.avgpool(x)  # (B, width, S/4, S/4)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        return self.attnpool(x)  # (B, embed_dim)
