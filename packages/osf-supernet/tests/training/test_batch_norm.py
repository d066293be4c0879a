from __future__ import annotations

import copy

import pytest
import torch
from osf_supernet import Supernet, sizes
from osf_supernet.training import (
    Classification,
    Sandwich,
    frozen_statistics,
    recalibrate,
    recalibrated,
)
from torch import nn
from torch.nn import functional as F


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.two(F.relu(self.norm(self.one(x)))).mean((2, 3))


def test_running_statistics_are_the_largest_nets_and_recalibrate_per_subnet():
    torch.manual_seed(0)
    model = Convolutions().double()
    x = torch.randn(16, 3, 4, 4, dtype=torch.float64) + 1
    net = Supernet(model, x[:2], {"channel": sizes(4, 8)})
    labels = torch.arange(16) % 4
    plain = copy.deepcopy(model).train()
    plain(x)
    model.train()
    Sandwich(net, Classification()).backward((x, labels), 0)
    torch.testing.assert_close(model.norm.running_mean, plain.norm.running_mean)
    assert int(model.norm.num_batches_tracked) == 1

    before = copy.deepcopy(model.state_dict())
    model.eval()
    with net.active(net.smallest):
        with recalibrated(net.model, x.split(8)):
            features = model.one(x)
            expected = torch.stack([p.mean((0, 2, 3)) for p in features.split(8)]).mean(0)
            torch.testing.assert_close(model.norm.running_mean, expected)
        assert not model.norm.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    small = net.extract(net.smallest)
    recalibrate(small, [x])
    torch.testing.assert_close(small.norm.running_mean, small.one(x).mean((0, 2, 3)))
    assert small.norm.momentum == 0.1


@pytest.mark.parametrize("batches", [[], iter([torch.zeros(2, 3, 4, 4)])])
def test_nothing_to_recalibrate_with_is_refused_and_loses_nothing(batches):
    model = Convolutions()
    nn.init.uniform_(model.norm.running_mean)
    before = model.norm.running_mean.clone()
    with pytest.raises((TypeError, ValueError), match="recalibration"):
        recalibrate(model, batches)
    with pytest.raises(TypeError, match="got str"):
        recalibrate(model, [torch.zeros(2, 3, 4, 4), "no batch"])
    assert torch.equal(model.norm.running_mean, before)
    recalibrate(nn.Linear(2, 2), [])  # nothing to do


def test_statistics_of_instance_norms_are_kept_and_averaged():
    model = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True))
    x = torch.randn(8, 3, 4, 4) + 1
    with frozen_statistics(model):
        model.train()(x)
    assert model[0].running_mean.eq(0).all()
    recalibrate(model, [x[:4], x[4:]])
    torch.testing.assert_close(model[0].running_mean, x.mean((0, 2, 3)))
