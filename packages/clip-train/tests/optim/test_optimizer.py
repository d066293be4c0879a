"""Groups without decay, layer-wise decay, and the learning rate over a run."""

from __future__ import annotations

import math

import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError
from clip_models.config import from_dict
from clip_train.config.training import OptimConfig
from clip_train.model.tower_groups import lock_tower, tower_groups
from clip_train.optim.learning_rate import learning_rate
from clip_train.optim.optimizer import Optimizers, layer_factors


def tiny_clip() -> CLIP:
    values = {
        "embed_dim": 4,
        "vision": {
            "kind": "vit",
            "image_size": 8,
            "patch_size": 4,
            "width": 8,
            "num_layers": 3,
            "num_heads": 2,
        },
        "text": {
            "context_length": 6,
            "vocab_size": 16,
            "width": 8,
            "num_layers": 2,
            "num_heads": 2,
        },
    }
    torch.manual_seed(0)
    return CLIP(from_dict(CLIPConfig, values))


def small() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.register_parameter("logit_scale", torch.nn.Parameter(torch.tensor(1.0)))
    return model


def test_only_matrices_decay() -> None:
    groups = list(Optimizers(small(), OptimConfig(weight_decay=0.3)).groups)
    decayed = [group for group in groups if group["weight_decay"] == 0.3]
    plain = [group for group in groups if group["weight_decay"] == 0.0]
    assert [tuple(p.shape) for group in decayed for p in group["params"]] == [(2, 3)]
    assert sorted(tuple(p.shape) for group in plain for p in group["params"]) == [
        (),
        (2,),
        (2,),
        (2,),
    ]


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.Linear(3, 2).requires_grad_(False)
    model.bias.requires_grad_(True)
    groups = list(Optimizers(model, OptimConfig()).groups)
    assert [len(group["params"]) for group in groups] == [1]


def test_groups_go_from_the_input_to_the_output() -> None:
    groups = tower_groups(tiny_clip())
    assert [len(groups[tower]) for tower in ("image", "text")] == [5, 4]
    image, text = groups["image"], groups["text"]
    assert "visual.conv1.weight" in image[0]
    assert "visual.positional_embedding" in image[0]
    assert all(name.startswith("visual.transformer.resblocks.1.") for name in image[2])
    assert set(image[-1]) == {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj"}
    assert set(text[0]) == {"token_embedding.weight", "positional_embedding"}
    assert set(text[-1]) == {"ln_final.weight", "ln_final.bias", "text_projection"}
    named = {name for tower in groups.values() for group in tower for name in group}
    assert named == {name for name, _ in tiny_clip().named_parameters()} - {"logit_scale"}


def test_a_tower_is_locked_but_for_its_last_groups() -> None:
    model = tiny_clip()
    lock_tower(model, "image", unlocked_groups=2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    image = {name for name in trained if name.startswith("visual.")}
    assert image == {name for group in tower_groups(model)["image"][-2:] for name in group}
    assert {"token_embedding.weight", "logit_scale"} <= trained


def test_the_norms_of_a_locked_tower_keep_their_statistics() -> None:
    model = torch.nn.Module()
    model.visual = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    lock_tower(model, "image", unlocked_groups=0)
    model.train()
    assert model.visual.training
    assert not model.visual[0].training


def test_layers_learn_the_slower_the_further_from_the_output() -> None:
    model = tiny_clip()
    config = OptimConfig(lr=1.0, image_layer_decay=0.5)
    factors = layer_factors(model, config)
    assert factors["visual.proj"] == 1.0
    assert factors["visual.transformer.resblocks.2.ln_1.weight"] == 0.5
    assert factors["visual.transformer.resblocks.0.ln_1.weight"] == 0.125
    assert factors["visual.conv1.weight"] == 0.0625
    assert factors["text_projection"] == factors["token_embedding.weight"] == 1.0
    optimizers = Optimizers(model, config)
    optimizers.set_rate(0.8)
    rates = {
        optimizers.names[p]: group["lr"] for group in optimizers.groups for p in group["params"]
    }
    assert rates["visual.conv1.weight"] == pytest.approx(0.05)
    assert rates["logit_scale"] == optimizers.rate == 0.8


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest() -> None:
    model = tiny_clip()
    optimizers = Optimizers(model, OptimConfig(name="muon", lr=0.1))
    adamw, muon = optimizers.optimizers
    taken = {optimizers.names[p] for group in muon.param_groups for p in group["params"]}
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in taken
    assert all(".resblocks." in name for name in taken)
    others = {optimizers.names[p] for group in adamw.param_groups for p in group["params"]}
    assert {"visual.proj", "token_embedding.weight", "logit_scale"} <= others
    assert taken | others == {name for name, _ in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizers.step()
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_making_the_state_changes_no_weight_and_no_later_step(name: str) -> None:
    weights = []
    for initialise in (False, True):
        model = tiny_clip()
        optimizers = Optimizers(model, OptimConfig(name=name, lr=0.01))
        before = [p.detach().clone() for p in model.parameters()]
        if initialise:
            optimizers.initialize()
            assert all(map(torch.equal, before, [p.detach() for p in model.parameters()]))
        for p in model.parameters():
            p.grad = torch.linspace(-1, 1, p.numel()).view_as(p)
        optimizers.step()
        weights.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *weights))


def rates(config: OptimConfig, total: int, batch_size: int = 1) -> list[float]:
    return [learning_rate(config, step, total, batch_size) for step in range(total)]


def test_warmup_then_cosine() -> None:
    found = rates(OptimConfig(lr=2.0, warmup_steps=4), 12)
    assert found[:4] == [0.5, 1.0, 1.5, 2.0]
    expected = [1 + math.cos(math.pi * k / 8) for k in range(8)]
    assert found[4:] == pytest.approx(expected)
    assert found[-1] > 0


def test_warmup_then_a_line_to_zero() -> None:
    config = OptimConfig(lr=2.0, warmup_steps=4, schedule="linear")
    assert rates(config, 8) == [0.5, 1.0, 1.5, 2.0, 2.0, 1.5, 1.0, 0.5]
    assert learning_rate(config, 8, 8, 1) == 0.0
    found = rates(OptimConfig(lr=2.0, final_lr=1.0, schedule="linear"), 4)
    assert found == [2.0, 1.75, 1.5, 1.25]


def test_constant_and_no_warmup() -> None:
    assert rates(OptimConfig(lr=2.0, schedule="constant"), 3) == [2.0] * 3


def test_constant_then_down() -> None:
    config = OptimConfig(lr=2.0, schedule="constant_cooldown", cooldown_steps=4, warmup_steps=1)
    assert rates(config, 7) == [2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]
    assert rates(OptimConfig(lr=2.0, schedule="constant_cooldown"), 3) == [2.0] * 3


def test_a_warmup_longer_than_the_run_only_warms_up() -> None:
    assert rates(OptimConfig(lr=1.0, warmup_steps=10), 3)[2] == pytest.approx(0.3)


def test_lengths_in_samples_are_whole_steps() -> None:
    config = OptimConfig(
        lr=1.0,
        schedule="constant_cooldown",
        warmup_samples=15,
        warmup_steps=99,
        cooldown_samples=20,
    )
    assert rates(config, 6, batch_size=8) == pytest.approx([1 / 2, 1, 1, 1, 2 / 3, 1 / 3])


def test_the_rate_follows_the_batch_by_a_rule() -> None:
    for rule, expected in (("fixed", 1.0), ("linear", 4.0), ("sqrt", 2.0)):
        config = OptimConfig(lr=1.0, lr_rule=rule, lr_batch_size=64, schedule="constant")
        assert learning_rate(config, 0, 9, 256) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cooldown_steps": 3}, "goes with schedule 'constant_cooldown'"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \(0, 1\)"),
        ({"image_layer_decay": 0.0}, "image_layer_decay must be positive"),
        ({"warmup_samples": -1}, "warmup_samples must be 0 or more"),
    ],
)
def test_what_cannot_be(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**values)
