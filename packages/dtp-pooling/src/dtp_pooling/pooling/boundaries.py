"""Rules that say where segments end, from logits or from the data.

B batch, L tokens, V vocabulary. `b[t] = 1` closes a segment after token t.

Boundaries are float32 zeros and ones; a rule with a soft relaxation has its gradient, by the
straight-through estimator. Without noise every rule is deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dtp_pooling.pooling.segment_plan import is_exported


def fixed_boundaries(
    batch: int, length: int, factor: int, offset: int | Tensor = 0, *, device: torch.device
) -> Tensor:
    """(B, L): every `factor`-th token closes, counted from the position of the first token."""
    if factor < 1:
        raise ValueError(f"factor must be at least 1 token per segment, got {factor}")
    start = torch.as_tensor(offset, device=device).reshape(-1, 1)
    position = start + torch.arange(length, device=device)
    return (position % factor == factor - 1).float().expand(batch, length)


def whitespace_boundaries(tokens: Tensor, space: int) -> Tensor:
    """(B, L): every space closes the word before it; `space` is its token id."""
    return (tokens == space).float()


def random_boundaries(uniform: Tensor, rate: float) -> Tensor:
    """(B, L): each token closes with probability `rate`, by numbers of `hashed_uniform`."""
    return (uniform < rate).float()


def entropy_spikes(logits: Tensor, left: int = 2) -> Tensor:
    """(B, L): tokens whose next-token entropy exceeds that of each of the `left` tokens before.

    Nawrot et al. 2023, section 3.3. Neighbors beyond the start are ignored, so the first token
    always closes. No gradient.

    Args:
        logits: (B, L, V) next-token logits.
        left: Neighbors compared with.
    """
    if left < 1:
        raise ValueError(f"left must be at least 1 neighbor, got {left}")
    log_probability = logits.detach().float().log_softmax(-1)
    entropy = -(log_probability.exp() * log_probability).sum(-1)  # (B, L)
    before = F.pad(entropy, (left, 0), value=-torch.inf).unfold(1, left, 1)[:, :-1]
    return (entropy > before.amax(-1)).float()


def threshold_boundaries(logits: Tensor) -> Tensor:
    """(B, L): tokens more likely than not to close; no gradient."""
    return (logits > 0).float()


def routing_boundaries(logits: Tensor) -> Tensor:
    """(B, L): tokens more likely than not to close, with the gradient of the probability.

    H-Net's rule (Hwang et al. 2025, section 2.2). There a boundary *opens* a chunk at the token
    before which the text changes; here the same token *closes* a segment, and reads it at once. The
    two are one computation: with the last token of a segment as its value, the tokens that read it
    are H-Net's chunk.

    Args:
        logits: (B, L) of the boundary probability, such as those of `CosinePredictor`.
    """
    return _straight_through(logits > 0, logits.float().sigmoid())


def boundary_confidence(logits: Tensor, boundaries: Tensor) -> Tensor:
    """(B, L) float32 probability of what was decided: p at a boundary, 1 - p elsewhere."""
    logits = logits.float()
    return torch.where(boundaries.detach() > 0.5, logits, -logits).sigmoid()


def gumbel_boundaries(
    logits: Tensor, temperature: float = 0.5, noise: Tensor | None = None
) -> Tensor:
    """(B, L) samples of Bernoulli(sigmoid(logits)) with the gradient of their relaxation.

    The relaxation is sigmoid((logits + noise) / temperature), worked out without going through
    probabilities, so it is finite for any finite logit.

    Args:
        logits: (B, L).
        temperature: Of the relaxation, above 0.
        noise: (B, L) logistic noise; None thresholds at probability one half (evaluation).
    """
    _check_temperature(temperature)
    scores = logits.float() if noise is None else logits.float() + noise
    return _straight_through(scores > 0, torch.sigmoid(scores / temperature))


def top_k_boundaries(
    logits: Tensor,
    k: Tensor,
    candidates: Tensor | None = None,
    temperature: float = 0.5,
    noise: Tensor | None = None,
) -> Tensor:
    """(B, L) exactly k boundaries in each row, at its highest scores; earlier tokens win ties.

    Whether a token closes depends on the whole row, so this is not for causal models. The gradient
    is that of sigmoid((score - threshold) / temperature), the threshold being the middle between
    the k-th and the next score.

    Args:
        logits: (B, L).
        k: (B,) boundaries of each row; at most its candidates.
        candidates: (B, L) bool tokens that may close; None for all.
        temperature: Of the relaxation, above 0.
        noise: (B, L) logistic noise for sampling without replacement; None for evaluation.
    """
    _check_temperature(temperature)
    scores = logits.float() if noise is None else logits.float() + noise
    allowed = torch.ones_like(scores, dtype=torch.bool) if candidates is None else candidates
    if scores.shape[1] == 0:
        return scores
    eligible = scores.masked_fill(~allowed, -torch.inf)
    if is_exported():  # exporters know no stable sort
        return ((_count_before(eligible) < k[:, None]) & allowed).to(scores.dtype)
    ranked, order = eligible.sort(dim=1, descending=True, stable=True)
    position = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, position)
    hard = (rank < k[:, None]) & allowed
    last = (k[:, None] - 1).clamp(0, scores.shape[1] - 1)
    following = (last + 1).clamp(max=scores.shape[1] - 1)
    threshold = (ranked.gather(1, last) + ranked.gather(1, following)).detach() / 2
    threshold = torch.where(threshold.isfinite(), threshold, ranked.gather(1, last).detach())
    threshold = torch.where(threshold.isfinite(), threshold, 0.0)
    soft = torch.sigmoid((scores - threshold) / temperature)
    return _straight_through(hard, soft * allowed)


def _count_before(scores: Tensor) -> Tensor:
    """(B, L) scores before each in descending order, equal ones in theirs; quadratic in L."""
    here, other = scores[:, :, None], scores[:, None, :]
    place = torch.arange(scores.shape[1], device=scores.device)
    earlier = place[None, :] < place[:, None]
    return ((other > here) | ((other == here) & earlier)).sum(2)


def mask_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, L) with zeros beyond each row's length; `lengths` (B,), or None for all L."""
    if lengths is None:
        return x
    beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
    return x.masked_fill(beyond, 0)


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Exactly `hard` with the gradient of `soft`."""
    return hard.to(soft.dtype) + (soft - soft.detach())


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
