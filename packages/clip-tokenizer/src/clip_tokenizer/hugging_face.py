"""Tokenizers other than CLIP's BPE, with the same methods (extra `[hf]`).

CLIPA v2 reads BERT's WordPiece, SigLIP reads SentencePiece. Both run in Hugging Face's `tokenizers`
library from a `tokenizer.json` (or BERT's `vocab.txt`); cleaning, padding and checks are ours.
N texts, T context length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from clip_tokenizer.atomic_write import save_text
from clip_tokenizer.batch import (
    TruncateMode,
    as_batch,
    as_row,
    check_context_length,
    check_dtype,
    check_fit,
    check_pad_token_id,
    check_truncate_mode,
    to_tensor,
)
from clip_tokenizer.bounded_read import read_file
from clip_tokenizer.cleaning import CleanMode, check_clean_mode, clean_text
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.vocabulary_files import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WORDPIECE_FILE,
    read_added_tokens,
    read_json,
    read_own_settings,
    reporting_damage,
)

if TYPE_CHECKING:
    import tokenizers
    import torch

Side = Literal["left", "right"]
OPTIONS = ("context_length", "clean", "truncate", "pad_token_id", "blank_token_id")
"""Keys under `clip_tokenizer` in a config."""
BERT_SWITCHES = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Names of BERT's normalizations in a config, and in the `tokenizers` library."""


class HFTokenizer:
    """A tokenizer of the `tokenizers` library with open_clip's cleaning, truncation and padding.

    Args:
        backend: The tokenizer. It is never changed; its truncation and padding are ignored.
        context_length: Default number of columns of a batch.
        clean: `lower`, `whitespace` or `canonicalize`, before the backend's normalization.
        truncate: As for `Tokenizer`; the backend's special tokens are kept.
        pad_token_id: Id of the padding.
        blank_token_id: An id to replace by 0 in a batch, as CLIPA does with BERT's `[SEP]`.
        padding_side: Side of the padding: `right` or `left`.
        truncation_side: Side on which a text that is too long is cut.
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
        padding_side: Side = "right",
        truncation_side: Side = "right",
    ) -> None:
        if backend.truncation or backend.padding:
            backend = type(backend).from_str(backend.to_str())
            backend.no_truncation()
            backend.no_padding()
        self._backend = backend
        self.context_length = check_context_length(context_length)
        self.clean = check_clean_mode(clean)
        self.truncate = check_truncate_mode(truncate)
        check_pad_token_id(pad_token_id, self.vocab_size)
        self.pad_token_id = pad_token_id
        self.blank_token_id = blank_token_id
        for side in (padding_side, truncation_side):
            if side not in get_args(Side):
                raise TokenizerError(f"a side must be 'left' or 'right', got {side!r}")
        self.padding_side = padding_side
        self.truncation_side = truncation_side

    @classmethod
    def from_directory(
        cls,
        directory: str | os.PathLike[str],
        *,
        context_length: int | None = None,
        strip_sep: bool = False,
        **options: Any,
    ) -> HFTokenizer:
        """The tokenizer of a directory with its files.

        Args:
            directory: Holds `tokenizer.json` or `vocab.txt`, and usually `tokenizer_config.json`.
            context_length: Default number of columns; None is that of the directory.
            strip_sep: Whether the separator token becomes 0 in a batch.
            options: As for `HFTokenizer`; they override those of the directory.

        Raises:
            TokenizerError: If the directory holds neither file, or a file is damaged.
            ImportError: If `tokenizers` is not installed.
        """
        folder = Path(directory)
        backend = _load_backend(folder)
        config = _read_config(folder)
        own = read_own_settings(config, folder / CONFIG_FILE, OPTIONS)
        with reporting_damage(folder / CONFIG_FILE):
            _set_bert_switches(backend, config)
        _add_tokens(backend, read_added_tokens(folder, config), folder)
        padding, truncation = backend.padding or {}, backend.truncation or {}
        own["padding_side"] = config.get("padding_side") or padding.get("direction", "right")
        own["truncation_side"] = config.get("truncation_side") or truncation.get(
            "direction", "right"
        )
        backend.no_padding()
        backend.no_truncation()
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
        """Write `tokenizer.json` and `tokenizer_config.json`; `from_directory` reads them."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_text(folder / TOKENIZER_FILE, self._backend.to_str(pretty=True))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.context_length,
            "pad_token": self._backend.id_to_token(self.pad_token_id),
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clip_tokenizer": {
                "context_length": self.context_length,
                "clean": self.clean,
                "truncate": self.truncate,
                "pad_token_id": self.pad_token_id,
                "blank_token_id": self.blank_token_id,
            },
        }
        save_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
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
            TokenizerError: If an element is not a str, a text does not fit and
                `truncate="error"`, or the special tokens alone do not fit.
        """
        batch = self._clean(texts)
        width = check_context_length(
            self.context_length if context_length is None else context_length
        )
        kind = check_dtype(dtype, self.vocab_size)
        num_special = self._backend.num_special_tokens_to_add(False)
        if width < num_special:
            raise TokenizerError(
                f"context_length must be at least {num_special}, the tokenizer's special tokens, "
                f"got {width}"
            )
        encoded = self._backend.encode_batch_fast(batch, add_special_tokens=False)
        if self.truncate == "error":
            lengths = [len(found.ids) + num_special for found in encoded]
            check_fit(np.array(lengths, dtype=np.int64), width)
        rows = []
        for found in encoded:
            found.truncate(width - num_special, direction=self.truncation_side)
            whole = self._backend.post_process(found)
            whole.pad(width, direction=self.padding_side, pad_id=self.pad_token_id)
            rows.append(whole.ids)
        ids = np.array(rows, dtype=kind).reshape(len(batch), width)
        if self.blank_token_id is not None:
            ids[ids == self.blank_token_id] = 0
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without the backend's special tokens."""
        ids: list[int] = self._backend.encode(self._clean([text])[0], add_special_tokens=False).ids
        return ids

    def count(self, text: str) -> int:
        """Number of ids of a text, without special tokens."""
        return len(self.encode(text))

    def lengths(self, texts: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """(N,) number of columns of each uncut text, special tokens included."""
        encoded = self._backend.encode_batch_fast(self._clean(texts))
        return np.array([len(found.ids) for found in encoded], dtype=np.int64)

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """The text that ids spell, by the backend."""
        text: str = self._backend.decode(as_row(ids), skip_special_tokens=not keep_special)
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
    path = folder / TOKENIZER_FILE
    if path.is_file():
        with reporting_damage(path):
            text = read_file(path).decode("utf-8")
            backend: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(text)
        return backend
    path = folder / WORDPIECE_FILE
    if path.is_file():
        with reporting_damage(path):
            read_file(path)
            backend = BertWordPieceTokenizer(str(path))._tokenizer
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
            config.update(read_json(path))
    return config


def _set_bert_switches(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Set BERT's normalization; the config overrides `tokenizer.json`, as in transformers."""
    if type(backend.normalizer).__name__ == "BertNormalizer":
        for name, switch in BERT_SWITCHES.items():
            if name in config:
                setattr(backend.normalizer, switch, config[name])


def _add_tokens(
    backend: tokenizers.Tokenizer, added: Mapping[str, Mapping[str, Any]], folder: Path
) -> None:
    """Add the tokens that the directory lists and the tokenizer lacks.

    Raises:
        TokenizerError: A token would get another id than the listed one.
    """
    from tokenizers import AddedToken

    for content, token in sorted(added.items(), key=lambda item: item[1]["id"]):
        if backend.token_to_id(content) is None:
            flags = {key: bool(token.get(key)) for key in ("single_word", "special")}
            backend.add_tokens([AddedToken(content, **flags)])
        if backend.token_to_id(content) != token["id"]:
            raise TokenizerError(
                f"{folder}: the added token {content!r} has the id {token['id']}, which the "
                "tokenizer's files do not give it; save the tokenizer again"
            )


def _token_id(backend: tokenizers.Tokenizer, token: object) -> int:
    """The id of a token as a config writes it: a string, or an object with its content."""
    text = token.get("content") if isinstance(token, dict) else token
    index = backend.token_to_id(text) if isinstance(text, str) else None
    if index is None:
        raise TokenizerError(
            f"the tokenizer has no token {text!r}; pass pad_token_id, or do not set strip_sep"
        )
    return int(index)
