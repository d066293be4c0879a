"""The page of the CIFAR-10 reference names a counterpart of each of its names, and each exists."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
from clip_train import load_config

PAGE = (Path(__file__).parents[2] / "docs" / "cifar-clip.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
ORIGINAL = [
    "Bottleneck",
    "AttentionPool2d",
    "ModifiedResNet",
    "LayerNorm",
    "QuickGELU",
    "ResidualAttentionBlock",
    "Transformer",
    "CLIP",
    "convert_weights",
    "build_model",
    "CIFARCLIPDataset",
    "default_bpe",
    "bytes_to_unicode",
    "get_pairs",
    "basic_clean",
    "whitespace_clean",
    "SimpleTokenizer",
    "get_tokenizer",
    "tokenize",
    "collate_fn",
    "contrastive_loss",
    "create_model",
    "train_epoch",
    "validate",
    "main",
    "test_model_inference",
]
OURS = [name for row in ROWS for name in re.findall(r"`((?:clip|torch)_?\w*(?:\.\w+)+)`", row[1])]


@pytest.mark.parametrize("name", ORIGINAL)
def test_every_name_of_the_original_has_a_row(name: str) -> None:
    assert any(f"`{name}`" in row[0] for row in ROWS)


@pytest.mark.parametrize("name", OURS)
def test_every_counterpart_exists(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


def test_the_numbers_are_those_of_the_preset() -> None:
    config = load_config("cifar10")
    optim, train = config.optim, config.train
    assert (optim.name, optim.lr, optim.weight_decay, optim.schedule) == (
        "adamw",
        1e-4,
        0.01,
        "cosine",
    )
    assert (optim.warmup_steps, train.epochs, train.batch_size, train.seed) == (0, 50, 32, 42)
    assert (config.augment.kind, config.augment.pad, config.augment.flip) == ("shift", 4, True)
    assert len(OURS) > 20
