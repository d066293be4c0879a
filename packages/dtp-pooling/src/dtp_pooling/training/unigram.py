"""Boundaries at the ends of subwords, by a SentencePiece unigram model (extra `unigram`)."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from dtp_pooling.training.run_directory import replace_file


def train_unigram(text: str, path: Path, vocabulary: int = 5000) -> None:
    """Train a unigram model on the words of `text` and write it to `path` (`.model`).

    Args:
        text: Words separated by single spaces; characters are taken as they are.
        path: File to write.
        vocabulary: Most pieces the model may have; a small text gives fewer.

    Raises:
        ValueError: There are fewer pieces than the text has characters, or no words.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.split()),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            character_coverage=1.0,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"no unigram model of {vocabulary} pieces; try more, or a longer text: {error}"
        ) from error
    replace_file(path, model.getvalue())


def unigram_boundaries(text: str, path: Path) -> Tensor:
    """(len(text),) uint8: 1 at the end of every inner piece, and at every space.

    A word's last piece is closed by the space after it, because nothing earlier shows that it is
    the last.

    Args:
        text: Characters; words are separated by spaces.
        path: Model written by `train_unigram`, or any SentencePiece unigram model.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ends: dict[str, list[int]] = {}
    boundaries = torch.zeros(len(text), dtype=torch.uint8)
    marks: list[int] = []
    start = 0
    for word in text.split(" "):
        if word not in ends:
            ends[word] = _inner_ends(word, processor.encode(word, out_type=str))
        marks += [start + end for end in ends[word]]
        start += len(word)
        if start < len(text):
            marks.append(start)  # the space
        start += 1
    boundaries[torch.tensor(marks, dtype=torch.long)] = 1
    return boundaries


def _inner_ends(word: str, pieces: list[str]) -> list[int]:
    """Index of the last character of every piece but the last."""
    plain = [piece.replace("\u2581", "") for piece in pieces]
    if "".join(plain) != word:
        raise ValueError(
            f"the pieces {pieces} do not spell {word!r}: the model normalizes characters; "
            "train one with train_unigram, which does not"
        )
    ends, position = [], 0
    for piece in plain[:-1]:
        position += len(piece)
        if piece:
            ends.append(position - 1)
    return ends
