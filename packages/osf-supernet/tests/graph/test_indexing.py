"""Operators that pick, put, order and reshape: what they do not count along stays elastic."""

from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, count_parameters, ratios
from torch import nn
from torch.nn import functional as F

ROWS = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FIRST = torch.zeros(2, 1, 1, dtype=torch.long)
TURNED = torch.tensor([4, 3, 2, 1, 0])


class Around(nn.Module):
    """An operator between two layers, with a residual."""

    def __init__(self, operator):
        super().__init__()
        self.up, self.down, self.operator = nn.Linear(12, 32), nn.Linear(32, 4), operator

    def forward(self, x):
        return self.down(self.operator(self.up(x)))


def assign_all(h):
    z = torch.zeros_like(h)
    z[:] = h * 2
    return z


def assign_tokens(h):
    z = h.clone()
    z[:, 1:3] = z[:, 2:4] * 2
    return z


def assign_by_mask(h):
    h = h.clone()
    h[h < 0] = 0.1
    return h


def assign_by_number(h):
    h = h.clone()
    h[:, TURNED[:2]] = h[:, TURNED[2:4]]
    return h


def add_to_tokens(h):
    index = TURNED[None, :, None].expand_as(h)
    return torch.zeros_like(h).scatter_add(1, index, h)


OPERATORS = {
    "reshape_as": lambda h: h.flatten(0, 1).reshape_as(h),
    "view_as": lambda h: h.flatten(0, 1).view_as(h),
    "view_as of another": lambda h: (h[:, :, None] * 2).view_as(h) + h,
    "z[:] = h": assign_all,
    "z[:, 1:3] = h": assign_tokens,
    "h[h < 0] = number": assign_by_mask,
    "h[:, index] = h": assign_by_number,
    "tile": lambda h: h.tile(1, 2, 1),
    "tile of fewer": lambda h: h.tile(3, 1),
    "take_along_dim": lambda h: torch.take_along_dim(h, FIRST, 1),
    "take_along_dim by itself": lambda h: torch.take_along_dim(h, h.argsort(1), 1),
    "scatter_add": add_to_tokens,
    "cumsum": lambda h: h.cumsum(1),
    "cumprod": lambda h: h.cumprod(-2),
    "cummax": lambda h: h.cummax(1).values,
    "sort": lambda h: h.sort(dim=1).values,
    "sort stable": lambda h: h.sort(dim=1, stable=True, descending=True)[0],
    "topk": lambda h: h.topk(2, 1).values,
    "diff": lambda h: h.diff(dim=1),
}


def check(net):
    for config in (net.largest, net.smallest, dict.fromkeys(net.choices, 3)):
        small = net.extract(config)
        assert count_parameters(small) == net.parameters_of(config)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_over_tokens_leaves_the_width_elastic(name):
    torch.manual_seed(0)
    model = Around(OPERATORS[name]).double().eval()
    net = Supernet(model, ROWS)
    assert list(net.choices) == ["mlp"], net.explain()
    check(net)


@pytest.mark.parametrize(
    "operator",
    [
        lambda h: h.cumsum(-1),
        lambda h: h.sort().values,
        lambda h: F.pad(h.topk(4).values, (0, 28)),
        lambda h: torch.take_along_dim(h, torch.arange(31, -1, -1)[None, None], 2),
    ],
)
def test_an_operator_over_the_width_freezes_it(operator):
    net = Supernet(Around(operator).double().eval(), ROWS)
    assert not net.choices
    net.extract({})


def weight_normed(layer):
    return nn.utils.parametrizations.weight_norm(layer)


@pytest.mark.parametrize(
    "norm",
    [weight_normed, nn.utils.parametrizations.spectral_norm],
    ids=["weight", "spectral"],
)
def test_parametrized_layers(norm):
    torch.manual_seed(0)
    layers = norm(nn.Linear(12, 32)), nn.GELU(), norm(nn.Linear(32, 16)), nn.GELU()
    net = Supernet(
        nn.Sequential(*layers, nn.Linear(16, 3)).double().eval(), ROWS, {"mlp": ratios(0.5, 1)}
    )
    assert sorted(net.largest.values()) == [16, 32], net.explain()
    small = net.extract(net.smallest)
    assert (small[0].out_features, small[2].in_features, small[2].out_features) == (16, 16, 8)
