from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from clip_tokenizer import Tokenizer, TokenizerError
from clip_tokenizer.alphabet import BASE_SYMBOLS
from clip_tokenizer.cleaning import clean_text
from clip_tokenizer.training import count_words, learn_merges
from clip_tokenizer.words import WORD_PATTERN, compile_pattern


def draw_captions(seed, count):
    rng = random.Random(seed)
    syllables = [
        "ab",
        "a",
        "b",
        "c",
        "ba",
        "é",
        "in",
        "ing",
        "th",
        "er",
        "re",
        "'s",
        "7",
        "日",
        "!",
    ]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 6))) for _ in range(300)]
    weights = [1 / (rank + 1) for rank in range(300)]
    return [" ".join(rng.choices(words, weights, k=12)) for _ in range(count)]


def train_with_hugging_face(texts, vocab_size, min_count):
    """Merges of their trainer, given our 512 byte symbols first so that ties break alike."""
    tokenizers = pytest.importorskip("tokenizers")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    split = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(f"(?i:{WORD_PATTERN})"), behavior="removed", invert=True
    )
    spell = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, spell])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        min_frequency=min_count,
        special_tokens=list(BASE_SYMBOLS),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator([clean_text(text, "lower") for text in texts], trainer)
    model = json.loads(trained.to_str())["model"]
    return [tuple(pair) for pair in model["merges"]], trained.get_vocab()


@pytest.mark.parametrize(("vocab_size", "min_count"), [(515, 2), (700, 1), (1500, 2), (5000, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_merges_and_ids_are_those_of_hugging_face(seed, vocab_size, min_count):
    texts = draw_captions(seed, 400)
    merges, ids = train_with_hugging_face(texts, vocab_size, min_count)
    ours = Tokenizer.train(texts, vocab_size, min_count=min_count).vocabulary
    assert merges
    assert ours.merge_symbols() == merges
    assert {symbol: index for symbol, index in ours.ids.items() if symbol in ids} == ids
    assert set(ours.ids) - set(ids) == set(ours.special_tokens)


@pytest.mark.parametrize("letters", ["ab", "aabc"])
def test_ties_and_repeats_are_broken_as_hugging_face_does(letters):
    for seed in range(10):
        rng = random.Random(seed)
        texts = ["".join(rng.choices(letters, k=rng.randint(1, 14))) for _ in range(100)]
        merges, _ = train_with_hugging_face(texts, 3000, 1)
        assert Tokenizer.train(texts, 3000, min_count=1).vocabulary.merge_symbols() == merges


def test_the_order_of_the_texts_does_not_matter():
    texts = draw_captions(3, 300)
    shuffled = random.Random(0).sample(texts, len(texts))
    first, second = Tokenizer.train(texts, 900), Tokenizer.train(iter(shuffled), 900)
    assert first.vocabulary == second.vocabulary


def test_words_are_counted_across_blocks():
    texts = ["a cat's hat", "A cat 22", ""] * 5000
    expected = Counter({"a": 10_000, "cat": 10_000, "'s": 5000, "hat": 5000, "2": 10_000})
    assert count_words(iter(texts)) == expected


def test_memory_of_words_is_bounded():
    rare = [f"rare{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]} x" for n in range(100)]
    texts = ["often often", *rare] * 60
    words = count_words(texts, max_words=20)
    assert len(words) <= 20
    assert words["often"] == 120
    assert words["x"] == 6000
    assert count_words(texts, max_words=1000)["rareak"] == 60


def test_a_corpus_too_small_gives_fewer_ids():
    tokenizer = Tokenizer.train(["ab ab"], 10_000)
    assert tokenizer.vocab_size == 515
    assert tokenizer.encode("ab") == [512]
    assert Tokenizer.train([], 600).vocab_size == 514


def test_min_count_and_the_limit_stop_training():
    words = {"ab": 5, "cd": 2}
    assert learn_merges(words, 10_000, min_count=3) == [("a", "b</w>")]
    assert learn_merges(words, 513, min_count=1) == [("a", "b</w>")]
    assert learn_merges(words, 512, min_count=1) == []


def test_elements_that_are_not_text_are_named_by_position():
    with pytest.raises(TokenizerError, match=r"texts\[1\] must be a str, got None"):
        Tokenizer.train(["a", None], 600)
    with pytest.raises(TokenizerError, match="got one str; put it in a list"):
        Tokenizer.train("a caption", 600)
    with pytest.raises(TokenizerError, match="clean must be one of"):
        Tokenizer.train(["a"], 600, clean="upper")


def test_the_word_pattern():
    assert compile_pattern().findall("it's 42 cats... don't! ёж") == [
        "it",
        "'s",
        "4",
        "2",
        "cats",
        "...",
        "don",
        "'t",
        "!",
        "ёж",
    ]
    assert compile_pattern(["(+)", "<|a|>"]).findall("x(+)<|a|>") == ["x", "(+)", "<|a|>"]
