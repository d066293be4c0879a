from __future__ import annotations

import copy
import random

import pytest
import torch
from osf_supernet import Supernet, VerificationError, count_parameters, ratios, sizes
from osf_supernet.graph.expressions import FIXED, Atom, Compound
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.head_dim, self.width = 3, 8, 24
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        shape = (*x.shape[:2], 3, self.heads, self.head_dim)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, scale=8**-0.5)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(24), Attention()
        self.norm2, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Linear(6, 24), nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x, scale=1.0):
        x = self.embed(x) * scale
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


SPACE = {
    "mlp": ratios(0.25, 0.5, 1, multiple_of=2),
    "heads": sizes(1, 2, 3),
    "embed": sizes(12, 17, 24),
    "depth": sizes(1, 2, 3),
}


@pytest.fixture(scope="module")
def shared(randomized):
    return supernet(randomized)


@pytest.fixture
def net(shared):
    """The shared supernet, with fresh gradients, weights and plans."""
    state = copy.deepcopy(shared.model.state_dict())
    yield shared
    shared.model.load_state_dict(state)
    shared.model.zero_grad()
    shared._plans.clear()


def supernet(randomized):
    torch.manual_seed(0)
    model = randomized(Net().double())
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    return Supernet(
        model, {"x": x, "scale": 0.5}, SPACE, more_inputs=[{"x": x[:, :4], "scale": 2.0}]
    )


def by_hand(net, config, x):
    """A slow loop over slices, written without the graph."""
    model, embed = net.model, config["embed"]

    def ln(norm, x):
        return F.layer_norm(x, (embed,), norm.weight[:embed], norm.bias[:embed])

    y = (x @ model.embed.weight[:embed].T + model.embed.bias[:embed]) * 0.5
    for i, block in list(enumerate(model.blocks))[: config["blocks.depth"]]:
        heads, total = config[f"blocks.{i}.attention.heads"], 0
        z = ln(block.norm1, y)
        for h in range(heads):
            q, k, v = (
                z @ block.attention.qkv.weight[rows, :embed].T + block.attention.qkv.bias[rows]
                for rows in (slice(24 * p + 8 * h, 24 * p + 8 * h + 8) for p in range(3))
            )
            part = (q @ k.mT * 8**-0.5).softmax(-1) @ v
            total = total + part @ block.attention.out.weight[:embed, 8 * h : 8 * h + 8].T
        y = y + total + block.attention.out.bias[:embed]
        width = config[f"blocks.{i}.mlp"]
        hidden = F.gelu(
            ln(block.norm2, y) @ block.up.weight[:width, :embed].T + block.up.bias[:width]
        )
        y = y + hidden @ block.down.weight[:embed, :width].T + block.down.bias[:embed]
    return ln(model.norm, y).mean(1) @ model.head.weight[:, :embed].T + model.head.bias


def test_every_dimension_of_a_transformer_is_found(net):
    assert set(net.choices) == {
        "embed",
        "blocks.depth",
        *(f"blocks.{i}.{kind}" for i in range(3) for kind in ("mlp", "attention.heads")),
    }


@pytest.mark.parametrize("seed", range(6))
def test_subnet_equals_slices_by_hand_and_so_do_its_gradients(net, seed):
    config = net.sample(seed=seed)
    x = net.inputs["x"]
    with net.active(config):
        result = net.model(**net.inputs)
        result.square().sum().backward()
    got = {name: p.grad for name, p in net.model.named_parameters()}
    net.model.zero_grad()
    expected = by_hand(net, config, x)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)
    expected.square().sum().backward()
    for name, parameter in net.model.named_parameters():
        want = parameter.grad
        if want is None:
            assert got[name] is None
        else:
            torch.testing.assert_close(got[name], want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_extraction_is_plain_verified_and_counted_exactly(net, seed):
    config = net.sample(seed=seed)
    small = net.extract(config)
    assert type(small) is Net
    assert count_parameters(small) == net.parameters_of(config)
    # As plain products: torch 2.9's counter knows no formula for the CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        small(**net.inputs)
    assert counter.get_total_flops() == net.flops_of(config)
    torch.testing.assert_close(
        small(**net.inputs), by_hand(net, config, net.inputs["x"]), rtol=0, atol=1e-9
    )
    certificate = small.osf_record["certificate"]
    assert certificate["shapes"] == (((2, 7, 6),), ((3, 7, 6),), ((2, 4, 6),))
    assert certificate["max_error"] < 1e-9
    assert certificate["notes"] == ()


def test_the_largest_config_is_the_model_itself(net):
    before = net.model(**net.inputs)
    with net.active(net.largest) as report:
        assert torch.equal(net.model(**net.inputs), before)
    assert report.copied_bytes == 0
    assert net.parameters_of(net.largest) == count_parameters(net.model)


def test_prefixes_are_views_and_fused_projections_are_copied_and_reported(net):
    with net.active(net.largest | {"blocks.0.mlp": 10}) as report:
        assert report.copied_bytes == 0
        assert net.model.blocks[0].up.weight._base is not None
    with net.active(net.largest | {"blocks.0.attention.heads": 2}) as report:
        assert report.copied_bytes == (48 * 24 + 48) * 8
        assert net.model.blocks[0].attention.heads == 2
    assert net.model.blocks[0].attention.heads == 3


def test_the_model_comes_back_after_an_exception(net):
    before = {name: (id(p), p.shape) for name, p in net.model.named_parameters()}
    with pytest.raises(RuntimeError, match="on purpose"), net.active(net.smallest):
        raise RuntimeError("on purpose")
    assert {name: (id(p), p.shape) for name, p in net.model.named_parameters()} == before
    assert len(net.model.blocks) == 3


def test_one_training_step_changes_the_supernet_only_where_it_is_active(net):
    config = net.largest | {"blocks.1.mlp": 10, "blocks.depth": 2}
    before = {name: p.detach().clone() for name, p in net.model.named_parameters()}
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
    with net.active(config):
        net.model(**net.inputs).square().sum().backward()
    optimizer.step()
    moved = {n: (p.detach() != before[n]) for n, p in net.model.named_parameters()}
    assert moved["blocks.1.up.weight"][:10].any()
    assert not moved["blocks.1.up.weight"][10:].any()
    assert not moved["blocks.2.up.weight"].any()


def test_candidates_are_scored_many_at_once(net):
    configs = [net.sample(seed=seed) for seed in range(20)]
    table = {name: torch.tensor([c[name] for c in configs]) for name in net.choices}
    assert net.parameters_of(table).tolist() == [net.parameters_of(c) for c in configs]
    assert net.flops_of(table).tolist() == [net.flops_of(c) for c in configs]


def test_sampling_is_keyed_by_the_seed_and_keeps_to_bounds(net):
    random.seed(1)
    first = net.sample(seed=5)
    random.seed(2)
    assert net.sample(seed=5) == first
    assert len({str(net.sample(seed=s)) for s in range(10)}) > 5
    full = count_parameters(net.model)
    for seed in range(10):
        assert net.parameters_of(net.sample(seed=seed, max_params=0.4)) <= 0.4 * full
        assert net.flops_of(net.sample(seed=seed, max_flops=40000)) <= 40000
    with pytest.raises(ValueError, match="the smallest config has"):
        net.sample(seed=0, max_params=10)


def test_a_config_that_does_not_fit_is_refused_with_the_reason(net):
    with pytest.raises(ValueError, match=r"must be 1\.\.40, got 41"):
        net.plan({"blocks.0.mlp": 41})
    with pytest.raises(ValueError, match=r"must be 1\.\.40, got 12\.5"):
        net.plan({"blocks.0.mlp": 12.5})
    with pytest.raises(KeyError, match=r"near names: .*blocks\.0\.mlp"):
        net.plan({"blocks.0.mpl": 4})
    frozen = next(g for g in net.graph.groups.values() if g.size == 5 and g.frozen)
    with pytest.raises(KeyError, match="is frozen: it is a dimension of the output"):
        net.plan({frozen.name: 4})


def test_a_square_of_equal_numbers_is_not_confused():
    class Square(nn.Module):
        """Width 8, two heads of 4, window 2, all numbers colliding."""

        def __init__(self):
            super().__init__()
            self.window, self.num_heads, self.size, self.hidden = 2, 2, 4, 8
            self.q, self.out, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            q = self.q(x).view(len(x), self.window, 3, self.num_heads, self.size).transpose(2, 3)
            y = F.scaled_dot_product_attention(q, q, q, scale=0.5)
            return self.last(self.out(y.transpose(2, 3).flatten(3)).mean((1, 2)))

    torch.manual_seed(0)
    model = Square().double()
    net = Supernet(model, torch.randn(2, 6, 8, dtype=torch.float64), {"heads": sizes(1, 2)})
    with net.active({"heads": 1}):
        assert (model.window, model.num_heads, model.size) == (2, 1, 4)
    net.verify({"heads": 1})


class Stubborn(nn.Module):
    """Its forward uses a number that no attribute carries."""

    def __init__(self):
        super().__init__()
        self.q, self.out = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x):
        q = self.q(x).view(len(x), -1, 3, 8).transpose(1, 2)
        return self.out(
            F.scaled_dot_product_attention(q, q, q, scale=0.3).transpose(1, 2).flatten(2)
        )


def test_a_group_whose_integers_cannot_be_found_is_frozen_with_the_failure():
    inputs = torch.randn(2, 5, 6, dtype=torch.float64)
    net = Supernet(Stubborn().double(), inputs, {}, backend="class")
    assert net.graph.elastic() == []
    assert "no choice of the modules' integers computes it rightly" in net.explain()


@pytest.mark.parametrize("seed", range(3))
def test_sorting_by_importance_keeps_the_function_and_every_subnet_verified(net, seed):
    before = net.model(**net.inputs)
    net.reorder("magnitude")
    torch.testing.assert_close(net.model(**net.inputs), before, rtol=0, atol=1e-9)
    net.verify(net.sample(seed=seed))


@pytest.mark.parametrize(
    ("tensor", "axis"),
    [
        ("blocks.0.up.weight", 0),
        ("blocks.0.up.bias", 0),
        ("blocks.0.down.weight", 1),
        ("blocks.1.attention.qkv.weight", 0),
        ("blocks.1.attention.out.weight", 1),
        ("norm.weight", 0),
        ("head.weight", 1),
    ],
)
def test_breaking_one_coupling_makes_verify_fail(net, tensor, axis):
    """The module keeps the last entries of one axis where the coupling says the first."""
    config = net.smallest | {"blocks.depth": 3}
    plan = net.plan(config)
    kept = list(plan.surgery.keep[tensor])
    size = net.model.get_parameter(tensor).shape[axis]
    kept[axis] = sorted(size - 1 - index for index in kept[axis])
    plan.surgery.keep[tensor] = tuple(kept)
    with pytest.raises(VerificationError, match="differs from the oracle"):
        net.verify(config)


def qkv_read_as_heads_first(axis):
    three, heads, size = axis.parts
    return Compound("product", (heads, three, size))


def not_coupled(axis):
    return Atom(FIXED, axis.size)


@pytest.mark.parametrize(
    ("tensor", "dim", "broken"),
    [
        ("blocks.0.attention.qkv.weight", 0, qkv_read_as_heads_first),
        ("blocks.0.attention.qkv.bias", 0, qkv_read_as_heads_first),
        ("blocks.1.down.weight", 1, not_coupled),
        ("blocks.1.up.bias", 0, not_coupled),
        ("norm.bias", 0, not_coupled),
    ],
)
def test_breaking_one_coupling_of_the_graph_makes_verify_fail(net, tensor, dim, broken):
    before = net.graph.tensors[tensor]
    config = net.largest | {"blocks.0.attention.heads": 2, "blocks.1.mlp": 10, "embed": 17}
    net.verify(config)
    net._plans.clear()
    axes = list(before)
    axes[dim] = broken(axes[dim])
    net.graph.tensors[tensor] = tuple(axes)
    try:
        with pytest.raises(VerificationError, match=r"differs from the oracle|does not run"):
            net.verify(config)
    finally:
        net.graph.tensors[tensor] = before


def test_breaking_any_coupling_at_all_makes_verify_fail(net):
    """Every member of every group, uncoupled one at a time."""
    config = {name: max(1, size // 2) for name, size in net.largest.items()}
    config |= {"blocks.depth": 3}
    net.verify(config)
    elastic = [group for group in net.graph.elastic() if group.name in config]
    members = [(group.number, *member) for group in elastic for member in group.members]
    assert len(members) > 40
    for number, tensor, dim in members:
        before = net.graph.tensors[tensor]
        axes = list(before)
        axes[dim] = without(axes[dim], number)
        net.graph.tensors[tensor] = tuple(axes)
        net._plans.clear()
        try:
            with pytest.raises(VerificationError):
                net.verify(config)
        finally:
            net.graph.tensors[tensor] = before


def without(axis, number):
    """The axis with one group replaced by a fixed dimension."""
    if isinstance(axis, Atom):
        return Atom(FIXED, axis.size) if axis.group == number else axis
    return Compound(axis.joined, tuple(without(part, number) for part in axis.parts))


def test_dropping_another_block_than_the_oracle_makes_verify_fail(net):
    config = net.largest | {"blocks.depth": 2}
    net.verify(config)
    net.plan(config).surgery.items["blocks"] = (0, 2)
    with pytest.raises(VerificationError):
        net.verify(config)
