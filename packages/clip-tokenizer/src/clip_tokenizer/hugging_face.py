"""Tokenizers that are not CLIP's BPE, behind the same contract (extra `[hf]`).

CLIPA v2 reads BERT's WordPiece, SigLIP reads SentencePiece. Both run in Hugging Face's `tokenizers`
library from a `tokenizer.json` (or BERT's `vocab.txt`); cleaning, padding and checks are ours.
N texts, T context length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clip_tokenizer.batch import (
    TruncateMode,
    as_batch,
    check_context_length,
    check_dtype,
    check_fit,
    check_truncate_mode,
    to_tensor,
)
from clip_tokenizer.cleaning import CleanMode, check_clean_mode, clean_text
from clip_tokenizer.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers
    import torch

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
WORDPIECE_FILE = "vocab.txt"


class HFTokenizer:
    """A tokenizer of the `tokenizers` library with open_clip's cleaning, truncation and padding.

    Args:
        backend: The tokenizer; its own truncation and padding are switched off.
        context_length: Columns of a batch when a call does not say.
        clean: `lower`, `whitespace` or `canonicalize`, before the backend's own normalisation.
        truncate: As for `Tokenizer`; the backend's special tokens are kept.
        pad_token_id: Id behind the last token.
        blank_token_id: An id to replace by 0 in a batch: CLIPA's towers never saw BERT's `[SEP]`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        context_length: int,
        clean: CleanMode = "whitespace",
        truncate: TruncateMode = "eot",
        pad_token_id: int = 0,
        blank_token_id: int | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.context_length = check_context_length(context_length)
        self.clean = check_clean_mode(clean)
        self.truncate = check_truncate_mode(truncate)
        self.pad_token_id = pad_token_id
        self.blank_token_id = blank_token_id

    @classmethod
    def from_directory(
        cls,
        directory: str | os.PathLike[str],
        *,
        context_length: int | None = None,
        strip_sep: bool = False,
        **options: Any,
    ) -> HFTokenizer:
        """The tokenizer whose files lie in a directory.

        Args:
            directory: Holds `tokenizer.json` or `vocab.txt`, and usually `tokenizer_config.json`.
            context_length: By default what the directory says.
            strip_sep: Whether the separator token becomes 0 in a batch.
            options: As for `HFTokenizer`; they win over what the directory says.

        Raises:
            TokenizerError: If the directory holds neither file.
            ImportError: If `tokenizers` is not installed.
        """
        folder = Path(directory)
        backend = _load_backend(folder)
        config = _read_config(folder)
        own = dict(config.get("clip_tokenizer", {}))
        if strip_sep:
            own["blank_token_id"] = _token_id(backend, config.get("sep_token", "[SEP]"))
        if "pad_token_id" not in {**own, **options}:
            own["pad_token_id"] = _token_id(backend, config.get("pad_token", "[PAD]"))
        if context_length is not None:
            own["context_length"] = context_length
        if "context_length" not in {**own, **options}:
            raise TokenizerError(f"{folder} names no context length; pass context_length")
        return cls(backend, **{**own, **options})

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`; `from_directory` reads them back."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / TOKENIZER_FILE))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.context_length,
            "pad_token": self._backend.id_to_token(self.pad_token_id),
            "clip_tokenizer": {
                "context_length": self.context_length,
                "clean": self.clean,
                "truncate": self.truncate,
                "pad_token_id": self.pad_token_id,
                "blank_token_id": self.blank_token_id,
            },
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Ids in all, special tokens included."""
        return max(self._backend.get_vocab().values()) + 1

    def __repr__(self) -> str:
        kind = type(self._backend.model).__name__
        return (
            f"HFTokenizer({kind}, vocab_size={self.vocab_size}, "
            f"context_length={self.context_length}, clean={self.clean!r})"
        )

    def __call__(
        self, texts: str | Sequence[str], context_length: int | None = None
    ) -> torch.LongTensor:
        """(N, T) int64 tensor of ids and padding; a str is a batch of one."""
        return to_tensor(self.encode_batch(texts, context_length))

    def encode_batch(
        self,
        texts: str | Sequence[str],
        context_length: int | None = None,
        *,
        dtype: npt.DTypeLike = np.int64,
    ) -> npt.NDArray[Any]:
        """(N, T) array of ids and padding; a str is a batch of one.

        Raises:
            TokenizerError: If an element is not a str, or a text does not fit and
                `truncate="error"`.
        """
        batch = self._clean(texts)
        width = check_context_length(
            self.context_length if context_length is None else context_length
        )
        kind = check_dtype(dtype, self.vocab_size)
        if self.truncate == "error":
            encoded = self._backend.encode_batch_fast(batch)
            check_fit(np.array([len(found.ids) for found in encoded], dtype=np.int64), width)
        self._backend.enable_truncation(width)
        self._backend.enable_padding(length=width, pad_id=self.pad_token_id)
        try:
            encoded = self._backend.encode_batch_fast(batch)
        finally:
            self._backend.no_truncation()
            self._backend.no_padding()
        ids = np.array([found.ids for found in encoded], dtype=kind).reshape(len(batch), width)
        if self.blank_token_id is not None:
            ids[ids == self.blank_token_id] = 0
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without the backend's special tokens."""
        ids: list[int] = self._backend.encode(self._clean([text])[0], add_special_tokens=False).ids
        return ids

    def count(self, text: str) -> int:
        """How many ids a text has, without special tokens."""
        return len(self.encode(text))

    def lengths(self, texts: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """(N,) how many columns each text would need, special tokens included, uncut."""
        encoded = self._backend.encode_batch_fast(self._clean(texts))
        return np.array([len(found.ids) for found in encoded], dtype=np.int64)

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """The text that ids spell, as the backend writes it."""
        row = [int(index) for index in getattr(ids, "tolist", lambda: ids)()]
        text: str = self._backend.decode(row, skip_special_tokens=not keep_special)
        return text

    def _clean(self, texts: str | Sequence[str]) -> list[str]:
        return [clean_text(text, self.clean) for text in as_batch(texts)]


def _load_backend(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer in `tokenizer.json`, else BERT's built from `vocab.txt`."""
    try:
        import tokenizers
        from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
    except ImportError as error:
        raise ImportError(
            f"the tokenizer in {folder} needs the tokenizers library; install clip-tokenizer[hf]"
        ) from error
    if (folder / TOKENIZER_FILE).is_file():
        return tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    if (folder / WORDPIECE_FILE).is_file():
        vocabulary = str(folder / WORDPIECE_FILE)
        backend: tokenizers.Tokenizer = BertWordPieceTokenizer(
            vocabulary, lowercase=True
        )._tokenizer
        return backend
    raise TokenizerError(
        f"{folder} must hold {TOKENIZER_FILE} or {WORDPIECE_FILE}; a SentencePiece model alone can "
        "be converted by saving it once with transformers' fast tokenizer"
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """The special tokens and settings in a directory; empty without the files."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG_FILE):
        path = folder / name
        if path.is_file():
            config.update(json.loads(path.read_text(encoding="utf-8")))
    return config


def _token_id(backend: tokenizers.Tokenizer, token: object) -> int:
    """The id of a token as a config writes it: a string, or an object with its content."""
    text = token.get("content") if isinstance(token, dict) else token
    index = backend.token_to_id(text) if isinstance(text, str) else None
    if index is None:
        raise TokenizerError(
            f"the tokenizer has no token {text!r}; pass pad_token_id, or leave strip_sep off"
        )
    return int(index)
