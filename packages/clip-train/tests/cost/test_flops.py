"""Costs against counts on real tensors and arithmetic by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import clip_train.logs.utilization
import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError, save_model
from clip_models.config import PatchReductionConfig, PreprocessConfig, TextConfig, ViTConfig
from clip_train.config.run import Config, LogConfig
from clip_train.config.training import TrainConfig
from clip_train.cost.assumptions import Accelerators
from clip_train.cost.flops import pair_cost, run_cost
from clip_train.cost.table import cost_table, plan_run
from clip_train.distributed.single import SingleBackend
from clip_train.logs.utilization import Utilization
from clip_train.model.loading import resolve_model
from clip_train.objectives.batch import StepInputs
from clip_train.objectives.candidates import separate_candidates
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


def test_table_of_a_preset_in_epochs() -> None:
    accelerators = Accelerators()
    run = plan_run("cifar10-cpu", accelerators, num_samples=50_000)
    table = cost_table([run, run], accelerators)
    assert "cifar10-cpu" in table
    assert table.splitlines()[4].split()[0] == "all"
    assert run.run.training_flops == pytest.approx(run.pair.training_flops * 6 * 50_000)
    with pytest.raises(ConfigError, match="--num-samples"):
        plan_run("cifar10-cpu", accelerators)


VARIABLE = """
[model]
name = "Compact-48"
text = { width = 16, num_layers = 1, num_heads = 2 }
[model.vision]
kind = "vit"
image_size = 32
patch_size = 8
width = 16
num_layers = 1
num_heads = 2
[data.variable_sizes]
num_sizes = 2
min_size = 16
max_size = 64
divisor = 16
[train]
steps = 30
batch_size = 64
"""


def test_image_sizes_and_accumulation_are_counted(tmp_path: Path) -> None:
    """Batches of 256 images of 16 px, 64 of 32 and 16 of 64, ten of each."""
    file = tmp_path / "run.toml"
    file.write_text(VARIABLE)
    run = plan_run(str(file), Accelerators())
    model = resolve_model(run.config.model)
    costs = {
        10 * batch: pair_cost(model, image_size=size, caption_tokens=17)
        for size, batch in ((16, 256), (32, 64), (64, 16))
    }
    once = sum(pairs * cost.training_flops for pairs, cost in costs.items())
    assert run.run.training_flops == pytest.approx(once)
    assert run.pair.training_flops == pytest.approx(once / 3360)
    file.write_text(f"{VARIABLE}accumulation = 2\n")
    again = sum(pairs * (cost.image_flops + cost.text_flops) for pairs, cost in costs.items())
    twice = plan_run(str(file), Accelerators())
    assert twice.run.training_flops == pytest.approx(once + again)
    assert twice.activation_bytes == pytest.approx(run.activation_bytes / 2)


def test_the_model_of_a_directory(tmp_path: Path) -> None:
    save_model(tmp_path / "model", CLIP(SMALL), PreprocessConfig(size=32))
    file = tmp_path / "run.toml"
    file.write_text(f"[model]\npretrained = '{tmp_path}/model'\n[train]\nsteps = 1\n")
    run = plan_run(str(file), Accelerators())
    assert run.run.parameters == sum(p.numel() for p in CLIP(SMALL).parameters())
    file.write_text("[model]\npretrained = 'hf-hub:org/name'\n[train]\nsteps = 1\n")
    with pytest.raises(ConfigError, match=r"or name the model .* with model\.name"):
        plan_run(str(file), Accelerators())


@pytest.mark.parametrize("compiled", [False, True])
def test_utilisation_is_of_captions_without_padding(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two captions of 8 and 12 tokens, four images: 5 tokens a pair, or twice the context of 20."""
    clock = SimpleNamespace(perf_counter=iter((0.0, 1.0)).__next__)
    monkeypatch.setattr(clip_train.logs.utilization, "time", clock)
    backend = SingleBackend(torch.device("cpu"))
    config = Config(
        log=LogConfig(peak_tflops=1.0), train=TrainConfig(compile="inductor" if compiled else "")
    )
    captions = torch.zeros(2, 20, dtype=torch.long)
    captions[0, :8] = captions[1, :12] = 7
    candidates = separate_candidates(torch.tensor([0, 1, 1, 1]), backend)
    inputs = StepInputs(torch.zeros(4, 3, 32, 32), captions, *torch.zeros(2, 4), candidates)
    found = Utilization(config, SMALL, backend)
    found.add(inputs, captions, 4)
    cost = pair_cost(SMALL, image_size=32, caption_tokens=10 if compiled else 5)
    assert found.read()["mfu"] * 1e12 == pytest.approx(4 * cost.training_flops, rel=0.01)


@pytest.mark.parametrize("wrong", [{"caption_tokens": 0}, {"num_samples": -5}])
def test_impossible_numbers(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be 1 or more"):
        plan_run("cifar10-cpu", Accelerators(), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"number": 0}, {"peak_tflops": math.nan}, {"utilization": 40}, {"price_per_hour": -1}],
)
def test_impossible_accelerators(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Accelerators(**wrong)
