"""A tokenizer that does not belong to a text tower is refused, wherever the two meet."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_eval import EvaluationError, load_for_evaluation
from clip_eval.models.foreign_models import adapt_model
from clip_models import CLIP, CLIPConfig, Preprocess, save_model, save_pretrained
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig
from clip_tokenizer import Tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what transformers imports in its turn
    import transformers

SMALL = {"width": 32, "num_layers": 1, "num_heads": 2}
CONFIG = CLIPConfig(
    embed_dim=8, vision=ViTConfig(image_size=16, patch_size=8, **SMALL), text=TextConfig(**SMALL)
)
PREPROCESS = PreprocessConfig(size=16)


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CONFIG).eval()


@pytest.fixture
def folder(tmp_path: Path, model: CLIP) -> Path:
    """A directory for every library, of a tower of 49,408 ids."""
    save_pretrained(tmp_path / "m", model, PREPROCESS)
    return tmp_path / "m"


def test_two_words_for_a_tower_of_many(folder: Path) -> None:
    """What transformers makes up where a directory has no tokenizer."""
    with pytest.raises(EvaluationError, match=r"^hf:.*has only \d ids and the model 49,408"):
        load_for_evaluation(f"hf:{folder}")
    Tokenizer.openai().save(folder)
    assert load_for_evaluation(f"hf:{folder}").tokenizer(["a"]).shape == (1, 77)


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (Tokenizer.from_bytes(), "has only 514 ids and the model 49,408"),
        (Tokenizer.openai(extra_special_tokens=["<x>"]), "has 49,409 ids and the model only"),
        (Tokenizer.openai(context_length=78), "makes 78 tokens and the model reads 77"),
    ],
)
@pytest.mark.parametrize("kind", ["", "open_clip:local-dir:", "hf:"])
def test_another_tokenizer_beside_the_weights(
    folder: Path, kind: str, tokenizer: Tokenizer, words: str
) -> None:
    if kind != "hf:":  # its columns are the model's
        (folder / "open_clip_config.json").read_text()
    tokenizer.save(folder)
    if "78" in words:
        assert load_for_evaluation(f"{kind}{folder}").tokenizer(["a"]).shape == (1, 77)
    else:
        with pytest.raises(EvaluationError, match=words):
            load_for_evaluation(f"{kind}{folder}")


def test_the_end_token_must_be_the_one_that_is_read(tmp_path: Path, model: CLIP) -> None:
    text = replace(CONFIG.text, eot_token_id=3)
    other = CLIP(replace(CONFIG, text=text)).eval()
    save_model(tmp_path / "m", other, PREPROCESS)
    words = "end with the token 49407, and the model reads its feature at the token 3"
    with pytest.raises(EvaluationError, match=words):
        load_for_evaluation(tmp_path / "m")
    with pytest.raises(EvaluationError, match=words):
        adapt_model(other, Tokenizer.openai(), Preprocess(PREPROCESS))


def test_parts_in_memory(model: CLIP) -> None:
    preprocess: Any = Preprocess(PREPROCESS)
    adapt_model(model, Tokenizer.openai(), preprocess)
    adapt_model(model, lambda texts: torch.ones(len(texts), 77).long(), preprocess)  # says nothing
    with pytest.raises(EvaluationError, match="has only 514 ids"):
        adapt_model(model, Tokenizer.from_bytes(), preprocess)
    with pytest.raises(EvaluationError, match=r"has only \d ids"):
        adapt_model(model, transformers.CLIPTokenizer(), preprocess)
    theirs = open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        text_cfg={"vocab_size": 600, "width": 32, "heads": 2, "layers": 1},
    )
    with pytest.raises(EvaluationError, match="has 49,408 ids and the model only 600"):
        adapt_model(theirs, open_clip.SimpleTokenizer(), preprocess)
