"""Small networks around one operator or one habit of a forward: elastic, and exactly right."""

from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, count_parameters, ratios
from osf_supernet.graph import build_graph
from osf_supernet.subnets.comparison import run
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64)
ROWS = torch.randn(2, 5, 12, dtype=torch.float64)


class Einsums(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(12, 4, 6)) for _ in range(3))
        self.out = nn.Parameter(torch.randn(4, 6, 12))

    def forward(self, x):
        q, k, v = (torch.einsum("btd,dhe->bthe", x, w) for w in (self.q, self.k, self.v))
        scores = torch.einsum("bthe,bshe->bhts", q, k).softmax(-1)
        return torch.einsum("bthe,hed->btd", torch.einsum("bhts,bshe->bthe", scores, v), self.out)


class TransposedLinear(nn.Module):
    """As GPT-2's: the weight is (in, out), and the forward asks an integer for the width."""

    def __init__(self, width, result):
        super().__init__()
        self.nf = result
        self.weight = nn.Parameter(torch.randn(width, result))
        self.bias = nn.Parameter(torch.randn(result))

    def forward(self, x):
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view(*x.shape[:-1], self.nf)


class TransposedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.up, self.down = TransposedLinear(24, 48), TransposedLinear(48, 24)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class WholeRotation(nn.Module):
    """A rotary part that is everything leaves an empty rest."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x):
        y = self.up(x)
        turned, rest = y[..., : y.shape[-1]], y[..., y.shape[-1] :]
        return self.down(torch.cat([turned.sin(), rest], -1))


class ShapedAsInput(nn.Module):
    """A convolution whose result is given the shape of its input."""

    def __init__(self):
        super().__init__()
        self.stem, self.reduce = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 2, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.reduce(x).reshape(x.shape[0], x.shape[1], -1).transpose(1, 2))


NETS = {
    "einsum": (Einsums, ROWS, {"heads": 1, "head_dim": 1}),
    "conv_transpose2d": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 2, 2),
            nn.Hardswish(),
            nn.Conv2d(8, 2, 1),
        ),
        IMAGES,
        {"channel": 2},
    ),
    "glu": (
        lambda: nn.Sequential(
            nn.Linear(12, 32), nn.GLU(), nn.Linear(16, 8), nn.LogSigmoid(), nn.Linear(8, 3)
        ),
        ROWS,
        {"mlp": 2},
    ),
    "prelu": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.PReLU(16), nn.Conv2d(16, 2, 1)),
        IMAGES,
        {"channel": 1},
    ),
    "transposed linear": (
        lambda: nn.Sequential(
            nn.Linear(12, 24), TransposedBlock(), TransposedBlock(), nn.Linear(24, 5)
        ),
        ROWS,
        {"mlp": 2, "embed": 1},
    ),
    "empty slice": (WholeRotation, ROWS, {"mlp": 1}),
    "shape of the input": (ShapedAsInput, IMAGES, {"channel": 1}),
    "norm in an MLP": (
        lambda: nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 5)),
        ROWS,
        {"mlp": 1},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_every_size_of(name):
    make, inputs, kinds = NETS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    net = Supernet(model, inputs, {kind: ratios(0.25, 0.5, 1) for kind in kinds})
    elastic = [group.kind for group in net.graph.elastic()]
    assert {kind: elastic.count(kind) for kind in kinds} == kinds, net.explain()
    ones = dict.fromkeys(net.choices, 1)
    for config in (net.smallest, net.sample(seed=0), ones):
        small = net.extract(config)
        assert count_parameters(small) == net.parameters_of(config)
        with FlopCounterMode(display=False) as counter:
            run(small, inputs)
        assert counter.get_total_flops() == net.flops_of(config)


class Windowed(nn.Module):
    """As Swin: a call with a small input changes an integer for good."""

    def __init__(self):
        super().__init__()
        self.window = 4
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x):
        self.window = min(self.window, x.shape[1])
        return self.down(F.gelu(self.up(x - x[:, : self.window].mean(1, keepdim=True))))


def test_a_call_that_changes_the_modules_integers_between_two_checks():
    model = Windowed().double()
    net = Supernet(model, ROWS[:, :3], more_inputs=[ROWS])
    net.extract(net.smallest)
    model(ROWS[:, :3])
    assert model.window == 3
    net.extract(net.smallest)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


def test_a_stage_that_is_one_residual_path_is_not_left_out_beside_its_blocks():
    head = nn.Sequential(nn.Linear(12, 12), nn.ReLU())
    stages = nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block(), Block()), head)
    graph = build_graph(stages.double(), ROWS)
    assert {path: len(units) for path, units in graph.units.items()} == {"0": 2, "1": 2}
    assert graph.refused[""].endswith("blocks can be left out instead")
