"""The presets of published recipes: their numbers, and that each of them really runs."""

from __future__ import annotations

import dataclasses
from functools import reduce
from pathlib import Path
from typing import Any

import clip_tokenizer.reduction
import pytest
import torch
from clip_eval import EvaluationConfig, evaluate, load_for_evaluation
from clip_eval.data import open_source
from clip_models import CLIP
from clip_models.config import ModifiedResNetConfig, PreprocessConfig
from clip_train import Config, load_config, train
from clip_train.cost.flops import Accelerators
from clip_train.cost.table import plan_run
from clip_train.model.loading import resolve_model, resolve_preprocess
from clip_train.optim.learning_rate import learning_rate, resolve_steps

# Li, Wang and Xie 2023, "An Inverse Scaling Law for CLIP Training" and "CLIPA-v2", and their code.
CLIPA = {
    "optim.betas": (0.9, 0.95),
    "optim.eps": 1e-6,
    "optim.weight_decay": 0.2,
    "optim.schedule": "cosine",
    "optim.clip_norm": None,
    "train.precision": "bf16",
    "train.gradient_checkpointing": True,
    "loss.kind": "infonce",
    "augment.kind": "random_resized_crop",
    "augment.scale": (0.4, 1.0),
}
JITTERED = {
    "augment.color_jitter": (0.32, 0.32, 0.32, 0.08),
    "augment.color_jitter_probability": 0.8,
    "augment.grayscale_probability": 0.2,
}
PLAIN = {"augment.color_jitter": (0, 0, 0, 0), "augment.grayscale_probability": 0}


def clipa(
    lr: float, batch: int, samples: int, warmup: int, image: int, text: int, **more: Any
) -> dict[str, Any]:
    """A row of CLIPA's scripts; `warmup` in steps, as they give it."""
    return {
        **CLIPA,
        "optim.lr": lr,
        "train.batch_size": batch,
        "train.samples": samples,
        "warmup": warmup,
        "model.vision.image_size": image,
        "model.text.context_length": text,
        **more,
    }


FINETUNE = 131_072_000
H14_1, H14_2, H14_3 = (
    clipa(2.048e-3, 65536, 12_800_000_000, 3200, 84, 8, **PLAIN),
    clipa(5.12e-5, 32768, 524_288_000, 800, 224, 32, **PLAIN),
    clipa(6.4e-6, 16384, FINETUNE, 1600, 336, 32, **PLAIN),
)
# Mehta et al. 2022, "RangeAugment", and CoreNet's configuration of CLIP.
CORENET = {
    "optim.lr": 1e-3,
    "optim.first_lr": 1e-6,
    "optim.final_lr": 1e-6,
    "optim.betas": (0.9, 0.98),
    "optim.eps": 1e-6,
    "optim.weight_decay": 0.2,
    "optim.ema_decay": 1 - 5e-4,
    "train.steps": 200_000,
    "train.batch_size": 65536,
    "train.precision": "fp16",
    "warmup": 10_000,
    "augment.kind": "random_resized_crop",
    "augment.scale": (0.9, 1.0),
    "augment.flip": False,
    "augment.range.enabled": False,
    "data.variable_sizes.num_sizes": 5,
    "data.variable_sizes.min_size": 160,
    "data.variable_sizes.max_size": 320,
    "data.variable_sizes.divisor": 32,
    "data.variable_sizes.batch_multiple": 256,
    "model.vision.width": 768,
    "model.vision.stem": "conv",
    "preprocess.mean": (0, 0, 0),
    "preprocess.std": (1, 1, 1),
    "preprocess.interpolation": "bilinear",
}


def fast_clip(epochs: int, batch: int) -> dict[str, Any]:
    """A row of Fast-CLIP's training plans."""
    return {
        "train.epochs": epochs,
        "train.batch_size": batch,
        "optim.lr": 1e-4,
        "optim.betas": (0.9, 0.999),  # open_clip's for all but ViT, and so is eps
        "optim.eps": 1e-8,
        "optim.weight_decay": 0.1,
        "warmup": 50,
        "model.vision.layers": (3, 4, 6, 3),
        "model.vision.width": 64,
        "loss.kind": "infonce",
    }


POOLED = {
    "train.batch_size": 2048,
    "train.epochs": 15,
    "optim.lr": 5e-5,
    "optim.weight_decay": 0.1,
    "warmup": 50,
    "model.vision.patch_size": 16,
    "model.vision.pooling.name": "dynamic",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "clipa-b16-i50-t16": clipa(2.048e-3, 65536, 2_400_000_000, 782, 112, 16, **PLAIN),
    "clipa-b16-i50-t16-finetune": clipa(2.56e-5, 8192, FINETUNE, 3072, 224, 16, **PLAIN),
    "clipa-l16-i17-t16": clipa(
        1.024e-3,
        32768,
        2_400_000_000,
        1563,
        64,
        16,
        **JITTERED,
        **{"tokenizer.reduction": "syntax", "model.vision.position": "sin_cos"},
    ),
    "clipa-l16-i17-t16-finetune": clipa(
        2.24e-5, 7168, FINETUNE, 3571, 224, 16, **JITTERED, **{"model.vision.position": "learned"}
    ),
    "clipa-l16-i37-t8": clipa(
        1.024e-3,
        32768,
        2_400_000_000,
        1563,
        96,
        8,
        **JITTERED,
        **{"tokenizer.reduction": "syntax", "model.vision.readout": "average"},
    ),
    "clipa-l16-i37-t8-finetune": clipa(2.24e-5, 7168, FINETUNE, 3571, 224, 32, **JITTERED),
    "clipa-v2-h14-84": {**H14_1, "model.vision.width": 1280},
    "clipa-v2-h14-224": {**H14_2, "model.vision.patch_reduction.keep_ratio": 0.7},
    "clipa-v2-h14-336": {**H14_3, "model.vision.patch_reduction.keep_ratio": 0.6},
    "clipa-v2-l14-84": {**H14_1, "model.vision.width": 1024, "model.vision.readout": "average"},
    "clipa-v2-l14-224": {**H14_2, "model.vision.patch_size": 14},
    "clipa-v2-l14-336": {**H14_3, "model.vision.patch_reduction.kind": "random"},
    "corenet-vit-b16": CORENET,
    "corenet-range-augment": {
        **CORENET,
        "optim.lr": 5e-4,
        "warmup": 1000,
        "train.steps": 150_000,
        "augment.range.enabled": True,
        "augment.range.target_psnr": (40, 20),
        "augment.range.curriculum": "cosine",
        "augment.range.weight": 100,
    },
    **{
        f"{data}-rn50-{epochs}": fast_clip(epochs, batch)
        for data in ("coco", "laion")
        for epochs, batch in ((1, 128), (3, 32), (10, 32), (30, 32))
    },
    "pooled-vit-b16": {**POOLED, "model.vision.pooling.args": {"kind": "top_k", "rate": 0.25}},
    "pooled-text-b16": {**POOLED, "model.text.pooling.args": {"kind": "gumbel", "rate": 0.5}},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_are_the_published_ones(name: str) -> None:
    config = load_config(name)
    model = resolve_model(config.model)
    roots = {
        "model": model,
        "preprocess": resolve_preprocess(config.model, PreprocessConfig()),
    }
    optim, batch = config.optim, config.train.batch_size
    for key, expected in PUBLISHED[name].items():
        if key == "warmup":
            assert resolve_steps(optim.warmup_steps, optim.warmup_samples, batch) == expected
            continue
        root, *path = key.split(".")
        found = reduce(getattr, path, roots.get(root) or getattr(config, root))
        assert (
            found == pytest.approx(expected) if isinstance(expected, float) else expected == found
        )


def test_learning_rates_of_corenet() -> None:
    """1e-6 to 1e-3 over 10,000 steps, and back to 1e-6 at step 200,000."""
    optim = load_config("corenet-vit-b16").optim
    rates = {step: learning_rate(optim, step, 200_000, 65536) for step in (0, 9_999, 104_999)}
    assert rates[0] == pytest.approx(1e-6 + (1e-3 - 1e-6) / 10_000)
    assert rates[9_999] == pytest.approx(1e-3)
    assert rates[104_999] == pytest.approx((1e-3 + 1e-6) / 2, rel=1e-4)
    assert learning_rate(optim, 199_999, 200_000, 65536) == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_preset_builds_at_full_size(name: str) -> None:
    config = resolve_model(load_config(name).model)
    with torch.device("meta"):
        model = CLIP(config)
    assert sum(parameter.numel() for parameter in model.parameters()) > 10**8


def test_plan_of_a_family_of_phases() -> None:
    """i50, t16: 7 x 7 patches and a class token at 112 px, 14 x 14 at 224 px."""
    accelerators = Accelerators(number=8)
    first, second = (
        plan_run(name, accelerators) for name in ("clipa-b16-i50-t16", "clipa-b16-i50-t16-finetune")
    )
    assert (first.pair.image_tokens, first.pair.text_tokens) == (50, 16)
    assert (second.pair.image_tokens, second.pair.text_tokens) == (197, 16)
    assert first.run.days > second.run.days


def reduced(config: Config, shapes: Path) -> Config:
    """The recipe on small towers and small batches; everything that makes it a recipe stays."""
    vision: dict[str, Any] = {"width": 16, "num_heads": 2, "num_layers": 3}
    if isinstance(resolve_model(config.model).vision, ModifiedResNetConfig):
        vision = {"width": 8, "num_heads": 4, "layers": [1, 1, 1, 1]}
    settings = {
        "vision": {**config.model.vision, **vision},
        "text": {**config.model.text, "width": 16, "num_heads": 2, "num_layers": 3},
    }
    sizes = dataclasses.replace(config.data.variable_sizes, batch_multiple=1)
    changes: dict[str, dict[str, Any]] = {
        "data": {
            "train": f"wds:{shapes}/train",
            "val": f"{shapes}/val",
            "workers": 0,
            "variable_sizes": sizes,
        },
        "model": settings,
        "train": {"steps": 3, "batch_size": 4, "samples": None},
        "eval": {"every_samples": None, "every_steps": None},
        "checkpoint": {"every_samples": None, "every_steps": None},
        "log": {"every_steps": 1},
    }
    return dataclasses.replace(
        config,
        needs=(),  # a phase that starts from the weights of the last is tried from scratch
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in changes.items()
        },
    )


def tag_by_length(text: str) -> list[tuple[str, str]]:
    """Stands in for nltk's tagger, whose data needs a network."""
    return [(word, "NN" if len(word) > 3 else "JJ") for word in text.split()]


FAMILIES = {"clipa-l16-i17-t16", "corenet-range-augment", "coco-rn50-1", "pooled-text-b16"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow)
        for name in PUBLISHED
    ],
)
def test_three_real_steps(
    name: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_syntax = clip_tokenizer.SyntaxOrder(tagger=tag_by_length)
    monkeypatch.setitem(clip_tokenizer.reduction.REDUCTIONS, "syntax", by_syntax)
    result = train(reduced(load_config(name), shapes), tmp_path / "run", progress=False)
    assert result is not None
    model = load_for_evaluation(tmp_path / "run")
    again = evaluate(
        model.model,
        open_source(f"{shapes}/val"),
        tokenizer=model.tokenizer,
        preprocess=model.preprocess,
        config=EvaluationConfig(templates=model.templates),
    )
    assert again.metrics["acc1"] == result.metrics["acc1"]
    assert again.n == result.n > 0
