"""Rankings of items for queries by dot products.

Legend: N queries, M items, K best items, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Ranking(NamedTuple):
    """The place of each query's best positive, and the items that were ranked first.

    Attributes:
        ranks: How many items are ranked before the best positive, (N,).
        items: The best items, best first, (N, K).
        scores: Their scores, (N, K).
    """

    ranks: NDArray[np.int64]
    items: NDArray[np.int64]
    scores: NDArray[np.float32]


def rank_items(
    queries: ArrayLike,
    items: ArrayLike,
    positives: Sequence[Sequence[int]],
    *,
    limit: int = 0,
    chunk: int = 1024,
) -> Ranking:
    """Rank all items for each query by their dot product.

    The rank of the best positive is the number of items that score higher. An item that ties with
    it counts as ranked before it unless it is a positive itself: a constant embedding earns
    nothing. The N x M scores exist only `chunk` rows at a time.

    Args:
        queries: Embeddings (N, D).
        items: Embeddings (M, D).
        positives: For each query, indices of the items that belong to it.
        limit: Number of best items that are returned; K is at most M.
        chunk: Queries at a time.
    """
    left, right = np.asarray(queries), np.asarray(items)
    if len(positives) != len(left):
        raise ValueError(
            f"positives must have one entry per query, got {len(positives)} for {len(left)}"
        )
    width = min(limit, len(right))
    ranks = np.empty(len(left), dtype=np.int64)
    best = np.empty((len(left), width), dtype=np.int64)
    values = np.empty((len(left), width), dtype=np.float32)
    for start in range(0, len(left), chunk):
        scores = left[start : start + chunk] @ right.T  # (chunk, M)
        for row, own in enumerate(scores, start=start):
            ranks[row] = _rank_best(own, np.asarray(positives[row], dtype=np.int64))
        if width:
            stop = start + len(scores)
            best[start:stop] = best_columns(scores, width)
            values[start:stop] = np.take_along_axis(scores, best[start:stop], axis=1)
    return Ranking(ranks, best, values)


def _rank_best(scores: NDArray[np.float32], own: NDArray[np.int64]) -> int:
    best = scores[own].max() if len(own) else -np.inf
    if not np.isfinite(best):
        return len(scores)
    before = scores >= best
    before[own] = False
    return int(before.sum())


def best_columns(scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Return the columns of the `limit` highest scores of each row, highest first, (N, limit).

    Equal scores keep the order of the columns; a score that is not a number comes last.
    """
    known = np.where(np.isnan(scores), -np.inf, scores)
    if limit < scores.shape[1]:
        columns = np.sort(np.argpartition(-known, limit - 1, axis=1)[:, :limit], axis=1)
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(known, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def chance_recall(positives: Sequence[int], items: int, k: int) -> float | None:
    """Recall at k of a random order of the items: the mean over queries; None without queries.

    Args:
        positives: Number of items that belong to each query.
        items: Number of items.
        k: How many items count.
    """
    if not positives:
        return None
    k = min(k, items)
    counts, queries = np.unique(np.asarray(positives), return_counts=True)
    missed = [math.comb(items - int(n), k) / math.comb(items, k) for n in counts]
    return float(1 - np.average(missed, weights=queries))
