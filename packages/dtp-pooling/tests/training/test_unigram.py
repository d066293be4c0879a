from __future__ import annotations

import pytest
import sentencepiece
from dtp_pooling.training.unigram import _inner_ends, train_unigram, unigram_boundaries

TEXT = "the cat sat on the mat while the cats catch other cats in the other matter " * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("unigram") / "words.model"
    train_unigram(TEXT, path, vocabulary=30)
    return path


def test_segments_are_the_pieces_with_the_space_on_the_last(model):
    text = TEXT[:200]
    boundaries = unigram_boundaries(text, model)
    assert boundaries.shape == (200,)
    segments, current = [], ""
    for character, closes in zip(text, boundaries.tolist(), strict=True):
        current += character
        if closes:
            segments.append(current)
            current = ""
    segments += [current] if current else []
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    expected = []
    for word in text.split(" "):
        pieces = [piece.replace("\u2581", "") for piece in processor.encode(word, out_type=str)]
        pieces = [piece for piece in pieces if piece]
        expected += [*pieces[:-1], pieces[-1] + " "] if pieces else []
    expected[-1] = expected[-1].rstrip() if not text.endswith(" ") else expected[-1]
    assert segments == expected
    assert any(" " not in segment for segment in segments[:-1])  # some words are really split


def test_spaces_alone_and_empty_text(model):
    assert unigram_boundaries("  ", model).tolist() == [1, 1]
    assert unigram_boundaries("", model).tolist() == []


def test_too_few_pieces_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="no unigram model of 2 pieces"):
        train_unigram(TEXT, tmp_path / "words.model", vocabulary=2)
    assert not (tmp_path / "words.model").exists()


def test_pieces_that_do_not_spell_the_word_are_refused():
    with pytest.raises(ValueError, match="do not spell"):
        _inner_ends("ﬁne", ["\u2581fine"])
