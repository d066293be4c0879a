"""Where segments end: scores per token, and rules that turn them into boundaries.

B batch, L tokens, D width, V vocabulary. `b[t] = 1` closes a segment after token t.

Scores (logits) are always float32, whatever the tokens' dtype or autocast. Rules give float32
zeros and ones; those with a soft counterpart carry its gradient straight through. Without noise
every rule is deterministic.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_COSINE_LIMIT = 1 - 2e-4  # keeps the routing probability in [1e-4, 1 - 1e-4]


class MLPScores(nn.Module):
    """Boundary logits of each token by two linear layers with GELU between; looks at no other.

    Args:
        width: D.
        hidden: Width between the layers; None for 4 D.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(
        self, h: Tensor, lengths: Tensor | None = None, previous: Tensor | None = None
    ) -> Tensor:
        """(B, L) float32 logits of tokens (B, L, D); the other arguments are not needed."""
        with _without_autocast(h.device.type):
            x = F.gelu(_linear_float32(self.hidden, h))
            return _linear_float32(self.out, x).squeeze(-1)


class CosineScores(nn.Module):
    """Boundary logits from the dissimilarity of neighbours under two learned projections.

    The probability is (1 - cos(q, k)) / 2, H-Net's routing (Hwang et al. 2025), kept within
    [1e-4, 1 - 1e-4]. Both projections start as the identity. A boundary closes a segment, so the
    pair that decides about token t is (t, t + 1), and the last token always closes; a causal model
    must not look ahead and decides by (t - 1, t), the first token never closing.

    Args:
        width: D.
        causal: Decide about a token from it and the one before.
    """

    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight)

    def forward(
        self,
        h: Tensor,
        lengths: Tensor | None = None,
        previous: Tensor | None = None,
        causal: bool | None = None,
    ) -> Tensor:
        """(B, L) float32 logits.

        Args:
            h: (B, L, D) tokens.
            lengths: (B,) valid tokens of each row; None for all.
            previous: (B, D) token before the first one, if there is one (causal only).
            causal: Overrides the module's own.
        """
        causal = self.causal if causal is None else causal
        if previous is not None and not causal:
            raise ValueError("previous is for causal scores; these decide by the next token")
        if previous is not None:
            h = torch.cat([previous[:, None], h], dim=1)
        with _without_autocast(h.device.type):
            query = _linear_float32(self.query, h[:, :-1])
            key = _linear_float32(self.key, h[:, 1:])
            pairs = dissimilarity_logits(query, key)  # (B, L - 1)
        if previous is not None:
            return pairs
        if causal:
            return F.pad(pairs, (1, 0), value=-_limit_logit())[:, : h.shape[1]]
        logits = F.pad(pairs, (0, 1), value=_limit_logit())[:, : h.shape[1]]
        if lengths is None:
            return logits
        last = torch.arange(h.shape[1], device=h.device) >= lengths[:, None] - 1
        return logits.masked_fill(last, _limit_logit())


def dissimilarity_logits(a: Tensor, b: Tensor) -> Tensor:
    """Logits of the probability (1 - cos(a, b)) / 2 along the last dimension, float32."""
    cosine = F.cosine_similarity(a.float(), b.float(), dim=-1)
    return -2 * torch.atanh(cosine.clamp(-_COSINE_LIMIT, _COSINE_LIMIT))


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
    """(B, L): each token closes with probability `rate`, by uniform numbers from `noise`."""
    return (uniform < rate).float()


def entropy_spikes(logits: Tensor, left: int = 2) -> Tensor:
    """(B, L): tokens whose next-token entropy exceeds that of each of the `left` tokens before.

    Nawrot et al. 2023, section 3.3. Neighbours beyond the start are ignored, so the first token
    always closes. No gradient.

    Args:
        logits: (B, L, V) next-token logits.
        left: Neighbours compared with.
    """
    if left < 1:
        raise ValueError(f"left must be at least 1 neighbour, got {left}")
    log_probability = logits.detach().float().log_softmax(-1)
    entropy = -(log_probability.exp() * log_probability).sum(-1)  # (B, L)
    before = F.pad(entropy, (left, 0), value=-torch.inf).unfold(1, left, 1)[:, :-1]
    return (entropy > before.amax(-1)).float()


def threshold_boundaries(logits: Tensor) -> Tensor:
    """(B, L): tokens more likely than not to close; no gradient."""
    return (logits > 0).float()


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
    ranked, order = scores.masked_fill(~allowed, -torch.inf).sort(
        dim=1, descending=True, stable=True
    )
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


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Exactly `hard` with the gradient of `soft`."""
    return hard.to(soft.dtype) + (soft - soft.detach())


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


def _without_autocast(device: str) -> AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(device)  # not on the meta device
    if available and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # which traced graphs do not show


def _linear_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(x.float(), layer.weight.float(), bias)


def _limit_logit() -> float:
    return 2 * float(torch.atanh(torch.tensor(_COSINE_LIMIT)))
