"""Models from weights that the caller goes on using."""

from __future__ import annotations

import pytest
import torch
from clip_models import CLIP, CLIPConfig
from clip_models.config import TextConfig, ViTConfig
from clip_models.converters import Dialect, from_native
from clip_models.files import build_model

CONFIG = CLIPConfig(
    embed_dim=12,
    vision=ViTConfig(image_size=32, patch_size=8, width=24, num_layers=2, num_heads=3),
    text=TextConfig(context_length=9, vocab_size=50, width=16, num_layers=2, num_heads=2),
)


@pytest.mark.parametrize("dialect", ["clip-models", "open-clip", "hugging-face"])
@pytest.mark.parametrize("dtype", [torch.float32, None])
def test_training_a_built_model_leaves_the_state_dict_as_it_was(
    dialect: Dialect, dtype: torch.dtype | None
) -> None:
    state = from_native(CLIP(CONFIG).state_dict(), CONFIG, dialect)
    before = {key: value.clone() for key, value in state.items()}
    model = build_model(state, CONFIG, dtype=dtype)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert all(torch.equal(state[key], before[key]) for key in before)
