"""What a backend that compiles every shape is asked for and cannot do is said before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError
from clip_models.config import from_dict
from clip_train.config.run import Config
from clip_train.distributed.single import SingleBackend
from clip_train.engine.model_setup import make_towers

POOLED = {"name": "dynamic", "after_layer": 1}


class Compiling(SingleBackend):
    """One process that says of itself what XLA does."""

    name = "xla"
    needs_fixed_shapes = True


def wrap(config: dict[str, Any], **towers: dict[str, Any]) -> None:
    shape = {"width": 16, "num_layers": 1, "num_heads": 2}
    vision = {"kind": "vit", "image_size": 32, "patch_size": 8, **shape, **towers.get("vision", {})}
    text = {"vocab_size": 20, "context_length": 8, **shape, **towers.get("text", {})}
    model = CLIP(from_dict(CLIPConfig, {"embed_dim": 8, "vision": vision, "text": text}))
    given = from_dict(Config, {"loss": {"kind": "infonce"}, **config})
    make_towers(model, None, given, Compiling(torch.device("cpu")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": {"kind": "multi_positive"}}, "XLA compiles every new shape; use 'infonce'"),
        ({"train": {"gradient_checkpointing": True}}, "gradient_checkpointing does not work on"),
        ({"train": {"compile": "inductor"}}, "XLA compiles every step"),
        ({"train": {"precision": "fp16"}}, "use 'bf16' or 'fp32'"),
        ({"optim": {"name": "muon"}}, "use 'adamw'"),
    ],
    ids=str,
)
def test_what_xla_cannot_do_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrap(config)


def test_token_pooling_on_xla_is_refused_in_both_towers() -> None:
    for tower in ("vision", "text"):
        with pytest.raises(ConfigError, match="token pooling makes as many segments as the data"):
            wrap({}, **{tower: {"pooling": POOLED}})
    wrap({})
