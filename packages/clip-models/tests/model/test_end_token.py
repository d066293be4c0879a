"""The text feature is read at the end token that the config says, not at the largest id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import transformers
from clip_models import CLIP, CLIPConfig, save_pretrained
from clip_models.config import PreprocessConfig, TextConfig, TokenizerConfig, ViTConfig
from clip_models.converters import (
    from_hugging_face_config,
    from_open_clip,
    to_hugging_face_config,
    to_open_clip,
)

SMALL = {"width": 64, "num_layers": 1, "num_heads": 1}
GROWN = CLIPConfig(
    embed_dim=8,
    vision=ViTConfig(image_size=16, patch_size=8, **SMALL),
    text=TextConfig(vocab_size=49410, context_length=77, **SMALL),
)
TOKENS = torch.zeros(3, 77, dtype=torch.int64)
TOKENS[0, :5] = torch.tensor([49406, 49408, 5, 6, 49407])  # an added token, whose id is the largest
TOKENS[1, :5] = torch.tensor([49406, 49408, 7, 8, 49407])
TOKENS[2, :3] = torch.tensor([49406, 5, 49407])


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(GROWN).eval()


def test_ids_above_clip_s_own_are_no_end(model: CLIP) -> None:
    said = CLIP(replace(GROWN, text=replace(GROWN.text, eot_token_id=49407))).eval()
    said.load_state_dict(model.state_dict())
    features = model.encode_text(TOKENS)
    assert torch.equal(features, said.encode_text(TOKENS))
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert model.trim_tokens(TOKENS, multiple=1).shape == (3, 5)


def test_peers_read_it_there_too(model: CLIP, tmp_path: Path) -> None:
    save_pretrained(tmp_path, model, PreprocessConfig(size=16))
    expected = model.encode_text(TOKENS)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    torch.testing.assert_close(theirs.encode_text(TOKENS), expected, rtol=0, atol=1e-5)
    found = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    features = found.get_text_features(input_ids=TOKENS)
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    assert from_open_clip(to_open_clip(GROWN)).text.end_token_id == 49407
    assert from_hugging_face_config(to_hugging_face_config(GROWN)).text.end_token_id == 49407


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ({}, 49407),
        ({"vocab_size": 600}, 599),
        ({"vocab_size": 600, "eot_token_id": 513}, 513),
        ({"vocab_size": 49500}, 49407),
        ({"vocab_size": 250100, "tokenizer": TokenizerConfig(name="google/mt5-base")}, 250099),
    ],
)
def test_the_end_token_of_a_config(values: dict[str, object], end: int) -> None:
    assert TextConfig(**values).end_token_id == end
