"""Byte-pair encoding of one word.

A round merges every occurrence of the pair of neighbors with the lowest rank, from left to right;
rounds go on until no pair has a rank. Pairs that a round creates are merged in later rounds, so
that any table of ranks gives the ids of the textbook loop.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

LONG_WORD = 48
"""Number of symbols from which lists of positions are faster than searching a short list."""


class MergeTable:
    """The merges of a vocabulary, looked up by pair of ids.

    Args:
        pairs: The pair of symbol ids that each rank merges, lowest rank first. Of a pair
            that is listed twice, the later rank counts.
        products: The id that each rank produces.
        num_symbols: Size of the vocabulary; every id is below it.
    """

    def __init__(
        self, pairs: Sequence[tuple[int, int]], products: Sequence[int], num_symbols: int
    ) -> None:
        self._products = list(products)
        self._base = num_symbols
        self._unranked = len(self._products)
        self._ranks = {left * num_symbols + right: rank for rank, (left, right) in enumerate(pairs)}

    def merge(self, symbols: list[int]) -> list[int]:
        """The ids that remain when no neighbors in `symbols` can be merged."""
        if len(symbols) >= LONG_WORD:
            return self._merge_long(symbols)
        symbols = symbols.copy()
        base, unranked, rank_of = self._base, self._unranked, self._ranks.get
        ranks = [
            rank_of(left * base + right, unranked) for left, right in itertools.pairwise(symbols)
        ]
        while ranks and (best := min(ranks)) < unranked:
            product = self._products[best]
            at = 0
            while (at := _find(ranks, best, at)) >= 0:
                symbols[at : at + 2] = [product]
                del ranks[at]
                if at:
                    ranks[at - 1] = rank_of(symbols[at - 1] * base + product, unranked)
                if at < len(ranks):
                    ranks[at] = rank_of(product * base + symbols[at + 1], unranked)
        return symbols

    def _merge_long(self, symbols: list[int]) -> list[int]:
        """Merge a long word, in time that grows as n log n.

        Symbols are a linked list in arrays; the positions of each rank are kept in a list, and a
        heap holds the ranks that have one.
        """
        base, unranked, rank_of = self._base, self._unranked, self._ranks.get
        size = len(symbols)
        symbols = [*symbols, -base * base]  # closes the list; no pair with it has a rank
        after = list(range(1, size + 2))
        before = list(range(-1, size))
        positions: dict[int, list[int]] = {}
        for at in range(size - 1):
            rank = rank_of(symbols[at] * base + symbols[at + 1], unranked)
            if rank < unranked:
                positions.setdefault(rank, []).append(at)
        heap = list(positions)
        heapq.heapify(heap)
        while heap:
            best = heapq.heappop(heap)
            product = self._products[best]
            touched: list[int] = []
            for at in sorted(positions.pop(best)):
                left = symbols[at]
                right_at = after[at]
                if left < 0 or rank_of(left * base + symbols[right_at], unranked) != best:
                    continue  # merged away, or no longer this pair
                symbols[at] = product
                symbols[right_at] = -1
                after[at] = after[right_at]
                before[after[at]] = at
                touched.append(at)
                if before[at] >= 0:
                    touched.append(before[at])
            for at in touched:
                if symbols[at] < 0:
                    continue
                rank = rank_of(symbols[at] * base + symbols[after[at]], unranked)
                if rank < unranked:
                    if rank not in positions:
                        positions[rank] = []
                        heapq.heappush(heap, rank)
                    positions[rank].append(at)
        return [symbol for symbol in symbols if symbol >= 0]


def _find(ranks: list[int], rank: int, start: int) -> int:
    """The first position of `rank` from `start` on, or -1."""
    try:
        return ranks.index(rank, start)
    except ValueError:
        return -1
