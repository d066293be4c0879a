from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clip_eval import load_for_evaluation
from clip_eval.encoding.cost import count_flops, measure_cost
from clip_eval.encoding.encoder import Encoder
from clip_models.model import count_parameters
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


def test_operations_are_two_per_multiplication() -> None:
    layer, conv = nn.Linear(5, 7), nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        assert count_flops(lambda: layer(torch.zeros(2, 5))) == 2 * 2 * 5 * 7
        assert count_flops(lambda: conv(torch.zeros(1, 3, 8, 8))) == 2 * 8 * 8 * 4 * 3 * 9
        q = torch.zeros(1, 2, 6, 4)
        assert count_flops(lambda: scaled_dot_product_attention(q, q, q)) == 2 * 2 * 2 * 6 * 6 * 4
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        plain = 2 * 5 * (3 * 64 + 64 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 8
        assert count_flops(lambda: block(torch.zeros(1, 5, 8))) == plain  # no fused kernel hides it
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_shared_parameter_counts_once() -> None:
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == 12


def test_what_a_model_costs(trained_directory: Path) -> None:
    loaded = load_for_evaluation(trained_directory)
    encoder = Encoder(loaded.model, loaded.tokenizer, loaded.preprocess)
    found = measure_cost(encoder, batch_sizes=(1, 4), repeats=3, warmup=1)
    assert found["parameters"] == count_parameters(loaded.model)
    assert found["image_flops"] > found["text_flops"] > 0
    assert found["input_pixels"] == [16, 16]
    assert [row["batch"] for row in found["image_latency"]] == [1, 4]
    for row in found["image_latency"] + found["text_latency"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["per_second"] == pytest.approx(1000 * row["batch"] / row["p50_ms"], rel=0.01)
    assert found["device"]
