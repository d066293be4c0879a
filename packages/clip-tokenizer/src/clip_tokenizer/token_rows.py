"""Token ids of a batch as one flat array. N rows, T context length, L ids in all."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """The ids of N texts one after the other, without start, end and padding.

    Attributes:
        ids: (L,) unsigned ids.
        lengths: (N,) number of ids of each text.
    """

    ids: npt.NDArray[np.unsignedinteger]
    lengths: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """(N,) position of the first id of each text in `ids`."""
        return np.cumsum(self.lengths) - self.lengths

    def to_list(self) -> list[list[int]]:
        """One list of ids per text."""
        flat = self.ids.tolist()
        bounds = [0, *np.cumsum(self.lengths).tolist()]
        return [flat[start:end] for start, end in itertools.pairwise(bounds)]

    def take(self, indices: list[npt.NDArray[np.int64]]) -> TokenRows:
        """The rows with the ids at `indices[n]` of each text n."""
        lengths = np.fromiter(map(len, indices), dtype=np.int64, count=len(indices))
        flat = np.concatenate([np.empty(0, np.int64), *indices])  # (kept,)
        return TokenRows(ids=self.ids[flat + np.repeat(self.starts, lengths)], lengths=lengths)

    def fill(self, out: npt.NDArray[np.integer], *, sot: int, eot: int) -> None:
        """Write start, ids and end of every text into `out` (N, T), which holds padding.

        A text that does not fit loses its tail and keeps its end token, in the last column.
        """
        context_length = out.shape[1]
        kept = np.minimum(self.lengths, max(context_length - 2, 0))  # (N,)
        ids = self.ids
        if int(kept.sum()) < len(ids):
            within = np.arange(len(ids)) - np.repeat(self.starts, self.lengths)  # (L,)
            ids = ids[within < np.repeat(kept, self.lengths)]
        row_starts = np.arange(len(kept)) * context_length  # (N,) in the flat output
        index = np.arange(len(ids))
        index += np.repeat(row_starts + 1 - (np.cumsum(kept) - kept), kept)
        flat = out.reshape(-1)
        flat[index] = ids
        out[:, 0] = sot
        flat[row_starts + np.minimum(kept + 1, context_length - 1)] = eot
