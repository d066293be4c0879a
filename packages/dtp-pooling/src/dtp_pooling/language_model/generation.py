"""Continue texts token by token, with caches for tokens and for segments.

B batch, L tokens, D width, V vocabulary.

Token layers take one step per token; segment layers take one only when a row finishes a segment.
The logits are those of the whole forward pass up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtp_pooling.language_model.attention import LayerCache
from dtp_pooling.language_model.model import DynamicPoolingLM
from dtp_pooling.language_model.segment_layers import SegmentLayers, segment_probability
from dtp_pooling.pooling.boundaries import mask_padding
from dtp_pooling.pooling.functional import closed_segment_of, pool, smooth
from dtp_pooling.pooling.noise import Generators, row_keys
from dtp_pooling.pooling.predictors import CosinePredictor
from dtp_pooling.pooling.splitmix64 import hashed_uniform


@dataclass(kw_only=True)
class SegmentState:
    """What layers on segments continue from; changed in place.

    Attributes:
        shortened: Caches of the layers on segments.
        length: (B,) tokens seen.
        open_sum: (B, D) sum of the unfinished segment, in at least float32.
        open_count: (B,) tokens in it.
        segment: (B, D) output of the newest finished segment, smoothed where segments are.
        previous: (B, D) hidden state of the last token before pooling.
        nested: The same of segments of segments, whose tokens are segments, or None.
    """

    shortened: list[LayerCache]
    length: Tensor
    open_sum: Tensor
    open_count: Tensor
    segment: Tensor
    previous: Tensor
    nested: SegmentState | None = None


@dataclass(kw_only=True)
class DecodingState(SegmentState):
    """What decoding continues from; changed in place by `step`.

    Attributes:
        pre: Caches of the layers before pooling.
        post: Caches of the layers after unpooling.
    """

    pre: list[LayerCache]
    post: list[LayerCache]


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
    x, pre = _run(model, model.pre, model.embedding(tokens), lengths)
    x, segments = _prefill_segments(model, model, x, tokens, lengths)
    x, post = _run(model, model.post, x, lengths)
    logits: Tensor = model.head(model.norm(x[rows, lengths - 1]))
    return logits, DecodingState(pre=pre, post=post, **vars(segments))


def _prefill_segments(
    model: DynamicPoolingLM, stage: SegmentLayers, x: Tensor, tokens: Tensor, lengths: Tensor
) -> tuple[Tensor, SegmentState]:
    """Tokens (B, L, D) through the layers on segments, and the state to continue from."""
    rows = torch.arange(len(tokens), device=tokens.device)
    if stage.segmenter is None:
        nothing = torch.zeros_like(x[:, 0])
        x, shortened = _run(model, stage.shortened, x, lengths)
        return x, SegmentState(
            shortened=shortened,
            length=lengths.clone(),
            open_sum=nothing,
            open_count=torch.zeros_like(lengths),
            segment=nothing,
            previous=nothing,
        )
    hidden, config = stage.hidden_norm(x), stage.segmenter.config
    segmentation = stage.segmenter(tokens, hidden, lengths=lengths)
    b = segmentation.boundaries
    pooled = pool(hidden, b, config.value or "mean", "drop", stage.null, lengths)
    first, second = stage.halves
    y, caches = _run(model, first, stage.pooled_norm(pooled.values), pooled.lengths)
    nested = None
    if stage.nested is not None:
        ids = torch.zeros(y.shape[:2], dtype=torch.long, device=y.device)
        y, nested = _prefill_segments(model, stage.nested, y, ids, pooled.lengths)
    y, more = _run(model, second, y, pooled.lengths)
    y = stage.segment_norm(y)
    if config.smooth:
        y = smooth(y, segment_probability(segmentation, y.shape[1]))
    open_sum, open_count = _sum_open(hidden, mask_padding(pooled.segment_of < 0, lengths))
    state = SegmentState(
        shortened=caches + more,
        length=lengths.clone(),
        open_sum=open_sum,
        open_count=open_count,
        segment=y[rows, pooled.lengths - 1],
        previous=hidden[rows, lengths - 1],
        nested=nested,
    )
    back = y.gather(1, closed_segment_of(b)[..., None].expand_as(hidden))
    return stage.add_residual(hidden, back), state


def _sum_open(hidden: Tensor, is_open: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) sum in at least float32, and (B,) number, of the tokens (B, L) that are open."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return (hidden * is_open[..., None]).sum(1, dtype=wide), is_open.sum(1)


@torch.no_grad()
def step(model: DynamicPoolingLM, tokens: Tensor, state: DecodingState) -> Tensor:
    """(B, V) logits after one more token (B,) of every row; the state is updated."""
    rows = torch.arange(len(tokens), device=tokens.device)
    x = _advance(model, model.pre, model.embedding(tokens), state.pre, rows)  # (B, D)
    if model.segmenter is None:
        x = _advance(model, model.shortened, x, state.shortened, rows)
        state.length = state.length + 1
    else:
        x = _advance_segments(model, model, x, tokens, state, rows)
    x = _advance(model, model.post, x, state.post, rows)
    logits: Tensor = model.head(model.norm(x))
    return logits


def _advance_segments(
    model: DynamicPoolingLM,
    stage: SegmentLayers,
    x: Tensor,
    tokens: Tensor,
    state: SegmentState,
    rows: Tensor,
) -> Tensor:
    """(R, D) next tokens of the rows (R,), with what they read from their newest segments."""
    assert stage.segmenter is not None
    hidden = stage.hidden_norm(x)
    reads_previous = isinstance(stage.segmenter.scores, CosinePredictor)
    b, logits = stage.segmenter(
        tokens[:, None],
        hidden[:, None],
        offset=state.length[rows],
        previous=state.previous[rows] if reads_previous else None,
    )
    state.open_sum = state.open_sum.index_add(0, rows, hidden.to(state.open_sum.dtype))
    state.open_count = state.open_count.index_add(0, rows, torch.ones_like(rows))
    state.length = state.length.index_add(0, rows, torch.ones_like(rows))
    state.previous = state.previous.index_copy(0, rows, hidden)
    closes = b[:, 0] > 0.5
    if bool(closes.any()):
        probability = None if logits is None else logits[closes, 0].sigmoid()
        _close_segments(model, stage, hidden[closes], probability, state, rows[closes])
    return stage.add_residual(hidden, state.segment[rows])


def _close_segments(
    model: DynamicPoolingLM,
    stage: SegmentLayers,
    last: Tensor,
    probability: Tensor | None,
    state: SegmentState,
    rows: Tensor,
) -> None:
    """Finish the open segments of the rows (R,), whose last tokens are (R, D)."""
    assert stage.segmenter is not None
    config = stage.segmenter.config
    mean = state.open_sum[rows] / state.open_count[rows, None]
    y = stage.pooled_norm(last if config.value == "last" else mean.to(last.dtype))
    first, second = stage.halves
    y = _advance(model, first, y, state.shortened[: len(first)], rows)
    if stage.nested is not None:
        assert state.nested is not None
        ids = torch.zeros_like(rows)  # segments have no ids
        y = _advance_segments(model, stage.nested, y, ids, state.nested, rows)
    y = stage.segment_norm(_advance(model, second, y, state.shortened[len(first) :], rows))
    if config.smooth:
        assert probability is not None
        y = smooth(y[:, None], probability[:, None], previous=state.segment[rows])[:, 0]
    state.segment = state.segment.index_copy(0, rows, y)
    state.open_sum = state.open_sum.index_fill(0, rows, 0)
    state.open_count = state.open_count.index_fill(0, rows, 0)


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
    model: DynamicPoolingLM, blocks: Iterable[nn.Module], x: Tensor, lengths: Tensor
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
    blocks: Iterable[nn.Module],
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
        x = block.step(x, cache, rows, relative)  # type: ignore[operator]
    return x


def _check(model: DynamicPoolingLM, tokens: Tensor, lengths: Tensor | None) -> None:
    if model.training:
        raise ValueError("decoding draws no boundaries and drops nothing: call model.eval() first")
    if tokens.dim() != 2 or tokens.shape[1] < 1:
        raise ValueError(f"expected a prompt (B, L) with L at least 1, got {tuple(tokens.shape)}")
    if lengths is not None and (int(lengths.min()) < 1 or int(lengths.max()) > tokens.shape[1]):
        raise ValueError(f"lengths must be within 1 and L = {tokens.shape[1]}, got {lengths}")
