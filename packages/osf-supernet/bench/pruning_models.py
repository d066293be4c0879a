"""The two networks that `compare_pruning.py` prunes, written as a user would, and their data.

B batch, N images, T tokens, H heads, D width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class ConvBlock(nn.Module):
    """Two convolutions with a residual path around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) → (B, outputs, h / stride, w / stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ConvNet(nn.Module):
    """A small ResNet: three stages of three blocks."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96), blocks: int = 3) -> None:
        super().__init__()
        stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU())
        layers, inputs = [], widths[0]
        for stage, width in enumerate(widths):
            for index in range(blocks):
                layers.append(ConvBlock(inputs, width, 2 if stage and not index else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) → logits (B, 10)."""
        return self.head(self.layers(self.stem(images)).mean((2, 3)))


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*qkv.unbind(0))  # (B, H, T, D / H)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, -1))


class Block(nn.Module):
    """Attention and MLP before each of which stands a norm."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A small vision transformer with mean pooling."""

    def __init__(self, width: int = 64, depth: int = 6, num_heads: int = 4, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (32 // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 32, 32) → logits (B, 10)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions  # (B, T, D)
        return self.head(self.norm(self.blocks(x)).mean(1))


MODELS = {"cnn": ConvNet, "vit": ViT}


HELD_OUT = 50
"""Every so many-th training image is not trained on."""


class Images:
    """CIFAR-10 from class folders: batches as a function of the step, `held_out` and `val`."""

    def __init__(self, folder: Path, cache: Path, batch_size: int, seed: int = 0) -> None:
        images, labels = _read(folder / "train", cache / "train.pt")
        is_held_out = torch.arange(len(labels)) % HELD_OUT == 0
        self.held_out = images[is_held_out], labels[is_held_out]
        self.train = images[~is_held_out], labels[~is_held_out]
        self.val = _read(folder / "val", cache / "val.pt")
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Shifted and flipped images (B, 3, 32, 32), and labels (B,)."""
        images, labels = self.train
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        rows = torch.randint(len(labels), (self.batch_size,), generator=generator)
        top, left, flip = torch.randint(9, (3, self.batch_size, 1), generator=generator)
        down, across = top + torch.arange(32), left + torch.arange(32)
        across = torch.where(flip % 2 == 1, across.flip(1), across)
        padded = F.pad(normalized(images[rows]), (4, 4, 4, 4))
        each = torch.arange(self.batch_size)[:, None, None]
        pixels = padded[each, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)
        return pixels.contiguous(), labels[rows]

    def accuracy(self, model: nn.Module, part: tuple[Tensor, Tensor] | None = None) -> float:
        """On images and labels, the whole of `val` unless others are given; in percent."""
        images, labels = part or self.val
        model.eval()
        with torch.no_grad():
            found = torch.cat([model(normalized(few)).argmax(-1) for few in images.split(500)])
        return 100 * float((found == labels).double().mean())


def normalized(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) to float."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def _read(folder: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 3, 32, 32) and labels (N,), class folders in alphabetical order."""
    if not cache.exists():
        images, labels = [], []
        for label, directory in enumerate(sorted(p for p in folder.iterdir() if p.is_dir())):
            for path in sorted(directory.iterdir()):
                images.append(np.asarray(Image.open(path).convert("RGB")))
                labels.append(label)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save((pixels, torch.tensor(labels)), cache)
    loaded: tuple[Tensor, Tensor] = torch.load(cache)
    return loaded
