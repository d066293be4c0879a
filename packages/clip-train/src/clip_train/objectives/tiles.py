"""Pairs of a batch in tiles, and blocks of rows that travel round the ranks.

n images, m texts of a rank, t rows or columns of a tile. The block of texts (with all tensors of
its columns) that starts on a rank visits all ranks and comes home, so every pair of the global
batch is computed exactly once, and no rank ever holds all texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from clip_train.distributed.communicator import Communicator


def _slices(rows: int, tile: int | None) -> Iterator[slice]:
    """Consecutive slices of at most `tile` rows; one for all with None."""
    size = tile or max(rows, 1)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def iterate_tiles(rows: int, columns: int, tile: int | None) -> Iterator[tuple[slice, slice]]:
    """All tiles of a (rows, columns) matrix, one column of tiles after the other."""
    for column in _slices(columns, tile):
        for row in _slices(rows, tile):
            yield row, column


def rotate_blocks(
    block: list[Tensor], counts: Sequence[int], communicator: Communicator
) -> Iterator[list[Tensor]]:
    """The blocks of all ranks, this rank's first; changes of a block travel with it.

    After the last of them `block` holds this rank's own tensors again, as the others left them.

    Args:
        block: Tensors of this rank's m rows; the list is updated in place.
        counts: Rows of every rank's block.
        communicator: The ranks.
    """
    for step in range(communicator.world_size):
        yield block
        rows = counts[(communicator.rank + step + 1) % communicator.world_size]
        block[:] = [communicator.ring_shift(x, rows) for x in block]
