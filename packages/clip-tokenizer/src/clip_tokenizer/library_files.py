"""The files of a model's tokenizer for another library, or why that library cannot have it.

`plan_files` is what clip-models calls, by the entry point `clip_models.tokenizer_files`, when it
writes a model for another library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clip_tokenizer.atomic_write import save_text
from clip_tokenizer.cleaning import CleanMode
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.fit import check_text_tower
from clip_tokenizer.hugging_face import HFTokenizer
from clip_tokenizer.hugging_face_files import make_normalizers
from clip_tokenizer.registry import CLIP_NAME, OPEN_CLIP_REDUCTIONS, get_tokenizer
from clip_tokenizer.tokenizer import Tokenizer
from clip_tokenizer.vocabulary import Vocabulary
from clip_tokenizer.vocabulary_files import (
    ADDED_FILE,
    CONFIG_FILE,
    MERGES_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    WORDPIECE_FILE,
    has_own_settings,
    holds_tokenizer,
    read_json,
)

TOKENIZER_NAMES = (
    *(VOCAB_FILE, MERGES_FILE, TOKENIZER_FILE, CONFIG_FILE, ADDED_FILE, WORDPIECE_FILE),
    *("special_tokens_map.json", "spiece.model", "tokenizer.model"),
)
"""Names of all files of a tokenizer, of which those of an earlier one must go."""
_BPE_NAMES = (VOCAB_FILE, MERGES_FILE, TOKENIZER_FILE, CONFIG_FILE)
LIBRARIES = ("clip-models", "open-clip", "hugging-face")
HERE = "this-directory"
"""What `hf_tokenizer_name` says where the files lie beside the model; open_clip looks there."""


class PlannedFiles(NamedTuple):
    """What is to be written.

    Attributes:
        names: Names of the files that `write` makes in a directory.
        write: Writes them.
        text: Fields of open_clip's `text_cfg` that describe the tokenizer.
    """

    names: tuple[str, ...]
    write: Callable[[Path], None]
    text: dict[str, Any]


def plan_files(
    library: str, text: Mapping[str, Any], source: str | os.PathLike[str] | None
) -> PlannedFiles:
    """The files with which a library gives the ids that the model was trained with.

    Args:
        library: "clip-models", "open-clip" or "hugging-face".
        text: The text part of clip-models' config, as a table.
        source: A directory with tokenizer files, or a hub repository; None, or a directory
            without any, takes the tokenizer that the config names.

    Raises:
        TokenizerError: There is no such tokenizer, it does not fit the tower, or the library cannot
            express it; the message says why.
    """
    if library not in LIBRARIES:
        raise TokenizerError(f"library must be one of {', '.join(LIBRARIES)}, got {library!r}")
    tokenizer = _find(text, source)
    check_text_tower(tokenizer, text)
    if library == "clip-models":
        return PlannedFiles(_names_of(tokenizer), tokenizer.save, {})
    if tokenizer.context_length != text["context_length"]:
        raise TokenizerError(
            f"the tokenizer makes {tokenizer.context_length} tokens and the model reads "
            f"{text['context_length']}; {library} has one number for both"
        )
    if isinstance(tokenizer, Tokenizer):
        return _plan_bpe(library, tokenizer, text)
    return _plan_foreign(library, tokenizer, text)


def _find(
    text: Mapping[str, Any], source: str | os.PathLike[str] | None
) -> Tokenizer | HFTokenizer:
    """The tokenizer of the source's files, else the one that the config names."""
    if source is None or (Path(source).is_dir() and not holds_tokenizer(Path(source))):
        return get_tokenizer({"text": dict(text)})
    known = Path(source).is_dir() and has_own_settings(Path(source))
    return get_tokenizer(source, context_length=None if known else text["context_length"])


def _names_of(tokenizer: Tokenizer | HFTokenizer) -> tuple[str, ...]:
    if isinstance(tokenizer, HFTokenizer):
        return (TOKENIZER_FILE, CONFIG_FILE)
    return (*_BPE_NAMES, *((ADDED_FILE,) if tokenizer.vocabulary.added else ()))


def _plan_bpe(library: str, tokenizer: Tokenizer, text: Mapping[str, Any]) -> PlannedFiles:
    """CLIP's own kind of tokenizer, with OpenAI's vocabulary or another."""
    options: dict[str, Any] = {} if tokenizer.clean == "lower" else {"clean": tokenizer.clean}
    vocabulary = tokenizer.vocabulary
    theirs = {ours: name for name, ours in OPEN_CLIP_REDUCTIONS.items()}
    is_cut = tokenizer.reduction != "truncate"
    if library == "open-clip" and _is_openai(vocabulary):
        if is_cut:
            options["reduction_mask"] = theirs.get(tokenizer.reduction, tokenizer.reduction)
        extra = {"additional_special_tokens": list(vocabulary.extra)} if vocabulary.extra else {}
        fields: dict[str, Any] = {"hf_tokenizer_name": None}
        fields["tokenizer_kwargs"] = {**options, **extra}
        return PlannedFiles((), lambda directory: None, fields)
    if is_cut:
        raise TokenizerError(
            f"{library} cuts texts that are too long at their end; the reduction "
            f"{tokenizer.reduction!r} of this tokenizer cannot be said there"
        )
    _require_free_padding(library, text)
    fields = {"hf_tokenizer_name": HERE, "tokenizer_kwargs": {"clean": tokenizer.clean}}
    return PlannedFiles(
        _names_of(tokenizer), tokenizer.save, fields if library == "open-clip" else {}
    )


def _is_openai(vocabulary: Vocabulary) -> bool:
    """Whether open_clip's own tokenizer has the vocabulary."""
    return not vocabulary.added and vocabulary == Vocabulary.openai(extra=vocabulary.extra)


def _require_free_padding(library: str, text: Mapping[str, Any]) -> None:
    """Check that no feature depends on the padding, which is another token there.

    Raises:
        TokenizerError: One does.
    """
    if not text.get("causal", True) or text.get("readout", "end_token") == "last":
        raise TokenizerError(
            f"the text tower sees padding, which is 0 here; {library} pads with a token of the "
            "vocabulary, and 0 is that of '!' in this one, so features would differ"
        )


def _plan_foreign(library: str, tokenizer: HFTokenizer, text: Mapping[str, Any]) -> PlannedFiles:
    """WordPiece or SentencePiece, which both libraries read through transformers."""
    blank = tokenizer.blank_token_id
    if library == "hugging-face":
        if blank is not None:
            raise TokenizerError(
                f"transformers cannot replace the token {blank} by 0, as this tokenizer does"
            )
        return PlannedFiles(
            _names_of(tokenizer), lambda directory: _save_with_cleaning(tokenizer, directory), {}
        )
    kwargs: dict[str, Any] = {"clean": tokenizer.clean}
    if blank is not None:
        kwargs["strip_sep_token"] = True
    name = (text.get("tokenizer") or {}).get("name", CLIP_NAME)
    fields = {
        "hf_tokenizer_name": HERE if name == CLIP_NAME else name,
        "tokenizer_kwargs": kwargs,
    }
    return PlannedFiles(_names_of(tokenizer), tokenizer.save, fields)


def _save_with_cleaning(tokenizer: HFTokenizer, directory: Path) -> None:
    """Write the files with the cleaning in `tokenizer.json`, as far as the format can say it.

    No attention mask is made, for padding takes part in a tower without one, as in SigLIP's.
    """
    tokenizer.save(directory)
    config = {**read_json(directory / CONFIG_FILE), "model_input_names": ["input_ids"]}
    save_text(directory / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    path = directory / TOKENIZER_FILE
    content = read_json(path)
    clean: CleanMode = tokenizer.clean
    steps = [*make_normalizers(clean), {"type": "Strip", "strip_left": True, "strip_right": True}]
    own = content.get("normalizer")
    content["normalizer"] = {"type": "Sequence", "normalizers": [*steps, *([own] if own else [])]}
    save_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
