from __future__ import annotations

import itertools
import random
import time

import pytest
from clip_tokenizer import bpe
from clip_tokenizer.bpe import MergeTable


def merge_by_the_book(pairs, products, symbols):
    """The loop as a textbook has it: lowest rank, all its occurrences, left to right, again."""
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    symbols = list(symbols)
    while True:
        found = [ranks[pair] for pair in itertools.pairwise(symbols) if pair in ranks]
        if not found:
            return symbols
        best = min(found)
        merged = []
        at = 0
        while at < len(symbols):
            if tuple(symbols[at : at + 2]) == pairs[best]:
                merged.append(products[best])
                at += 2
            else:
                merged.append(symbols[at])
                at += 1
        symbols = merged


def random_table(rng, num_base, num_merges):
    """Merges of symbols made earlier, in an order that need not be the one they were made in."""
    spelled = {index: chr(97 + index) for index in range(num_base)}
    ids = {text: index for index, text in spelled.items()}
    pairs = []
    for _ in range(num_merges):
        pair = rng.choice(list(spelled)), rng.choice(list(spelled))
        text = spelled[pair[0]] + spelled[pair[1]]
        if len(text) < 9 and pair not in pairs:
            pairs.append(pair)
            spelled[ids.setdefault(text, len(ids))] = text
    rng.shuffle(pairs)
    products = [ids[spelled[left] + spelled[right]] for left, right in pairs]
    return MergeTable(pairs, products, len(ids)), pairs, products


@pytest.mark.parametrize("long_word", [2, 48])
def test_any_table_merges_as_the_textbook_loop(monkeypatch, long_word):
    monkeypatch.setattr(bpe, "LONG_WORD", long_word)
    rng = random.Random(0)
    for _ in range(150):
        num_base = rng.randint(1, 4)
        table, pairs, products = random_table(rng, num_base, 25)
        for _ in range(8):
            word = rng.choices(range(num_base), k=rng.randint(1, 40))
            assert table.merge(word) == merge_by_the_book(pairs, products, word)


def test_one_symbol_and_no_merges():
    assert MergeTable([], [], 4).merge([3]) == [3]
    assert MergeTable([], [], 4).merge([3, 2]) == [3, 2]
    assert MergeTable([], [], 4).merge([3] * 100) == [3] * 100


def test_the_input_is_left_as_it_was():
    table = MergeTable([(0, 1)], [2], 3)
    for size in (1, 60):
        word = [0, 1] * size
        assert table.merge(word) == [2] * size
        assert word == [0, 1] * size


def test_equal_neighbors_merge_from_the_left():
    table = MergeTable([(0, 0)], [1], 2)
    assert table.merge([0, 0, 0]) == [1, 0]
    assert table.merge([0] * 101) == [1] * 50 + [0]


def test_of_a_pair_given_twice_the_later_rank_counts():
    table = MergeTable([(0, 1), (1, 2), (0, 1)], [3, 4, 3], 5)
    assert table.merge([0, 1, 2]) == [0, 4]


def test_the_last_symbol_has_no_right_neighbor():
    # (left, base - 1) and (left + 1, 0 - 1) must not be taken for each other
    table = MergeTable([(0, 2), (1, 0), (2, 2)], [3, 4, 5], 6)
    for size in (3, 60):
        assert table.merge([1] * size) == [1] * size
        assert table.merge([2] * size + [1]) == [5] * (size // 2) + [2] * (size % 2) + [1]


@pytest.mark.parametrize("kind", ["random", "one letter", "periodic"])
def test_a_hundred_thousand_letters_take_less_than_a_second(openai, kind):
    rng = random.Random(0)
    word = {
        "random": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=100_000)),
        "one letter": "a" * 100_000,
        "periodic": "the" * 33_334,
    }[kind]
    started = time.process_time()
    ids = openai.encode(word)
    elapsed = time.process_time() - started
    assert openai.decode(ids) == word
    assert elapsed < 1
