"""Continue texts token by token, with caches for tokens and for segments.

B batch, L tokens, D width, V vocabulary.

Token layers take one step per token; segment layers take one only when a row finishes a segment.
The logits are those of the whole forward pass up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtp_pooling.language_model.attention import LayerCache
from dtp_pooling.language_model.model import DynamicPoolingLM
from dtp_pooling.pooling.boundaries import mask_padding
from dtp_pooling.pooling.functional import closed_segment_of, pool
from dtp_pooling.pooling.noise import Generators, row_keys
from dtp_pooling.pooling.splitmix64 import hashed_uniform


@dataclass(kw_only=True)
class DecodingState:
    """What decoding continues from; changed in place by `step`.

    Attributes:
        pre: Caches of the layers before pooling.
        shortened: Caches of the layers on segments.
        post: Caches of the layers after unpooling.
        length: (B,) tokens seen.
        open_sum: (B, D) sum of the unfinished segment, in at least float32.
        open_count: (B,) tokens in it.
        segment: (B, D) output of the newest finished segment.
        previous: (B, D) hidden state of the last token before pooling.
    """

    pre: list[LayerCache]
    shortened: list[LayerCache]
    post: list[LayerCache]
    length: Tensor
    open_sum: Tensor
    open_count: Tensor
    segment: Tensor
    previous: Tensor


@torch.no_grad()
def prefill(
    model: DynamicPoolingLM, tokens: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, DecodingState]:
    """(B, V) logits after each row's last token, and the state to continue from.

    Args:
        model: In evaluation mode.
        tokens: (B, L) int64, L at least 1.
        lengths: (B,) valid tokens, each at least 1; None for all.
    """
    _check(model, tokens, lengths)
    if lengths is None:
        lengths = torch.full_like(tokens[:, 0], tokens.shape[1])
    rows = torch.arange(len(tokens), device=tokens.device)
    hidden, pre = _run(model, model.pre, model.embedding(tokens), lengths)
    segment = open_sum = torch.zeros_like(hidden[:, 0])
    open_count = torch.zeros_like(lengths)
    if model.segmenter is None:
        x, shortened = _run(model, model.shortened, hidden, lengths)
    else:
        b, _ = model.segmenter(tokens, hidden, lengths=lengths)
        pooled = pool(hidden, b, tail="drop", null=model.null, lengths=lengths)
        y = model.pooled_norm(pooled.values)
        y, shortened = _run(model, model.shortened, y, pooled.lengths)
        x = hidden + y.gather(1, closed_segment_of(b)[..., None].expand_as(hidden))
        segment = y[rows, pooled.lengths - 1]
        open_sum, open_count = _sum_open(hidden, mask_padding(pooled.segment_of < 0, lengths))
    x, post = _run(model, model.post, x, lengths)
    state = DecodingState(
        pre=pre,
        shortened=shortened,
        post=post,
        length=lengths.clone(),
        open_sum=open_sum,
        open_count=open_count,
        segment=segment,
        previous=hidden[rows, lengths - 1],
    )
    logits: Tensor = model.head(model.norm(x[rows, lengths - 1]))
    return logits, state


def _sum_open(hidden: Tensor, is_open: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) sum in at least float32, and (B,) number, of the tokens (B, L) that are open."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return (hidden * is_open[..., None]).sum(1, dtype=wide), is_open.sum(1)


@torch.no_grad()
def step(model: DynamicPoolingLM, tokens: Tensor, state: DecodingState) -> Tensor:
    """(B, V) logits after one more token (B,) of every row; the state is updated."""
    rows = torch.arange(len(tokens), device=tokens.device)
    hidden = _advance(model, model.pre, model.embedding(tokens), state.pre, rows)  # (B, D)
    if model.segmenter is None:
        x = _advance(model, model.shortened, hidden, state.shortened, rows)
    else:
        previous = state.previous if model.config.boundaries.scores == "cosine" else None
        b, _ = model.segmenter(
            tokens[:, None], hidden[:, None], offset=state.length, previous=previous
        )
        state.open_sum = state.open_sum + hidden
        state.open_count = state.open_count + 1
        closing = rows[b[:, 0] > 0.5]
        if len(closing):
            mean = state.open_sum[closing] / state.open_count[closing, None]
            y = model.pooled_norm(mean.to(hidden.dtype))
            segment = _advance(model, model.shortened, y, state.shortened, closing)
            state.segment = state.segment.index_copy(0, closing, segment)
            state.open_sum = state.open_sum.index_fill(0, closing, 0)
            state.open_count = state.open_count.index_fill(0, closing, 0)
        x = hidden + state.segment
    x = _advance(model, model.post, x, state.post, rows)
    state.length = state.length + 1
    state.previous = hidden
    logits: Tensor = model.head(model.norm(x))
    return logits


@torch.no_grad()
def generate(
    model: DynamicPoolingLM,
    prompt: Tensor,
    new_tokens: int,
    *,
    lengths: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    generators: Generators = None,
) -> Tensor:
    """(B, new_tokens) continuations. A row does not depend on its batch.

    Positions beyond those of training are allowed, and a model may be poor there.

    Args:
        model: In evaluation mode.
        prompt: (B, L) int64, L at least 1.
        new_tokens: Tokens to add.
        lengths: (B,) valid tokens of each prompt, each at least 1; None for all.
        temperature: Of sampling; 0 takes the likeliest token.
        top_k: Sample among so many likeliest tokens; None for all.
        generators: Randomness of each row; see `noise.row_keys`.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}; 0 is greedy")
    if new_tokens < 0:
        raise ValueError(f"new_tokens must be at least 0, got {new_tokens}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}; None samples among all")
    logits, state = prefill(model, prompt, lengths)
    draws = None
    if temperature > 0:
        draws = hashed_uniform(row_keys(len(prompt), generators, prompt.device), new_tokens)
    out = prompt.new_zeros(len(prompt), new_tokens)
    for t in range(new_tokens):
        out[:, t] = _sample(logits, temperature, top_k, None if draws is None else draws[:, t])
        if t + 1 < new_tokens:
            logits = step(model, out[:, t], state)
    return out


def _sample(logits: Tensor, temperature: float, top_k: int | None, u: Tensor | None) -> Tensor:
    """(B,) tokens of (B, V) logits: where the cumulative probability passes u."""
    if u is None:
        return logits.argmax(-1)
    scores, order = logits.float().sort(dim=-1, descending=True, stable=True)
    scores = (scores - scores[:, :1]) / max(temperature, 1e-30)  # at most 0: nothing overflows
    cumulative = scores[:, :top_k].softmax(-1).cumsum(-1)
    place = torch.searchsorted(cumulative, u[:, None].contiguous())
    return order.gather(1, place.clamp(max=cumulative.shape[1] - 1))[:, 0]


def _run(
    model: DynamicPoolingLM, blocks: nn.ModuleList, x: Tensor, lengths: Tensor
) -> tuple[Tensor, list[LayerCache]]:
    """(B, L, D) through the blocks, and their caches."""
    caches = []
    relative = model.relative(x.shape[1])
    for block in blocks:
        x, cache = block(x, relative, lengths)
        caches.append(cache)
    return x, caches


def _advance(
    model: DynamicPoolingLM,
    blocks: nn.ModuleList,
    x: Tensor,
    caches: list[LayerCache],
    rows: Tensor,
) -> Tensor:
    """(R, D) next tokens of the rows through the blocks."""
    relative = None
    if caches:
        longest = int(caches[0].lengths[rows].max())
        # the next power of two: distances are projected anew only when a text doubles
        relative = model.relative(1 << longest.bit_length())
    for block, cache in zip(blocks, caches, strict=True):
        x = block.step(x, cache, rows, relative)  # type: ignore[operator]  # ModuleList is untyped
    return x


def _check(model: DynamicPoolingLM, tokens: Tensor, lengths: Tensor | None) -> None:
    if model.training:
        raise ValueError("decoding draws no boundaries and drops nothing: call model.eval() first")
    if tokens.dim() != 2 or tokens.shape[1] < 1:
        raise ValueError(f"expected a prompt (B, L) with L at least 1, got {tuple(tokens.shape)}")
    if lengths is not None and (int(lengths.min()) < 1 or int(lengths.max()) > tokens.shape[1]):
        raise ValueError(f"lengths must be within 1 and L = {tokens.shape[1]}, got {lengths}")
