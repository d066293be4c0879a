"""Reductions of long texts to short contexts. N texts, B budget: ids between start and end.

A reduction chooses ids of a text. `truncate` keeps the first, `random` any, in order, `shuffle`
any, in the order drawn, `block` consecutive ones, and `syntax` nouns before adjectives before verbs
before the rest. The random ones take a generator and do not change global state.

They are open_clip's `random`, `shuffle`, `simple` (our `block`) and `syntax`, which CLIPA trained
with. `OpenClipGenerator` draws what open_clip draws after `torch.manual_seed` and `random.seed`.
"""

from __future__ import annotations

import difflib
import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.token_rows import TokenRows

Tagger = Callable[[str], Sequence[tuple[str, str]]]
"""Splits a text into words, each with its Penn Treebank part-of-speech tag."""


class OpenClipGenerator:
    """The random numbers of open_clip after seeding torch and Python with `seed`.

    It does not change the global generators. Needs torch.
    """

    def __init__(self, seed: int) -> None:
        import torch

        self._torch = torch.Generator().manual_seed(seed)
        self._python = random.Random(seed)

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """(count,) a permutation of 0 … count - 1, as `torch.randperm` draws it."""
        import torch

        order: npt.NDArray[np.int64] = torch.randperm(count, generator=self._torch).numpy()
        return order

    def integers(self, low: int, high: int) -> int:
        """An integer in [low, high), as `random.randint` draws it."""
        return self._python.randint(low, high - 1)


Generator = np.random.Generator | OpenClipGenerator


class RowEncoder(Protocol):
    """The method of a tokenizer that a reduction calls."""

    def encode_rows(self, texts: list[str]) -> TokenRows:
        """The ids of N texts without start, end and padding."""
        ...


class Reduction(Protocol):
    """A choice of ids; any callable like this can be passed to `encode_batch`."""

    def __call__(
        self, tokenizer: RowEncoder, texts: list[str], budget: int, generator: Generator | None
    ) -> TokenRows:
        """The chosen ids of N texts. Ids beyond `budget` are cut afterwards."""
        ...


@dataclass(frozen=True)
class Truncate:
    """Keeps the first ids."""

    def __call__(
        self, tokenizer: RowEncoder, texts: list[str], budget: int, generator: Generator | None
    ) -> TokenRows:
        """The ids of the texts as they are."""
        return tokenizer.encode_rows(texts)


@dataclass(frozen=True)
class RandomTokens:
    """Keeps ids drawn without replacement from a text that is too long.

    Attributes:
        keep_order: Whether the ids are in the order of the text.
    """

    keep_order: bool = True

    def __call__(
        self, tokenizer: RowEncoder, texts: list[str], budget: int, generator: Generator | None
    ) -> TokenRows:
        """Draws once per text that is too long, in the order of the texts."""
        draws = _require(generator)

        def choose(length: int) -> npt.NDArray[np.int64]:
            kept = draws.permutation(length)[:budget]
            return np.sort(kept) if self.keep_order else kept

        return _choose_rows(tokenizer.encode_rows(texts), budget, choose)


@dataclass(frozen=True)
class Block:
    """Keeps consecutive ids, from a random start, of a text that is too long."""

    def __call__(
        self, tokenizer: RowEncoder, texts: list[str], budget: int, generator: Generator | None
    ) -> TokenRows:
        """Draws once per text that is too long, in the order of the texts."""
        draws = _require(generator)

        def choose(length: int) -> npt.NDArray[np.int64]:
            start = int(draws.integers(0, length - budget + 1))
            return np.arange(start, start + budget)

        return _choose_rows(tokenizer.encode_rows(texts), budget, choose)


def tag_with_nltk(text: str) -> Sequence[tuple[str, str]]:
    """The words and tags by nltk, whose data must be installed; nothing is downloaded.

    Raises:
        TokenizerError: If nltk or its data is missing; the message says how to get them.
    """
    try:
        nltk: Any = importlib.import_module("nltk")
    except ImportError as error:
        raise TokenizerError(
            "the syntax reduction needs a tagger: install clip-tokenizer[syntax] for nltk's, or "
            "pass SyntaxOrder(tagger=…)"
        ) from error
    try:
        tagged: list[tuple[str, str]] = nltk.pos_tag(nltk.word_tokenize(text))
    except LookupError as error:
        raise TokenizerError(
            "nltk's tagger has no data; run `python -m nltk.downloader punkt_tab "
            "averaged_perceptron_tagger_eng`, or pass SyntaxOrder(tagger=…)"
        ) from error
    return tagged


@dataclass(frozen=True)
class SyntaxOrder:
    """Keeps B words: nouns first, then adjectives, verbs, the rest; in the order of the text.

    As CLIPA does, the words of every text are joined again by single spaces, also of a text that
    fits, and the ids are cut when the words have more of them than fit.

    Attributes:
        tagger: Splits a text into tagged words.
        stable: Whether of two words of one class the earlier one stays. CLIPA's sort is not stable:
            of more than 16 words NumPy may keep a later one.
    """

    tagger: Tagger = tag_with_nltk
    stable: bool = True

    def __call__(
        self, tokenizer: RowEncoder, texts: list[str], budget: int, generator: Generator | None
    ) -> TokenRows:
        """The ids of the chosen words."""
        return tokenizer.encode_rows([self.reduce_text(text, budget) for text in texts])

    def reduce_text(self, text: str, budget: int) -> str:
        """The text reduced to `budget` words."""
        tagged = self.tagger(text)
        classes = np.array([_word_class(tag) for _, tag in tagged], dtype=np.int64)
        order = np.argsort(classes, kind="stable" if self.stable else None)
        return " ".join(tagged[index][0] for index in sorted(order[:budget].tolist()))


REDUCTIONS: dict[str, Reduction] = {
    "truncate": Truncate(),
    "random": RandomTokens(),
    "shuffle": RandomTokens(keep_order=False),
    "block": Block(),
    "syntax": SyntaxOrder(),
    "syntax-clipa": SyntaxOrder(stable=False),
}


def find_reduction(reduction: str | Reduction) -> Reduction:
    """The reduction of that name; a callable is returned as it is.

    Raises:
        TokenizerError: If no reduction has the name.
    """
    if not isinstance(reduction, str):
        return reduction
    if reduction not in REDUCTIONS:
        nearest = difflib.get_close_matches(reduction, REDUCTIONS, n=1, cutoff=0)[0]
        raise TokenizerError(
            f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}; nearest is "
            f"{nearest!r}"
        )
    return REDUCTIONS[reduction]


def _word_class(tag: str) -> int:
    """The rank of a part of speech: nouns 0, adjectives 1, verbs 2, anything else 3."""
    ranks = {"NN": 0, "JJ": 1, "VB": 2}
    return ranks.get(tag[:2], 3)


def _require(generator: Generator | None) -> Generator:
    if generator is None or not all(hasattr(generator, d) for d in ("permutation", "integers")):
        raise TokenizerError(
            "a random reduction needs a generator; pass generator=numpy.random.default_rng(seed) "
            f"or OpenClipGenerator(seed), got {type(generator).__name__}"
        )
    return generator


def _choose_rows(
    rows: TokenRows, budget: int, choose: Callable[[int], npt.NDArray[np.int64]]
) -> TokenRows:
    """The rows with `choose(length)` applied to each that is longer than the budget."""
    if not len(rows) or int(rows.lengths.max()) <= budget:
        return rows
    return rows.take(
        [
            choose(length) if length > budget else np.arange(length)
            for length in rows.lengths.tolist()
        ]
    )
