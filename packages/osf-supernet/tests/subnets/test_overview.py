"""What is printed and drawn of a supernet."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from osf_supernet import Supernet, ratios, sizes
from osf_supernet.graph import graph_to_html, graph_to_svg
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).mean(-1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture(scope="module")
def net():
    space = {"mlp": ratios(0.25, 1), "depth": sizes(1, 3)}
    return Supernet(Net(), torch.randn(2, 3, 6), space)


def test_explanations_begin_with_sizes_and_say_what_each_choice_is_worth(net):
    lines = net.explain().splitlines()
    total = sum(p.numel() for p in net.model.parameters())
    least = net.parameters_of(net.smallest)
    assert lines[0].startswith(f"Net: {total:,} parameters, ")
    assert lines[2].startswith(f"smallest subnet: {least:,} parameters ({least / total:.1%}), ")
    (row,) = (line for line in lines if line.startswith("  blocks.1.mlp "))
    saved = 1 - net.parameters_of({"blocks.1.mlp": 4}) / total
    flops = 1 - net.flops_of({"blocks.1.mlp": 4}) / net.flops_of({})
    assert row == (
        f"  blocks.1.mlp  mlp 16  [4, 16]  {saved:.1%} of the parameters, "
        f"{flops:.1%} of the operations"
    )
    assert "a convolution runs along it" not in net.explain()
    assert "a convolution runs along it" in net.explain(everything=True)
    assert "it is a dimension of the output" in net.explain()


def test_a_supernet_prints_as_a_short_table(net):
    text = repr(net)
    assert len(text.splitlines()) <= 7
    assert "mlp         3  4 … 16" in text
    assert "depth       1   1 … 3" in text


def texts_of(svg):
    return [element.text for element in svg.iter() if element.tag.endswith("text")]


def test_the_picture_has_a_title_a_legend_sizes_and_blocks_with_their_residual_paths(net):
    svg = ElementTree.fromstring(graph_to_svg(net.graph, net.choices, net.headline()))
    texts = texts_of(svg)
    assert texts[0] == net.headline()
    assert "mlp: hidden units" in texts
    assert texts.count("mlp (16)") == 3
    share = sum(p.numel() for p in net.model.blocks[0].parameters())
    share /= sum(p.numel() for p in net.model.parameters())
    assert f"blocks.0 · {share:.1%} of the parameters" in texts
    assert sum("4, 16" in text for text in texts) == 3
    arcs = [e for e in svg.iter() if e.tag.endswith("path") and e.get("fill") == "none"]
    assert len(arcs) == 3 + 1  # one in the legend
    rows = [float(e.get("y")) for e in svg.iter() if e.tag.endswith("text") if e.get("x") == "360"]
    assert all(later - earlier >= 16 for earlier, later in pairwise(rows))


def test_the_page_holds_the_picture_and_every_reason(net):
    page = graph_to_html(net.graph, net.choices, "<b>")
    assert "<b>" not in page
    assert "<svg" in page
    assert page.count("a convolution runs along it") == 1
    assert "<script" not in page
