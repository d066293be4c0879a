"""Directories for this package and others: what is somebody's own stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_models import CLIP, CheckpointError, CLIPConfig, save_pretrained
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig

CONFIG = CLIPConfig(
    embed_dim=12,
    vision=ViTConfig(image_size=32, patch_size=8, width=24, num_layers=1, num_heads=3),
    text=TextConfig(context_length=9, vocab_size=50, width=16, num_layers=1, num_heads=2),
)
PREPROCESS = PreprocessConfig(size=32)


def test_a_user_written_card_stays(tmp_path: Path) -> None:
    card, model = tmp_path / "README.md", CLIP(CONFIG)
    card.write_text("My words.")
    assert card not in save_pretrained(tmp_path, model, PREPROCESS)
    save_pretrained(tmp_path, model, PREPROCESS, overwrite=True)
    assert card.read_text() == "My words."
    card.unlink()
    save_pretrained(tmp_path, model, PREPROCESS, overwrite=True, description="The first.")
    assert card in save_pretrained(
        tmp_path, model, PREPROCESS, overwrite=True, description="The second."
    )
    assert "The second." in card.read_text()


def test_existing_files_stay(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("words")
    written = save_pretrained(tmp_path, CLIP(CONFIG), PREPROCESS, files=[tokenizer])
    assert tokenizer not in written
    save_pretrained(tmp_path, CLIP(CONFIG), PREPROCESS, files=[tokenizer], overwrite=True)
    assert tokenizer.read_text() == "words"
    other = tmp_path / "deeper" / "tokenizer.json"
    other.parent.mkdir()
    other.write_text("others")
    with pytest.raises(CheckpointError, match=r"already has .*tokenizer\.json; nothing was"):
        save_pretrained(tmp_path, CLIP(CONFIG), PREPROCESS, files=[other])
