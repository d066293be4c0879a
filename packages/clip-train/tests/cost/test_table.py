"""The cost table of presets against arithmetic by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from clip_models import CLIP, CLIPConfig, ConfigError, save_model
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig
from clip_train.cost.assumptions import Accelerators
from clip_train.cost.flops import pair_cost
from clip_train.cost.table import cost_record, cost_table, plan_run
from clip_train.model.loading import resolve_model

SMALL = CLIPConfig(
    embed_dim=16,
    vision=ViTConfig(image_size=32, patch_size=4, width=32, num_layers=3, num_heads=2),
    text=TextConfig(width=16, num_layers=2, num_heads=2, context_length=20, vocab_size=64),
)


def test_table_of_a_preset_in_epochs() -> None:
    accelerators = Accelerators()
    run = plan_run("cifar10-compact", accelerators, num_samples=50_000)
    table = cost_table([run, run], accelerators)
    assert "cifar10-compact" in table
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
    file.write_text(f"{VARIABLE}grad_accum_steps = 2\n")
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


@pytest.mark.parametrize("wrong", [{"caption_tokens": 0}, {"num_samples": -5}])
def test_numbers_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be 1 or more"):
        plan_run("cifar10-cpu", Accelerators(), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"number": 0}, {"peak_tflops": math.nan}, {"utilization": 40}, {"price_per_hour": -1}],
)
def test_accelerators_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Accelerators(**wrong)


def test_a_token_budget_is_counted_by_its_lengths(tmp_path: Path) -> None:
    text = """
    [data]
    token_budget = 1300
    sequence_lengths = [4, 16]
    sequence_shares = [3.0, 1.0]
    caption_weight = 0.0
    [model]
    name = "ViT-B-32"
    vision = {native = true, image_size = 128, width = 64, num_heads = 1, num_layers = 1}
    [train]
    steps = 100
    """
    (tmp_path / "native.toml").write_text(text)
    run = plan_run(str(tmp_path / "native.toml"), Accelerators())
    batches, tokens = (1300 // 5, 1300 // 17), (5, 17)  # the class token is one more
    mean = 0.75 * batches[0] + 0.25 * batches[1]
    assert cost_record(run)["pairs"] == pytest.approx(100 * mean)
    weighed = 0.75 * batches[0] * tokens[0] + 0.25 * batches[1] * tokens[1]
    assert run.pair.image_tokens == round(weighed / mean)
