from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, TraceError, ratios, sizes
from osf_supernet.graph import build_graph
from osf_supernet.subnets.comparison import run
from osf_supernet.subnets.oracle import masked_outputs
from osf_supernet.trace.shapes import larger_batch, one_sample, other_images, other_lengths
from osf_supernet.trace.tracing import evaluation_mode
from torch import nn
from torch.nn import functional as F


class Branching(nn.Module):
    """Decides by a tensor's value, which `torch.export` refuses."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.other = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.GELU()) for _ in range(2))

    def forward(self, x, factor=1.0):
        if bool(x.sum() > 1e6):
            return self.other(x)
        x = self.two(F.gelu(self.one(x))) * factor
        for block in self.blocks:
            x = x + block(x)
        return {"logits": x, "note": None}


def test_what_does_not_export_is_recorded_from_a_call():
    torch.manual_seed(0)
    model = Branching().double()
    inputs = {"x": torch.randn(2, 6, dtype=torch.float64), "factor": 0.5}
    graph = build_graph(model, inputs)
    assert "data-dependent" in graph.trace.recorded
    assert graph.trace.outputs[0][0] == "['logits']"
    expected = run(model, inputs)[0]
    torch.testing.assert_close(masked_outputs(model, graph, {}, {})[0], expected)
    net = Supernet(model, inputs, {"mlp": ratios(0.5, 1), "depth": sizes(1, 2)})
    assert len(net.graph.units["blocks"]) == 2  # the additions are the owner's
    small = net.extract({"one.mlp": 8, "blocks.depth": 1})
    assert (small.one.out_features, small.two.in_features) == (8, 8)
    notes = small.osf_record["certificate"]["notes"]
    assert any("recorded from a real call" in note for note in notes)
    unused = next(g for g in graph.groups.values() if ("other.weight", 0) in g.members)
    assert unused.frozen == "a tensor that the traced call never used has it"


def test_a_call_that_fails_says_so_once(capsys):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such thing")

    with pytest.raises(TraceError, match=r"could not trace Broken: .*Recording .* failed too"):
        build_graph(Broken(), torch.ones(2, 2))
    assert capsys.readouterr().out == ""


class Rounding(nn.Module):
    """An RMS norm that computes in float32, as those of language models do."""

    def __init__(self):
        super().__init__()
        self.up, self.weight, self.down = nn.Linear(6, 16), nn.Parameter(torch.ones(16)), None
        self.down = nn.Linear(16, 3)

    def forward(self, x):
        x = self.up(x)
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + torch.full((1,), 1e-6))
        return self.down(wide.float().to(x.dtype) * self.weight)


def test_a_double_module_is_compared_without_rounding_inside():
    torch.manual_seed(0)
    model, x = Rounding().double(), torch.randn(4, 6, dtype=torch.float64)
    small = Supernet(model, x, {"mlp": sizes(5, 16)}).extract({"mlp": 5})
    certificate = small.osf_record["certificate"]
    assert certificate["precision"] == "float64"
    assert certificate["max_error"] <= certificate["tolerance"] == 1e-9
    assert torch.get_default_dtype() == torch.float32
    single = Supernet(model.float(), x.float(), {"mlp": sizes(5, 16)}).extract({"mlp": 5})
    assert single.osf_record["certificate"]["tolerance"] == 1e-4


def test_a_forward_that_changes_its_module_leaves_no_trace():
    class Adapting(nn.Module):
        def __init__(self):
            super().__init__()
            self.window, self.linear = 8, nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("last", torch.zeros(4))

        def forward(self, x):
            self.window = min(self.window, x.shape[-1])
            self.calls.add_(1)
            self.last = x[0]
            return self.linear(x)

    model = Adapting()
    with evaluation_mode(model):
        model(torch.ones(1, 4))
    assert model.window == 8
    assert model.training
    assert model.calls == 0
    assert model.last.tolist() == [0, 0, 0, 0]


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.value, self.gate, self.down = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, *, value, gate):
        return self.down(self.value(value) * self.gate(gate).sigmoid())


def test_batches_are_read_by_name_and_must_have_the_form_of_the_example():
    torch.manual_seed(0)
    value, gate = torch.randn(2, 6), torch.randn(2, 6) * 9
    model = Gate()
    net = Supernet(model, {"gate": gate, "value": value}, {"mlp": sizes(8, 16)})
    net.verify({"mlp": 8})
    values = net.graph.trace.values_of({"value": value, "gate": gate})
    assert values["value"] is value
    assert values["gate"] is gate
    with pytest.raises(ValueError, match=r"the entries \['gate'\], \['value'\]; got \['gate'\]"):
        net.reorder("wanda", [{"gate": gate}])


def test_a_dict_that_is_one_argument_says_how_to_pass_it():
    class Batch(nn.Module):
        def forward(self, batch):
            return batch["x"] * 2

    with pytest.raises(TraceError, match=r"pass `\(\{...\},\)` if forward takes one dict"):
        build_graph(Batch(), {"x": torch.ones(2, 2)})
    build_graph(Batch(), ({"x": torch.ones(2, 2)},))


def test_inputs_of_other_shapes():
    images, text = torch.ones(2, 3, 8, 8), torch.ones(2, 9, dtype=torch.long)
    inputs = {"pixels": images, "ids": text, "flag": False}
    assert larger_batch(inputs)["pixels"].shape == (3, 3, 8, 8)
    assert larger_batch((text, torch.ones(()))) is None
    assert one_sample(inputs)["pixels"].shape == (1, 3, 8, 8)
    assert one_sample((text[:1], images[:1])) is one_sample((text, images[:1])) is None
    assert [x["ids"].shape[1] for x in other_lengths(inputs)] == [6, 4]
    assert [x["pixels"].shape[2] for x in other_images(inputs)] == [4, 16]
    assert next(other_images(inputs))["flag"] is False
    assert list(other_lengths(images)) == []


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, short=False):
        y = self.linear(x)
        return y[:, :1] if short else x + y


class Last(nn.Module):
    """Only one position of the last block is used later, so that it cannot be left out."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        *rest, last = self.blocks
        for block in rest:
            x = block(x)
        return last(x, short=True)


def test_a_list_may_lose_all_its_units_where_it_has_other_members():
    torch.manual_seed(0)
    model, x = Last().double(), torch.randn(2, 3, 4, dtype=torch.float64)
    net = Supernet(model, x)
    assert net.choices["blocks.depth"] == (0, 1)
    small = net.extract(net.smallest)
    torch.testing.assert_close(small(x), model.blocks[1].linear(x)[:, :1])
    with pytest.raises(ValueError, match=r"must be 0\.\.1, got 2"):
        net.plan({"blocks.depth": 2})


class Pooling(nn.Module):
    """Attention whose forward computes the head size as width over heads."""

    def __init__(self):
        super().__init__()
        self.embed, self.num_heads = nn.Linear(6, 12), 3
        self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))
        self.out = nn.Linear(12, 5)

    def forward(self, x):
        x = self.embed(x)
        shape = (len(x), -1, self.num_heads, x.shape[-1] // self.num_heads)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_that_follow_the_width_are_elastic_together_with_it():
    torch.manual_seed(0)
    net = Supernet(Pooling().double(), torch.randn(2, 5, 6, dtype=torch.float64))
    (name,) = (group.name for group in net.graph.elastic() if group.kind == "heads")
    small = net.extract({name: 2})
    assert small.num_heads == 2
    assert small.embed.out_features == small.q.in_features == small.q.out_features == 8


class Routed(nn.Module):
    """Experts chosen by a router, looped over: what a mixture of experts does."""

    def __init__(self):
        super().__init__()
        self.embed, self.gate = nn.Linear(6, 8), nn.Linear(8, 3)
        self.experts = nn.Parameter(torch.randn(3, 8, 8))
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x)
        best = self.gate(x).argmax(-1)
        y = torch.zeros_like(x)
        for index in range(3):
            (rows,) = torch.where(best == index)
            if len(rows):
                y.index_add_(0, rows, x[rows] @ self.experts[index])
        return self.head(y + self.down(F.gelu(self.up(x))))


def test_a_mixture_of_experts_is_frozen_where_it_routes_and_elastic_elsewhere():
    torch.manual_seed(0)
    model, x = Routed().double(), torch.randn(4, 6, dtype=torch.float64)
    net = Supernet(model, x)
    assert "mlp" in {group.kind for group in net.graph.elastic()}
    (expert,) = (g for g in net.graph.groups.values() if ("experts", 0) in g.members)
    assert expert.frozen
    net.extract(net.smallest)


class Cached(nn.Module):
    """Keeps its biases for evaluation in a dict until it is trained again, as LeViT does."""

    def __init__(self):
        super().__init__()
        self.project, self.out = nn.Linear(8, 24), nn.Linear(24, 3)
        self.biases, self.kept = nn.Parameter(torch.randn(24)), {}

    def train(self, mode=True):
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return self.out(self.project(x).relu() + 2 * self.biases)
        if "biases" not in self.kept:
            self.kept["biases"] = 2 * self.biases
        return self.out(self.project(x).relu() + self.kept["biases"])


@pytest.mark.parametrize("called", [False, True])
def test_what_a_module_caches_is_not_that_of_another_size(called):
    torch.manual_seed(0)
    model, x = Cached().double().eval(), torch.randn(2, 8, dtype=torch.float64)
    if called:
        model(x)
    net = Supernet(model, x)
    assert model.kept.keys() == ({"biases"} if called else set())
    (config,) = ({group.name: 8} for group in net.graph.elastic())
    expected = net.extract(config)(x)
    with net.active(config):
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    with net.active({}):
        full = model(x)
    torch.testing.assert_close(model(x), full, rtol=0, atol=1e-12)
