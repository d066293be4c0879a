"""How tokens lie in memory, and attention over them.

B batch, L tokens, N tokens of all rows, H heads, d head width.

Rows of a batch are padded to one length (`Padded`) or follow each other without padding
(`Packed`). Everything but attention works on single tokens and does not depend on the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_GROUP = 16
MOST_GROUPS = 8


class Layout(Protocol):
    """Where the tokens of each row lie and which of them the tower reads."""

    @property
    def reads(self) -> bool:
        """Whether the tower reads one token of each row, not all."""

    def attend(self, qkv: Tensor, *, read: bool) -> Tensor:
        """Attention of (…, 3, H, d), giving (…, H, d) of all tokens or of those that are read."""

    def take(self, x: Tensor) -> Tensor:
        """The tokens that are read."""


@dataclass(frozen=True)
class Padded:
    """Tokens (B, L, …).

    Attributes:
        causal: A token attends to itself and to earlier ones only.
        mask: (B, L) bool, True for tokens to attend to; None for all. A causal layout has its
            padding at the end, where no token attends to it.
        key_bias: (B, L) added to the scores of all queries for each token; None for zeros.
        read_at: Position of the token that is read, one for all rows, from the end if negative, or
            (B,); None for all tokens.
    """

    causal: bool = False
    mask: Tensor | None = None
    key_bias: Tensor | None = None
    read_at: int | Tensor | None = None

    @property
    def reads(self) -> bool:
        """Whether one token of each row is read."""
        return self.read_at is not None

    def attend(self, qkv: Tensor, *, read: bool) -> Tensor:
        """(B, L, 3, H, d) to (B, L, H, d), or (B, 1, H, d) of the tokens that are read."""
        query, key, value = qkv.unbind(2)  # 3 × (B, L, H, d)
        if read:
            query = self.take(query)  # (B, 1, H, d)
        triangle = self.causal and not read and self.key_bias is None
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if triangle else self.attention_mask(key, read),
            is_causal=triangle,
        )  # (B, H, ·, d)
        return mixed.transpose(1, 2)

    def take(self, x: Tensor) -> Tensor:
        """(B, L, …) to (B, 1, …)."""
        if isinstance(self.read_at, Tensor):
            return x[torch.arange(x.shape[0], device=x.device), self.read_at].unsqueeze(1)
        assert self.read_at is not None
        at = self.read_at if self.read_at >= 0 else x.shape[1] + self.read_at
        return x.narrow(1, at, 1)

    def attention_mask(self, key: Tensor, read: bool) -> Tensor | None:
        """A mask of keys or a bias of scores that broadcasts to (B, 1, L, L)."""
        length = key.shape[1]
        seen = None if self.mask is None else self.mask[:, None, None]  # (B, 1, 1, L)
        if self.causal and read:
            seen = self._seen_by_read_token(length, key.device)
        elif self.causal:
            seen = torch.ones(length, length, dtype=torch.bool, device=key.device).tril()
        if self.key_bias is None:
            return seen
        bias = self.key_bias.to(key.dtype)[:, None, None]
        return bias if seen is None else torch.where(seen, bias, -torch.inf)

    def _seen_by_read_token(self, length: int, device: torch.device) -> Tensor:
        """(B, 1, 1, L), or (1, 1, 1, L) where all rows read the same position."""
        places = torch.arange(length, device=device)
        if isinstance(self.read_at, Tensor):
            return (places <= self.read_at[:, None])[:, None, None]
        assert self.read_at is not None
        at = self.read_at if self.read_at >= 0 else length + self.read_at
        return (places <= at)[None, None, None]


@dataclass(frozen=True)
class _Group:
    """Rows of similar length that attend together, padded to the longest."""

    tokens: slice  # of the packed sequence
    rows: int
    length: int
    places: Tensor | None  # of its tokens among rows * length; None without padding
    mask: Tensor | None  # (rows, length) bool; None where all are tokens, or padding is never seen


class Packed:
    """Rows of different lengths, sorted by length, one after the other: tokens (N, …).

    Linear layers see no padding at all; attention pads within groups of rows of similar length.

    Args:
        lengths: (B,) number of tokens of each row, on the CPU, at least 1.
        device: Device of the tokens.
        causal: A token attends to itself and to earlier ones of its row only, else to all of them.
        read: The token of every row that is read; None for all tokens.

    Attributes:
        row: (N,) row of the batch that a token is of.
        position: (N,) its position there.
        unsort: (B,) place of each row of the batch among the sorted ones.
    """

    def __init__(
        self,
        lengths: Tensor,
        device: torch.device,
        *,
        causal: bool = True,
        read: Literal["first", "last"] | None = "last",
    ) -> None:
        self.causal, self.reads = causal, read is not None
        self.order = lengths.argsort(stable=True)
        lengths = lengths[self.order]
        real = torch.arange(int(lengths[-1])) < lengths[:, None]  # (B, T)
        row, position = real.nonzero(as_tuple=True)  # 2 × (N,)
        self.row = self.order[row].to(device, non_blocking=True)
        self.position = position.to(device, non_blocking=True)
        stops = lengths.cumsum(0)
        self.starts = (stops - lengths).to(device, non_blocking=True)  # (B,)
        self.lengths = lengths.to(device, non_blocking=True)  # (B,)
        self.read = self.starts if read == "first" else (stops - 1).to(device, non_blocking=True)
        self.unsort = self.order.argsort().to(device, non_blocking=True)
        self.groups = []
        start = 0
        rows = max(SMALLEST_GROUP, -(-len(lengths) // MOST_GROUPS))
        for part, inside in zip(torch.split(lengths, rows), torch.split(real, rows), strict=True):
            stop, longest = start + int(part.sum()), int(part[-1])
            mask = inside[:, :longest]
            padded = stop - start < len(part) * longest
            places = mask.flatten().nonzero().flatten() if padded else None
            places = None if places is None else places.to(device, non_blocking=True)
            seen = mask.to(device, non_blocking=True) if padded and not causal else None
            self.groups.append(_Group(slice(start, stop), len(part), longest, places, seen))
            start = stop

    def attend(self, qkv: Tensor, *, read: bool) -> Tensor:
        """(N, 3, H, d) to (N, H, d), or (B, H, d) of the tokens that are read."""
        mixed = torch.cat([self._attend_group(qkv[group.tokens], group) for group in self.groups])
        return self.take(mixed) if read else mixed

    def take(self, x: Tensor) -> Tensor:
        """(N, …) to (B, …), rows in sorted order."""
        return x[self.read]

    def pad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, …) to (B, L, …) in the order of the batch, and (B, L) bool, True for tokens."""
        starts, lengths = self.starts[self.unsort, None], self.lengths[self.unsort, None]  # (B, 1)
        places = torch.arange(self.groups[-1].length, device=x.device)  # (L,)
        return x[starts + torch.minimum(places, lengths - 1)], places < lengths

    def _attend_group(self, qkv: Tensor, group: _Group) -> Tensor:
        if group.places is not None:
            empty = qkv.new_zeros(group.rows * group.length, *qkv.shape[1:])
            qkv = empty.index_copy(0, group.places, qkv)
        layout = Padded(self.causal, group.mask)
        mixed = layout.attend(qkv.view(group.rows, group.length, *qkv.shape[1:]), read=False)
        mixed = mixed.flatten(0, 1)  # (rows * length, H, d)
        return mixed if group.places is None else mixed[group.places]
