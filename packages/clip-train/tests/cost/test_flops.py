"""Costs against counts on real tensors and arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from clip_models import CLIP, CLIPConfig
from clip_models.config import PatchReductionConfig, TextConfig, ViTConfig
from clip_train.cost.assumptions import Accelerators
from clip_train.cost.flops import pair_cost, run_cost
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

SMALL = CLIPConfig(
    embed_dim=16,
    vision=ViTConfig(image_size=32, patch_size=4, width=32, num_layers=3, num_heads=2),
    text=TextConfig(width=16, num_layers=2, num_heads=2, context_length=20, vocab_size=64),
)


def test_image_flops_are_those_of_real_images() -> None:
    """On the meta device attention is two matrix products; on the CPU it is one fused operator, for
    which the counter of torch 2.14 and older has no formula and counts nothing."""
    cost = pair_cost(SMALL, image_size=32, caption_tokens=9)
    model = CLIP(SMALL)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formula = {fused: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=formula) as counter:
        model.encode_image(torch.rand(5, 3, 32, 32))
    assert cost.image_flops == counter.get_total_flops() / 5


def tower_flops(tokens: int, width: int, layers: int, projection: int) -> int:
    """Two FLOPs for each multiply; the last layer reads one token: its queries are computed with
    the keys and values, its attention, output and MLP for that token alone."""
    full = tokens * (4 + 8) * width**2 + 2 * tokens**2 * width
    read = (3 * tokens + 1 + 8) * width**2 + 2 * tokens * width
    return 2 * ((layers - 1) * full + read + width * projection)


def test_flops_by_hand() -> None:
    cost = pair_cost(SMALL, image_size=32, caption_tokens=9)
    stem = 2 * 64 * 3 * 4 * 4 * 32
    assert cost.image_flops == stem + tower_flops(65, 32, 3, 16)
    assert cost.text_flops == tower_flops(9, 16, 2, 16)
    # The backward pass computes two products for each; none for the gradient of the pixels.
    assert cost.training_flops == 3 * (cost.image_flops + cost.text_flops) - stem


def test_tokens_after_reduction() -> None:
    assert pair_cost(SMALL, image_size=32, caption_tokens=9).image_tokens == 65
    assert pair_cost(SMALL, image_size=16, caption_tokens=9).image_tokens == 17
    reduced = replace(SMALL.vision, patch_reduction=PatchReductionConfig(keep_ratio=0.25))
    cost = pair_cost(replace(SMALL, vision=reduced), image_size=32, caption_tokens=9)
    assert cost.image_tokens == 17
    assert cost.text_tokens == 9


def test_checkpointing_keeps_less_and_computes_more() -> None:
    plain, checkpointed = (
        pair_cost(SMALL, image_size=32, caption_tokens=9, gradient_checkpointing=on)
        for on in (False, True)
    )
    assert checkpointed.activation_bytes < 0.5 * plain.activation_bytes
    assert 1.2 < checkpointed.training_flops / plain.training_flops < 4 / 3
    assert checkpointed.image_flops == plain.image_flops


def test_run_cost_by_hand() -> None:
    cost = pair_cost(SMALL, image_size=32, caption_tokens=9)
    found = run_cost(
        SMALL,
        cost,
        pairs=1e12,
        accelerators=Accelerators(
            number=4, peak_tflops=100, utilization=0.5, price_per_hour=3, memory_gb=1
        ),
    )
    seconds = cost.training_flops * 1e12 / (4 * 100e12 * 0.5)
    assert found.days == pytest.approx(seconds / 86400)
    assert found.accelerator_hours == pytest.approx(4 * seconds / 3600)
    assert found.price == pytest.approx(3 * 4 * seconds / 3600)
    assert found.parameters == sum(p.numel() for p in CLIP(SMALL).parameters())
    assert found.state_bytes == 16 * found.parameters
