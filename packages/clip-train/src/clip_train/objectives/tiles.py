"""Pairs of a batch in tiles, and blocks of rows that travel round the ranks.

n images, m texts of a rank, t rows or columns of a tile. The block of texts (with all tensors of
its columns) that starts on a rank visits all ranks and comes home, so every pair of the global
batch is computed exactly once, and no rank ever holds all texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from clip_train.distributed.communicator import Communicator


class GlobalPairs(NamedTuple):
    """The pairs of this rank's images with the texts of all ranks, and how they are computed."""

    counts: tuple[int, ...]  # texts of every rank
    communicator: Communicator
    tile: int | None  # side of a tile; None makes one tile of a block

    def tiles(self, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
        """All tiles of a (rows, columns) matrix, one column of tiles after the other."""
        for column in self._slices(columns):
            for row in self._slices(rows):
                yield row, column

    def rotate_blocks(self, block: list[Tensor]) -> Iterator[list[Tensor]]:
        """The blocks of all ranks, this rank's first; changes of a block travel with it.

        After the last of them `block` holds this rank's tensors again, as the others left them.

        Args:
            block: Tensors of this rank's m rows; the list is updated in place.
        """
        rank, world_size = self.communicator.rank, self.communicator.world_size
        for step in range(world_size):
            yield block
            rows = self.counts[(rank + step + 1) % world_size]
            block[:] = [self.communicator.ring_shift(x, rows) for x in block]

    def _slices(self, rows: int) -> Iterator[slice]:
        size = self.tile or max(rows, 1)
        for start in range(0, rows, size):
            yield slice(start, min(start + size, rows))


def refuse_second_derivatives() -> None:
    """Raise in a closed-form backward pass whose gradient would have to be differentiated again."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "losses in tiles have first derivatives only, and create_graph=True asks for second "
            "ones; compute InfoNCE without tile, or the sigmoid loss from logits of your own"
        )
