from __future__ import annotations

from importlib.metadata import entry_points

import torch
from torch import nn


def test_the_largest_hidden_units_are_kept():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    energy = sum(w.square().sum(d) for w, d in ((model[0].weight, 1), (model[2].weight, 0)))
    energy = energy + model[0].bias.square()
    best = energy.topk(2).indices
    x = torch.randn(5, 4)
    hidden = torch.relu(x @ model[0].weight[best].T + model[0].bias[best])
    want = (hidden @ model[2].weight[:, best].T + model[2].bias).detach()
    (entry,) = entry_points(group="dtp_pooling.pruning", name="largest")
    small = entry.load()(model, torch.randn(2, 4), {"mlp": 2})
    assert small[0].weight.shape == (2, 4)
    torch.testing.assert_close(small(x), want)
