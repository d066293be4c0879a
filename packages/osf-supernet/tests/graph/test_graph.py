from __future__ import annotations

import pytest
import torch
from osf_supernet.graph import build_graph
from osf_supernet.graph.explanation import explain, graph_to_dict, graph_to_dot
from torch import nn
from torch.nn import functional as F

X = torch.randn(2, 5, 24)


def kinds(graph):
    return sorted((group.kind, group.size) for group in graph.elastic())


def reasons(graph):
    return {group.name: group.frozen for group in graph.groups.values() if group.frozen}


class FusedAttention(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.qkv, self.out, self.how = nn.Linear(24, 72), nn.Linear(24, 24), how

    def forward(self, x):
        if self.how == "view":
            q, k, v = self.qkv(x).reshape(2, 5, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (t.view(2, 5, 3, 8).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, scale=8**-0.5)
        return self.out(y.transpose(1, 2).reshape(2, 5, 24))


@pytest.mark.parametrize("how", ["view", "chunk"])
def test_a_fused_projection_has_one_group_of_heads_however_it_is_split(how):
    graph = build_graph(FusedAttention(how), X)
    assert kinds(graph) == [("head_dim", 8), ("heads", 3)]
    heads = next(group for group in graph.elastic() if group.kind == "heads")
    assert heads.members == (("qkv.weight", 0), ("qkv.bias", 0), ("out.weight", 1))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(24, 80, bias=False), nn.Linear(40, 24)

    def forward(self, x):
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


def test_a_fused_gate_keeps_its_two_segments_tied():
    graph = build_graph(Gated(), X)
    assert kinds(graph) == [("mlp", 40)]
    axis = graph.tensors["up.weight"][0]
    assert axis.joined == "concat"
    assert axis.parts[0] == axis.parts[1]


class Merging(nn.Module):
    """Swin's patch merging: four neighbors side by side."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.reduce = nn.Linear(3, 24), nn.LayerNorm(96), nn.Linear(96, 7)

    def forward(self, x):
        x = self.embed(x)
        return self.reduce(self.norm(torch.cat([x, x.roll(1, 1), -x, x * 2], -1)))


def test_concatenated_neighbors_are_four_times_the_same_group():
    graph = build_graph(Merging(), torch.randn(2, 5, 3))
    assert kinds(graph) == [("embed", 24)]
    assert len(set(graph.tensors["norm.weight"][0].parts)) == 1


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(24, 40), nn.Linear(40, 24)

    def forward(self, x):
        return self.last(torch.renorm(self.first(x), 2, 0, 1.0))


def test_an_operator_without_a_rule_freezes_what_it_touches_by_name():
    graph = build_graph(Unknown(), X)
    assert kinds(graph) == []
    assert "renorm has no rule" in set(reasons(graph).values())


class Shuffled(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.first, self.last, self.how = nn.Linear(24, 40), nn.Linear(40, 24), how

    def forward(self, x):
        hidden = self.first(x)
        hidden = {
            "softmax": lambda: hidden.softmax(-1),
            "roll": lambda: hidden.roll(1, -1),
            "cumsum": lambda: hidden.cumsum(-1),
            "position": lambda: hidden * torch.arange(40),
            "index": lambda: hidden[..., torch.arange(39, -1, -1)],
            "sum": lambda: hidden * 1,
        }[self.how]()
        return self.last(hidden)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("softmax", "a softmax or a maximum"),
        ("roll", "moved by position"),
        ("cumsum", "order of its entries"),
        ("position", "range of positions"),
        ("index", "looked up by index"),
    ],
)
def test_what_tells_entries_apart_freezes_them(how, reason):
    graph = build_graph(Shuffled(how), X)
    assert kinds(graph) == []
    assert any(reason in text for text in reasons(graph).values())
    assert kinds(build_graph(Shuffled("sum"), X)) == [("mlp", 40)]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 24), nn.Linear(24, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids))


def test_a_tied_parameter_is_one_tensor_with_two_roles():
    graph = build_graph(Tied(), torch.zeros(2, 5, dtype=torch.long))
    assert graph.tensors["head.weight"] == graph.tensors["table.weight"]
    assert [(group.size, len(group.members)) for group in graph.elastic()] == [(24, 1)]


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.last, self.idle = nn.Linear(24, 40), nn.Linear(40, 4), nn.Linear(40, 4)

    def forward(self, x):
        return self.last(self.used(x))


def test_parameters_that_the_call_never_used_are_frozen():
    texts = reasons(build_graph(Unused(), X))
    assert "a tensor that the traced call never used has it" in {
        text for name, text in texts.items() if name.startswith("idle")
    }


class Block(nn.Module):
    def __init__(self, residual):
        super().__init__()
        self.norm, self.linear, self.residual = nn.LayerNorm(24), nn.Linear(24, 24), residual

    def forward(self, x):
        y = self.linear(self.norm(x))
        return x + y if self.residual else y


def test_only_blocks_with_a_residual_path_are_depth_units():
    graph = build_graph(nn.Sequential(*(Block(i != 1) for i in range(4))), X)
    assert [unit.position for unit in graph.units[""]] == [0, 2, 3]
    assert "1 has no residual path around it" in graph.refused[""]


def test_grouped_convolutions_and_group_norm_keep_whole_groups():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.GroupNorm(4, 12))
    model.append(nn.Conv2d(12, 5, 1))
    graph = build_graph(model, torch.randn(2, 3, 8, 8))
    sizes = {group.size: group for group in graph.groups.values()}
    assert sizes[4].frozen is None
    assert sizes[2].frozen is None
    assert "group normalization" in str(
        next(
            g.frozen
            for g in graph.groups.values()
            if g.size == 3 and g.frozen and "group" in g.frozen
        )
    )


def test_only_the_chosen_outputs_hold_their_width():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(24, 40), nn.Linear(40, 4)

        def forward(self, x):
            hidden = self.first(x)
            return {"hidden": hidden, "logits": self.last(hidden)}

    assert kinds(build_graph(Two(), X)) == []
    assert kinds(build_graph(Two(), X, outputs=["*logits*"])) == [("mlp", 40)]


def test_the_graph_as_words_data_and_drawing():
    graph = build_graph(Gated(), X)
    text = explain(graph, {"mlp": (8, 40)})
    assert "mlp  mlp 40  [8, 40]" in text
    assert "it is a dimension of the output" in text
    data = graph_to_dict(graph)
    assert {group["name"] for group in data["groups"]} == {g.name for g in graph.groups.values()}
    assert '"mlp" -- "m:down"' in graph_to_dot(graph)
