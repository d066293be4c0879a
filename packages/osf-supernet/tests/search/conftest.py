"""A small network of three blocks of different widths."""

from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, ratios, sizes
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for width in (16, 32, 64))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    space = {"mlp": ratios(0.25, 0.5, 0.75, 1), "depth": sizes(1, 2, 3)}
    return Supernet(Net().double(), torch.randn(2, 8, dtype=torch.float64), space)
