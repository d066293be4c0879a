"""CLIP's tokenizer. N texts, T context length."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clip_tokenizer import hub
from clip_tokenizer.alphabet import BASE_SYMBOLS, END_OF_WORD, decode_symbol
from clip_tokenizer.batch import (
    TruncateMode,
    as_batch,
    as_row,
    check_context_length,
    check_dtype,
    check_fit,
    check_pad_token_id,
    check_truncate_mode,
    require_strings,
    to_tensor,
)
from clip_tokenizer.cleaning import CleanMode, check_clean_mode
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.hugging_face_files import make_tokenizer_config, make_tokenizer_json
from clip_tokenizer.reduction import Generator, Reduction, find_reduction
from clip_tokenizer.text_encoder import BLOCK, Offsets, TextEncoder
from clip_tokenizer.token_rows import TokenRows
from clip_tokenizer.training import MAX_WORDS, count_words, learn_merges
from clip_tokenizer.vocabulary import Vocabulary, resolve_merges_path
from clip_tokenizer.vocabulary_files import read_directory, read_merges_file, write_directory

if TYPE_CHECKING:
    import torch

CONTEXT_LENGTH = 77
CACHE_SIZE = 131_072


class Tokenizer:
    """CLIP's byte-level BPE with end-of-word symbols.

    Made by `openai`, `from_pretrained`, `train` or `from_bytes`.

    Args:
        vocabulary: Symbols, merges and special tokens.
        context_length: Default number of columns of a batch.
        clean: `lower`, `whitespace` or `canonicalize`.
        truncate: `eot` cuts a text that is longer than the context and keeps the end token, `error`
            raises.
        allow_special: Whether a text that spells a special token gets that token's id. If not, it
            is encoded as letters.
        pad_token_id: Id of the padding after the end token. CLIP pads with 0, which is also the id
            of `!` inside a word.
        reduction: Name of the default reduction of texts that are too long.
        cache_size: Number of chunks of text in each of the two generations of the cache.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        context_length: int = CONTEXT_LENGTH,
        clean: CleanMode = "lower",
        truncate: TruncateMode = "eot",
        allow_special: bool = False,
        pad_token_id: int = 0,
        reduction: str = "truncate",
        cache_size: int = CACHE_SIZE,
    ) -> None:
        check_pad_token_id(pad_token_id, vocabulary.size)
        find_reduction(str(reduction))
        if cache_size < 1:
            raise TokenizerError(f"cache_size must be at least 1, got {cache_size}")
        self.vocabulary = vocabulary
        self.context_length = check_context_length(context_length)
        self.clean = check_clean_mode(clean)
        self.truncate = check_truncate_mode(truncate)
        self.allow_special = allow_special
        self.pad_token_id = pad_token_id
        self.reduction = reduction
        self.cache_size = cache_size
        self._prepare()

    def _prepare(self) -> None:
        """Build the look-up tables from the vocabulary and the options."""
        self._encoder = TextEncoder(
            self.vocabulary,
            clean=self.clean,
            allow_special=self.allow_special,
            cache_size=self.cache_size,
        )

    @classmethod
    def openai(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        extra_special_tokens: Sequence[str] = (),
        **options: Any,
    ) -> Tokenizer:
        """The tokenizer of OpenAI's CLIP and of most models trained since: 49,408 ids.

        Args:
            path: A merges file (`bpe_simple_vocab_16e6.txt.gz`) in place of the table inside the
                package; by default that of the environment variable `CLIP_TOKENIZER_MERGES`.
            extra_special_tokens: Tokens that take the ids from 49,408 on.
            options: `context_length`, `clean`, `truncate`, `allow_special`, `pad_token_id`,
                `reduction`, `cache_size`, as for `Tokenizer`.
        """
        chosen = resolve_merges_path(path)
        vocabulary = (
            Vocabulary.openai(extra=extra_special_tokens)
            if chosen is None
            else read_merges_file(chosen, extra=extra_special_tokens)
        )
        return cls(vocabulary, **options)

    @classmethod
    def from_bytes(cls, *, extra_special_tokens: Sequence[str] = (), **options: Any) -> Tokenizer:
        """A tokenizer without merges: one id per byte, 514 ids. For the smallest experiments."""
        return cls(Vocabulary.from_merges((), extra=extra_special_tokens), **options)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        clean: CleanMode = "lower",
        min_count: int = 2,
        max_words: int = MAX_WORDS,
        extra_special_tokens: Sequence[str] = (),
        **options: Any,
    ) -> Tokenizer:
        """A tokenizer whose merges are learned from `texts`.

        The same texts give the same tokenizer, whatever the machine. A corpus with too few
        repeated pairs gives fewer than `vocab_size` ids.

        Args:
            texts: The corpus; read once.
            vocab_size: Number of ids, special tokens included; at least 514.
            clean: Cleaning mode of the training and of the tokenizer.
            min_count: Pairs that occur less often are not merged.
            max_words: Number of distinct words in memory; above it the rarest are dropped.
            extra_special_tokens: Tokens that take the last ids.
            options: As for `Tokenizer`.

        Raises:
            TokenizerError: If `vocab_size` does not hold the bytes and the special tokens, or an
                element is not a str.
        """
        if isinstance(texts, (str, bytes)):
            raise TokenizerError(
                f"texts must be an iterable of str, got one {type(texts).__name__}; put it in a "
                "list"
            )
        num_special = 2 + len(extra_special_tokens)
        smallest = len(BASE_SYMBOLS) + num_special
        if vocab_size < smallest:
            raise TokenizerError(
                f"vocab_size must be at least {smallest} (bytes and special tokens), "
                f"got {vocab_size}"
            )
        words = count_words(
            require_strings(texts), clean=check_clean_mode(clean), max_words=max_words
        )
        merges = learn_merges(words, vocab_size - num_special, min_count=min_count)
        vocabulary = Vocabulary.from_merges(merges, extra=extra_special_tokens)
        return cls(vocabulary, clean=clean, **options)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> Tokenizer:
        """The tokenizer saved by `save` or by a Hugging Face library.

        Args:
            source: A directory with `vocab.json` and `merges.txt`, with `tokenizer.json` or with
                one `.txt.gz`; or a repository of the Hugging Face hub (`org/name`,
                with `@revision` for a revision).
            options: As for `Tokenizer`; they override those in the files.

        Raises:
            TokenizerError: If no tokenizer can be read; the message names what was tried.
        """
        directory = Path(source)
        if not directory.is_dir():
            repository = hub.parse_repository(os.fspath(source))
            if repository is None:
                raise TokenizerError(
                    f"{source} is neither a directory nor a hub repository (org/name)"
                )
            directory = hub.download(repository)
        found = read_directory(directory)
        if found is None:
            raise TokenizerError(
                f"{source} holds no tokenizer; expected vocab.json with merges.txt, or "
                "tokenizer.json, or one .txt.gz"
            )
        vocabulary, own = found
        return cls(vocabulary, **{**own, **options})

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `vocab.json`, `merges.txt`, `tokenizer.json` and `tokenizer_config.json`.

        `from_pretrained` reads them, options included; so do Hugging Face libraries, without the
        cleaning by ftfy and of HTML entities.
        """
        settings = {
            "context_length": self.context_length,
            "clean": self.clean,
            "truncate": self.truncate,
            "allow_special": self.allow_special,
            "pad_token_id": self.pad_token_id,
            "reduction": self.reduction,
            "extra_special_tokens": list(self.vocabulary.extra),
        }
        write_directory(
            Path(directory),
            self.vocabulary,
            make_tokenizer_json(self.vocabulary, self.clean),
            make_tokenizer_config(self.vocabulary, settings),
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.vocabulary.size

    @property
    def sot_token_id(self) -> int:
        """Id of the start-of-text token."""
        return self.vocabulary.ids[self.vocabulary.sot]

    @property
    def eot_token_id(self) -> int:
        """Id of the end-of-text token."""
        return self.vocabulary.ids[self.vocabulary.eot]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of start, end and extra special tokens."""
        return [self.vocabulary.ids[token] for token in self.vocabulary.special_tokens]

    def __repr__(self) -> str:
        num_merges = len(self.vocabulary.merges)
        kind = f"{num_merges} merges" if num_merges else "bytes only"
        return (
            f"Tokenizer({kind}, vocab_size={self.vocab_size}, "
            f"context_length={self.context_length}, clean={self.clean!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """The state without the tables, which are built again when the tokenizer is unpickled."""
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __call__(
        self,
        texts: str | Sequence[str],
        context_length: int | None = None,
        *,
        reduction: str | Reduction | None = None,
        generator: Generator | None = None,
    ) -> torch.LongTensor:
        """(N, T) int64 tensor of start, ids, end and padding; a str is a batch of one.

        Args:
            texts: The batch.
            context_length: T; None is the tokenizer's option.
            reduction: Reduction of texts that are too long: `truncate`, `random`, `shuffle`,
                `block`, `syntax`, `syntax-clipa` or a `Reduction`; None is the tokenizer's option.
            generator: Random generator for `random`, `shuffle` and `block`.

        Raises:
            TokenizerError: If an element is not a str, or a text does not fit and
                `truncate="error"`.
            ImportError: If torch is not installed.
        """
        return to_tensor(
            self.encode_batch(texts, context_length, reduction=reduction, generator=generator)
        )

    def encode_batch(
        self,
        texts: str | Sequence[str],
        context_length: int | None = None,
        *,
        dtype: npt.DTypeLike = np.int64,
        reduction: str | Reduction | None = None,
        generator: Generator | None = None,
    ) -> npt.NDArray[Any]:
        """(N, T) array of start, ids, end and padding; a str is a batch of one.

        Args:
            texts: The batch.
            context_length: T; None is the tokenizer's option.
            dtype: Integer type of the array; `np.uint16` holds CLIP's 49,408 ids.
            reduction: As for calling the tokenizer.
            generator: As for calling the tokenizer.

        Raises:
            TokenizerError: As for calling the tokenizer.
        """
        batch = as_batch(texts)
        width = check_context_length(
            self.context_length if context_length is None else context_length
        )
        out = np.zeros((len(batch), width), check_dtype(dtype, self.vocab_size))
        if self.pad_token_id:
            out.fill(self.pad_token_id)
        reduce = find_reduction(self.reduction if reduction is None else reduction)
        for start in range(0, len(batch), BLOCK):
            rows = reduce(self, batch[start : start + BLOCK], max(width - 2, 0), generator)
            if self.truncate == "error":
                check_fit(rows.lengths + 2, width, first=start)
            rows.fill(out[start : start + BLOCK], sot=self.sot_token_id, eot=self.eot_token_id)
        return out

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without start, end and padding."""
        ids: list[int] = self._encoder.encode(as_batch([text])).ids.tolist()
        return ids

    def encode_rows(self, texts: str | Sequence[str]) -> TokenRows:
        """The ids of a batch without start, end and padding, as one array with lengths."""
        return self._encoder.encode(as_batch(texts))

    def count(self, text: str) -> int:
        """Number of ids of a text, without start and end."""
        return len(self.encode(text))

    def lengths(self, texts: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """(N,) number of columns of each uncut text, start and end included."""
        return self.encode_rows(texts).lengths + 2

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """The text that ids spell; bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: One row of ids.
            keep_special: Keep special tokens, padding and the space after the last word. If not,
                the text ends at the first end token.

        Raises:
            TokenizerError: If `ids` are not one row, or an id is not in the vocabulary.
        """
        row = as_row(ids)
        symbols = self.vocabulary.symbols
        for at, index in enumerate(row):
            if not 0 <= index < len(symbols):
                raise TokenizerError(f"ids[{at}] must be in [0, {len(symbols)}), got {index}")
        special = set(self.all_special_ids)
        added = {self.vocabulary.ids[token.content]: token for token in self.vocabulary.added}
        if not keep_special:
            if self.eot_token_id in row:
                row = row[: row.index(self.eot_token_id)]
            hidden = special | {index for index, token in added.items() if token.special}
            row = [index for index in row if index not in hidden]
        data = b"".join(
            symbols[index].encode("utf-8")
            if index in special
            else (symbols[index] + END_OF_WORD).encode("utf-8")
            if index in added
            else decode_symbol(symbols[index])
            for index in row
        )
        text = data.decode("utf-8", errors="replace").replace(END_OF_WORD, " ")
        return text if keep_special else text.strip()

    def offsets(self, text: str) -> Offsets:
        """The ids of a text with the span of each in the cleaned text."""
        return self._encoder.offsets(as_batch([text])[0])
