from __future__ import annotations

import pytest
import torch
from osf_supernet import SearchConfig, Supernet, ratios, search_subnets
from osf_supernet.search.greedy import GreedyPath
from osf_supernet.search.sensitivity import Sensitivity, measure_sensitivity
from osf_supernet.subnets.bounds import Bounds
from torch import nn


def test_damage_agrees_with_outputs_computed_by_hand(net):
    x = torch.randn(16, 8, dtype=torch.float64)
    full = net.model(x).detach()
    variance = (full - full.mean(0)).square().mean()

    def damage(config):
        with net.active(config):
            return float((net.model(x).detach() - full).square().mean() / variance)

    found = measure_sensitivity(net, [x], points=9)
    assert found.at("blocks.2.mlp", 64) == 0
    expected = damage({"blocks.2.mlp": 16})
    assert found.at("blocks.2.mlp", 16) >= expected * (1 - 1e-6)
    assert found.at("blocks.0.mlp", 12) == pytest.approx(damage({"blocks.0.mlp": 12}))
    assert found.blocks["blocks.1.block"] == pytest.approx(damage({"blocks.1.block": 0}))
    config = net.largest | {"blocks.1.mlp": 8}
    assert found.of(config) == pytest.approx(found.at("blocks.1.mlp", 8))
    assert found.of(config | {"blocks.1.block": 0}) == found.blocks["blocks.1.block"]
    by_depth = measure_sensitivity(net, [x], any_blocks=False)
    order = net.depth_orders["blocks"]
    expected = damage({f"blocks.{i}.block": 0 for i in order[1:]})
    assert by_depth.at("blocks.depth", 1) == pytest.approx(expected)


def test_the_path_takes_what_loses_least_per_parameter_and_any_block(net):
    groups = {f"blocks.{i}.mlp": ((s // 4, 100.0), (s, 0.0)) for i, s in enumerate((16, 32, 64))}
    blocks = {"blocks.0.block": 5.0, "blocks.1.block": 0.1, "blocks.2.block": 6.0}
    path = GreedyPath(net, "params", net.parameters_of, Sensitivity(net, groups, blocks))
    configs = path.configs()
    assert configs[1]["blocks.1.block"] == 0  # neither the first nor the last of the list
    assert configs[2]["blocks.2.block"] == 0  # 6 lost of 1096 parameters against 5 of 280
    assert configs[3].get("blocks.0.block", 1) == 1  # one block stays
    costs = [net.parameters_of(config) for config in configs]
    assert costs == sorted(costs, reverse=True)
    limit = 0.75 * net.parameters_of({})
    config = path.fit(Bounds({"params": net.parameters_of}, {"params": limit}))
    assert config["blocks.1.block"] == 0
    assert 0.7 * net.parameters_of({}) <= net.parameters_of(config) <= limit


def test_the_budget_is_used(net):
    for share in (0.9, 0.7, 0.5, 0.4, 0.3):
        config = SearchConfig(max_params=share, generations=0)
        result = search_subnets(net, lambda model: 0.0, config, quiet=True)
        largest = max(c.params for c in result.candidates)
        step = 16 * 17  # of the last block's width, the coarsest there is
        assert share * net.parameters_of({}) - largest < step


def test_no_subnet_is_scored_twice_under_two_configs(net):
    shapes = []

    def evaluate(model):
        shapes.append(tuple((id(b), b.up.out_features) for b in model.blocks))
        return float(len(shapes))

    config = SearchConfig(max_params=0.5, population=12, generations=6)
    search_subnets(net, evaluate, config, quiet=True)
    assert len(set(shapes)) == len(shapes)


def test_configs_of_one_subnet_are_known_as_such(net):
    gone = net.depth_orders["blocks"][-1]
    by_depth = {"blocks.depth": 2, f"blocks.{gone}.mlp": 4 << gone}
    by_name = net.largest | {f"blocks.{gone}.block": 0}
    assert net.canonical(by_depth) == net.canonical(by_name) == {f"blocks.{gone}.block": 0}
    assert net.parameters_of(by_depth) == net.parameters_of(by_name)
    assert net.canonical(net.largest) == {}
    x = torch.randn(3, 8, dtype=torch.float64)
    outputs = [net.extract(config)(x) for config in (by_depth, by_name)]
    assert torch.equal(*outputs)


def test_blocks_by_name_are_counted_verified_and_checked(net):
    config = {"blocks.0.block": 0, "blocks.2.mlp": 32}
    assert net.verify(config).max_error < 1e-9
    small = net.extract(config)
    assert sum(p.numel() for p in small.parameters()) == net.parameters_of(config)
    many = {"blocks.0.block": torch.tensor([0, 1]), "blocks.2.mlp": torch.tensor([32, 32])}
    assert net.parameters_of(many).tolist() == [
        net.parameters_of(config),
        net.parameters_of({"blocks.2.mlp": 32}),
    ]
    with pytest.raises(ValueError, match="blocks must keep at least 1 block"):
        net.plan({f"blocks.{i}.block": 0 for i in range(3)})
    with pytest.raises(ValueError, match=r"blocks.0.block must be 0..1, got 2"):
        net.plan({"blocks.0.block": 2})


def test_norms_are_recalibrated_before_scores():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    net = Supernet(model.eval(), torch.randn(4, 6), {"channel": ratios(0.5, 1)})
    x = 3 + torch.randn(64, 6)
    seen = []

    def evaluate(model):
        seen.append(model[1].running_mean.clone())
        return 0.0

    search_subnets(
        net, evaluate, SearchConfig(generations=0), calibration=[x], full_model=True, quiet=True
    )
    with net.active(net.smallest):
        expected = model[0](x).mean(0)
    assert any(torch.allclose(mean, expected, atol=1e-5) for mean in seen if len(mean) == 8)
    assert model[1].running_mean.abs().max() == 0  # the model's own are back
