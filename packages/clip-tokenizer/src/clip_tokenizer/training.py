"""Merges learned from texts.

The procedure is that of Hugging Face's BPE trainer: count words, then merge the most frequent pair
again and again, the smaller pair of ids first where counts are equal.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from clip_tokenizer.alphabet import BASE_SYMBOLS, END_OF_WORD, spell_bytes
from clip_tokenizer.cleaning import SEPARATOR, CleanMode, clean_batch
from clip_tokenizer.words import compile_pattern

MAX_WORDS = 2_000_000
"""Number of distinct words that are counted at most."""

_BLOCK = 4096

Pair = tuple[int, int]


def count_words(
    texts: Iterable[str], *, clean: CleanMode = "lower", max_words: int = MAX_WORDS
) -> Counter[str]:
    """Count the words of texts.

    When there are more than `max_words` distinct words, the rarest are dropped until half remain:
    so memory is bounded, and a dropped word that occurs again is counted from there.

    Args:
        texts: The corpus; read once, in blocks.
        clean: Cleaning mode.
        max_words: Number of distinct words in memory.
    """
    pattern = compile_pattern()
    words: Counter[str] = Counter()
    stream = iter(texts)
    while block := list(itertools.islice(stream, _BLOCK)):
        for chunk, count in Counter(clean_batch(block, clean).split()).items():
            if chunk != SEPARATOR:
                for word in pattern.findall(chunk):
                    words[word] += count
        if len(words) > max_words:
            words = _drop_rarest(words, keep=max_words // 2)
    return words


def _drop_rarest(words: Counter[str], *, keep: int) -> Counter[str]:
    """The words above the lowest count that leaves at most `keep` of them."""
    floor = sorted(words.values(), reverse=True)[keep]
    return Counter({word: count for word, count in words.items() if count > floor})


def learn_merges(
    words: Mapping[str, int], num_symbols: int, *, min_count: int = 2
) -> list[tuple[str, str]]:
    """Learn merges from counted words, the most frequent pair first.

    Args:
        words: Count of each word.
        num_symbols: Number of symbols to stop at, the 512 byte symbols included.
        min_count: Pairs that occur less often are not merged.

    Returns:
        Pairs of symbols, fewer than asked for if the words have no more pairs. Two pairs may spell
        the same symbol, which then counts once.
    """
    symbols = list(BASE_SYMBOLS)
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    spelled = [_spell(word, ids) for word in words]
    counts = list(words.values())
    pair_counts, heap = _count_pairs(spelled, counts)
    merges: list[tuple[str, str]] = []
    while heap and len(symbols) < num_symbols:
        negative, pair, serial, where = heapq.heappop(heap)
        count = pair_counts[pair]
        if count != -negative:
            heapq.heappush(heap, (-count, pair, serial, where))
            continue
        if count < max(min_count, 1):
            break
        left, right = symbols[pair[0]], symbols[pair[1]]
        product = ids.setdefault(left + right, len(symbols))
        if product == len(symbols):
            symbols.append(left + right)
        merges.append((left, right))
        grown: dict[Pair, set[int]] = defaultdict(set)
        for index in where:
            for changed, step in _merge_word(spelled[index], pair, product):
                pair_counts[changed] += step * counts[index]
                if step > 0:
                    grown[changed].add(index)
        for changed, indices in grown.items():
            if pair_counts[changed] > 0:
                heapq.heappush(heap, (-pair_counts[changed], changed, len(merges), indices))
    return merges


def _spell(word: str, ids: Mapping[str, int]) -> list[int]:
    """The byte symbols of a word, the last one closing it."""
    spelling = spell_bytes(word.encode("utf-8"))
    return [*(ids[symbol] for symbol in spelling[:-1]), ids[spelling[-1] + END_OF_WORD]]


_Entry = tuple[int, Pair, int, set[int]]


def _count_pairs(
    spelled: list[list[int]], counts: list[int]
) -> tuple[defaultdict[Pair, int], list[_Entry]]:
    """Count of every pair, and a heap of (minus count, pair, serial, words that hold it)."""
    pair_counts: defaultdict[Pair, int] = defaultdict(int)
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(spelled):
        for pair in itertools.pairwise(word):
            pair_counts[pair] += counts[index]
            where[pair].add(index)
    heap = [(-count, pair, 0, where[pair]) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    return pair_counts, heap


def _merge_word(word: list[int], pair: Pair, product: int) -> list[tuple[Pair, int]]:
    """Merge `pair` in `word`, in place; the changes of the counts of neighboring pairs."""
    left, right = pair
    changes: list[tuple[Pair, int]] = []
    at = 0
    while at < len(word) - 1:
        if word[at] == left and word[at + 1] == right:
            word[at : at + 2] = [product]
            if at:
                changes += [((word[at - 1], left), -1), ((word[at - 1], product), 1)]
            if at + 1 < len(word):
                changes += [((right, word[at + 1]), -1), ((product, word[at + 1]), 1)]
        at += 1
    return changes
