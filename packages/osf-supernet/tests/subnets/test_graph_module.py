"""Subnets that their class cannot express run as the traced graph with the sizes baked in."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from osf_supernet import Supernet, count_parameters, load_subnet, save_subnet
from osf_supernet.training import recalibrate
from torch import nn


class Block(nn.Module):
    """Its heads, their size and the width are numbers of the forward, which no attribute says."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Dropout(0.5), nn.Linear(48, 24))

    def forward(self, x):
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, length, 3, 4, 6).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-1, -2) * 6**-0.5).softmax(-1)
        x = x + self.out((weights @ qkv[2]).transpose(1, 2).reshape(batch, length, 24))
        return x + self.mlp(x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 24, 4, 4), nn.BatchNorm2d(24)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(24, 5)

    def forward(self, images):
        x = self.norm(self.stem(images)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(images), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x[:, 0]), "tokens": len(x[0])}


def images(batch, size=16):
    return torch.randn(batch, 3, size, size, dtype=torch.float64)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Supernet(Network().double().eval(), images(1))


@pytest.fixture(scope="module")
def half(net):
    sizes = {group.name: group.size // 2 for group in net.graph.elastic()}
    return sizes | {"blocks.depth": 1}


@pytest.fixture(scope="module")
def small(net, half):
    return net.extract(half)


def test_what_the_class_cannot_express_is_extracted_as_a_graph(net, half, small):
    assert {"blocks.0.heads", "blocks.1.head_dim"} <= net.graph.traced_only
    assert small.osf_record["backend"] == "graph"
    assert small.osf_record["certificate"]["max_error"] < 1e-9
    assert len(small.osf_record["certificate"]["shapes"]) == 3  # a larger batch and other images
    assert count_parameters(small) == net.parameters_of(half) < 0.2 * count_parameters(net.model)
    qkv = small.get_submodule("blocks.0.qkv")
    assert qkv.weight.shape == (3 * 2 * 3, 12) == (qkv.out_features, qkv.in_features)
    inputs = images(5)
    with net.active(half), torch.no_grad():
        expected = net.model(inputs)
    assert net.model(inputs)["logits"].shape == (5, 5)  # the class's own forward again
    for module in (small, copy.deepcopy(small)):
        got = module(images=inputs)
        assert got["tokens"] == expected["tokens"] == 17
        torch.testing.assert_close(got["logits"], expected["logits"], rtol=0, atol=1e-12)


def test_sizes_that_the_class_expresses_stay_in_the_class(net):
    small = net.extract({"blocks.0.mlp": 8, "blocks.depth": 1})
    assert type(small) is Network
    assert "backend" not in small.osf_record


def test_gradients_of_the_subnet_land_in_the_full_parameters(net, half, small):
    inputs = images(2)
    small.zero_grad()
    small(inputs)["logits"].square().sum().backward()
    for run in (net.active, net.training):
        net.model.zero_grad()
        with run(half):
            net.model(inputs)["logits"].square().sum().backward()
        full = net.model.stem.weight.grad
        torch.testing.assert_close(full[:12], small.stem.weight.grad, rtol=0, atol=1e-9)
        assert not full[12:].any()
    net.model.zero_grad()


def test_norms_and_dropout_follow_the_mode(small):
    trained = copy.deepcopy(small).train()
    inputs = images(4)
    before = trained.norm.running_mean.clone()
    torch.manual_seed(0)
    first, second = trained(inputs)["logits"], trained(inputs)["logits"]
    assert not torch.equal(first, second)
    assert not torch.equal(trained.norm.running_mean, before)
    recalibrate(trained, [inputs])
    expected = trained.stem(inputs).mean((0, 2, 3))
    torch.testing.assert_close(trained.norm.running_mean, expected, rtol=0, atol=1e-12)


def test_a_graph_is_saved_and_loaded(small, tmp_path):
    save_subnet(small, tmp_path)
    with torch.device("meta"):
        full = Network().double()
    again = load_subnet(tmp_path, full).eval()
    assert again.osf_record == json.loads(json.dumps(small.osf_record))
    inputs = images(3)
    got, expected = again(inputs), small(inputs)
    assert torch.equal(got["logits"], expected["logits"])
    assert got["tokens"] == 17
    save_subnet(again, tmp_path / "again")
    one, two = ((tmp_path / part / "osf.json").read_bytes() for part in (".", "again"))
    assert one == two


@pytest.mark.parametrize(
    "name", ["aten.from_file.default", "os.system", "aten.save.default", "eval"]
)
def test_a_folder_cannot_name_other_functions(small, tmp_path, name):
    save_subnet(small, tmp_path)
    record = json.loads((tmp_path / "osf.json").read_text())
    record["program"]["nodes"][0][1] = name
    (tmp_path / "osf.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="no operator to run"):
        load_subnet(tmp_path, Network().double())


def test_sizes_that_were_not_checked_are_refused(net, small):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 24), nn.Linear(24, 3)

        def forward(self, x):  # the length is a number in the graph
            return self.two(self.one(x).view(*x.shape[:-1], 4, 6).flatten(-2)).sum(1) / x.shape[1]

    free = Supernet(Mean().double().eval(), torch.randn(2, 5, 4, dtype=torch.float64))
    plain = free.extract(dict.fromkeys(free.graph.traced_only, 2))
    assert plain(torch.randn(7, 5, 4, dtype=torch.float64)).shape == (7, 3)
    with pytest.raises(ValueError, match=r"dimension 1 of \[0\] must be 5, got 4"):
        plain(torch.randn(2, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="must be a tensor of 4 dimensions, got None"):
        small()
    with pytest.raises(ValueError, match="was no input"):
        small(images(1), mask=images(1))


@pytest.mark.parametrize("batch_first", [True, False])
def test_heads_of_multihead_attention_are_independent_of_the_width(batch_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 32, batch_first=batch_first)
    model = nn.Sequential(layer, nn.Linear(24, 3)).double().eval()
    inputs = torch.randn(5, 5, 24, dtype=torch.float64)
    net = Supernet(model, inputs, backend="graph")
    groups = {group.kind: group for group in net.graph.elastic()}
    assert {kind: group.size for kind, group in groups.items()} == {
        "heads": 4,
        "head_dim": 6,
        "mlp": 32,
    }
    small = net.extract({groups["heads"].name: 3, groups["head_dim"].name: 4})
    attention = small.get_submodule("0.self_attn")
    assert attention.in_proj_weight.shape == (3 * 3 * 4, 24)
    assert attention.out_proj.weight.shape == (24, 3 * 4)
    assert small.osf_record["certificate"]["max_error"] < 1e-9
    assert net.parameters_of(net.smallest) < 0.7 * net.parameters_of({})


def test_the_class_alone_can_be_asked_for():
    model, inputs = Network().double().eval(), images(2)
    net = Supernet(model, inputs, backend="class")
    assert not net.graph.traced_only
    assert {group.kind for group in net.graph.elastic()} == {"mlp", "channel"}
    with pytest.raises(ValueError, match="backend must be one of auto, class, graph, got 'fx'"):
        Supernet(model, inputs, backend="fx")
