"""The tokenizer that a model's name, config or directory asks for: the packages agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clip_eval import load_for_evaluation
from clip_models import CLIP, CLIPConfig, get_config, list_models, save_model
from clip_models.config import PreprocessConfig, TextConfig, TokenizerConfig, ViTConfig
from clip_models.converters import to_open_clip
from clip_models.files import save_config
from clip_tokenizer import HFTokenizer, Tokenizer, TokenizerError, get_tokenizer

UNKNOWN = ("google/mt5-base", "facebook/xlm-v-base")
"""Tokenizers that configs name and that no model's name stands for."""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat"]
SEP = WORDS.index("[SEP]")


@pytest.fixture
def word_piece(tmp_path: Path) -> Path:
    """BERT's tokenizer with six words."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def asked(word_piece: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The repositories asked for of a hub on which each holds the six words."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    repositories: list[str] = []

    def download(repository: str, name: str, **_: object) -> str:
        repositories.append(repository)
        if not (word_piece / name).is_file():
            raise EntryNotFoundError(name)
        return str(word_piece / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return repositories


@pytest.mark.parametrize("name", list_models())
def test_a_name_means_what_its_config_says(name: str, asked: list[str]) -> None:
    text = get_config(name).text
    wanted = text.tokenizer or TokenizerConfig()
    if wanted.name in UNKNOWN:
        with pytest.raises(TokenizerError, match="no tokenizer is known for the model"):
            get_tokenizer(name)
        return
    for model in (name, get_config(name), text):
        found = get_tokenizer(model)
        assert found.context_length == text.context_length
        if wanted.name == "clip":
            assert isinstance(found, Tokenizer)
            assert found.vocab_size == text.vocab_size
            assert found.clean == "lower"
            reduction = {None: "truncate", "syntax": "syntax-clipa"}
            assert found.reduction == reduction[wanted.options.get("reduction_mask")]
        else:
            assert isinstance(found, HFTokenizer)
            assert set(asked) == {wanted.name}
            assert found.clean == wanted.options.get("clean", "whitespace")
            blank = SEP if wanted.options.get("strip_sep_token") else None
            assert found.blank_token_id == blank


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-L-14-CLIPA"])
def test_our_config_beside_the_files_counts_as_open_clips_does(name: str, word_piece: Path) -> None:
    config = get_config(name)
    theirs = word_piece / "open_clip_config.json"
    theirs.write_text(json.dumps({"model_cfg": to_open_clip(config)}), encoding="utf-8")
    expected = get_tokenizer(word_piece).encode_batch(["A Cat, a_CAT!"], 8)
    theirs.unlink()
    save_config(word_piece, config, PreprocessConfig())
    found = get_tokenizer(word_piece).encode_batch(["A Cat, a_CAT!"], 8)
    assert np.array_equal(found, expected)
    assert (SEP in found) == ("CLIPA" not in name)


def test_an_evaluation_reads_as_the_config_says(word_piece: Path) -> None:
    small = {"width": 8, "num_layers": 1, "num_heads": 1}
    tokenizer = TokenizerConfig(name="bert-base-uncased", options={"strip_sep_token": True})
    config = CLIPConfig(
        embed_dim=8,
        vision=ViTConfig(image_size=8, patch_size=4, **small),
        text=TextConfig(context_length=6, vocab_size=6, tokenizer=tokenizer, **small),
    )
    save_model(word_piece, CLIP(config), PreprocessConfig(size=8))
    found = load_for_evaluation(word_piece).tokenizer(["a cat"])
    assert found.tolist() == [[2, 4, 5, 0, 0, 0]]
