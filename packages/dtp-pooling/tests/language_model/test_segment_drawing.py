from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch
from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig
from dtp_pooling.language_model.segment_drawing import draw_svg
from dtp_pooling.language_model.segments import Cuts, find_cuts, find_segments

SVG = "{http://www.w3.org/2000/svg}"


def build(boundaries: BoundaryConfig, **changes: object) -> DynamicPoolingLM:
    torch.manual_seed(0)
    config = LanguageModelConfig(
        vocabulary=5,
        width=16,
        num_heads=2,
        head_dim=8,
        feedforward=32,
        pre_layers=1,
        shortened_layers=2,
        post_layers=1,
        boundaries=boundaries,
        **changes,
    )
    return DynamicPoolingLM(config).eval()


def text(length: int = 30) -> torch.Tensor:
    return torch.randint(0, 5, (length,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("window", [30, 8])
def test_closing_symbols_are_before_their_cuts(window):
    ids = text()
    model = build(BoundaryConfig(kind="whitespace", space=2))
    cuts = find_cuts(model, ids, 0, 30, window=window, stride=4)
    want = [place for place in range(1, 30) if ids[place - 1] == 2]
    assert [place for place, level in enumerate(cuts.levels) if level] == want
    assert cuts.probabilities is None


def test_routing_cuts_before_the_symbol_that_differs_and_nested_cuts_are_thicker():
    model = build(
        BoundaryConfig(kind="routing"), nested_layers=1, nested=BoundaryConfig(kind="fixed")
    )
    ids = text()
    out = model(ids[None])
    cuts = find_cuts(model, ids, 0, 30, window=64, stride=32)
    opens = [t for t in range(1, 30) if out.boundary_logits[0, t] > 0]
    assert [place for place, level in enumerate(cuts.levels) if level] == opens
    # segments 1, 3, 5, … close a pair with the null one and each other; the first opens at 0
    number = {t: j for j, t in enumerate(out.boundaries[0].nonzero().flatten().tolist(), start=1)}
    thick = [place for place, level in enumerate(cuts.levels) if level == 2]
    assert thick == [t for t in opens if number[t] % 2 == 1]
    found = find_segments(model, ids, 0, 30, window=64, stride=32)
    assert found == list(zip([0, *opens], [*opens, 30], strict=True))
    assert cuts.probabilities == pytest.approx(out.boundary_logits[0].sigmoid().tolist())


def test_drawings():
    symbols = ["a", "<", "\n", " ", "\x07"]
    cuts = Cuts([0, 1, 0, 2, 0], [0.5, 0.0, 1.0, 0.25, 0.1])
    root = ElementTree.fromstring(draw_svg(symbols, cuts))
    assert [node.text for node in root.iter(f"{SVG}text")] == ["a", "<", "⏎", " ", "·"]
    lines = list(root.iter(f"{SVG}line"))
    assert [line.get("stroke-width") for line in lines] == ["1", "3"]
    bars = [r for r in root.iter(f"{SVG}rect") if r.get("fill") == "#d08030"]
    assert [float(bar.get("height")) for bar in bars] == [11.0, 0.0, 22.0, 5.5, 2.2]
