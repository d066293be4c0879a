"""The two files that Hugging Face libraries read besides `vocab.json` and `merges.txt`.

`tokenizer.json` describes the whole pipeline to the `tokenizers` library, `tokenizer_config.json`
names the class and the special tokens to `transformers`. Neither can express ftfy or HTML
entities, so a tokenizer loaded from them differs from ours on texts that need repair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_tokenizer.alphabet import END_OF_WORD
from clip_tokenizer.cleaning import CleanMode
from clip_tokenizer.vocabulary import Vocabulary
from clip_tokenizer.words import WORD_PATTERN

PRE_TOKENIZER: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {"Regex": f"(?i:{WORD_PATTERN})"},
            "behavior": "Removed",
            "invert": True,
        },
        {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
    ],
}
DECODER: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}


def make_tokenizer_config(vocabulary: Vocabulary, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `tokenizer_config.json`; our settings are under `clip_tokenizer`.

    transformers' `CLIPTokenizer` always lowers texts and reads no normalizer from `tokenizer.json`.
    """
    lowers = settings["clean"] == "lower"
    return {
        "tokenizer_class": "CLIPTokenizer" if lowers else "PreTrainedTokenizerFast",
        "bos_token": vocabulary.sot,
        "eos_token": vocabulary.eot,
        "unk_token": vocabulary.eot,
        "pad_token": vocabulary.eot,
        "model_max_length": settings["context_length"],
        "clip_tokenizer": dict(settings),
    }


def make_tokenizer_json(vocabulary: Vocabulary, clean: CleanMode) -> dict[str, Any]:
    """The content of `tokenizer.json`."""
    added = [_added_token(vocabulary.ids[token], token) for token in vocabulary.special_tokens]
    for token in vocabulary.added:
        entry = _added_token(vocabulary.ids[token.content], token.content)
        flags = {"single_word": token.single_word, "special": token.special}
        added.append({**entry, **flags, "normalized": not token.special})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": {"type": "Sequence", "normalizers": make_normalizers(clean)},
        "pre_tokenizer": PRE_TOKENIZER,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [vocabulary.eot, vocabulary.ids[vocabulary.eot]],
            "cls": [vocabulary.sot, vocabulary.ids[vocabulary.sot]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": DECODER,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": vocabulary.eot,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": END_OF_WORD,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(vocabulary.ids),
            "merges": [list(pair) for pair in vocabulary.merge_symbols()],
        },
    }


def _added_token(index: int, content: str) -> dict[str, Any]:
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def make_normalizers(clean: CleanMode) -> list[dict[str, Any]]:
    """The part of a cleaning mode that the format can express."""
    steps: list[dict[str, Any]] = [{"type": "NFC"}]
    if clean == "canonicalize":
        steps += [
            {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
            {"type": "Replace", "pattern": {"Regex": r"[!-/:-@\[-`{-~]"}, "content": ""},
        ]
    steps.append({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "})
    if clean != "whitespace":
        steps.append({"type": "Lowercase"})
    return steps
