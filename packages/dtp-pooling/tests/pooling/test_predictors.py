from __future__ import annotations

import pytest
import torch
from dtp_pooling import pool
from dtp_pooling.pooling.boundaries import gumbel_boundaries, top_k_boundaries
from dtp_pooling.pooling.noise import logistic_noise
from dtp_pooling.pooling.predictors import CosinePredictor, MLPPredictor, dissimilarity_logits
from dtp_pooling.pooling.splitmix64 import hashed_uniform

D = 6


def tokens(batch: int = 3, length: int = 11) -> torch.Tensor:
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(5))


def test_mlp_is_the_formula_and_stays_float32_under_autocast():
    scores = MLPPredictor(D, 10)
    h = tokens()
    with torch.no_grad():
        want = scores.out(torch.nn.functional.gelu(scores.hidden(h))).squeeze(-1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scores(h), want)
    low = scores.bfloat16()(h.bfloat16())
    assert low.dtype == torch.float32
    assert MLPPredictor(D).hidden.out_features == 4 * D


def test_cosine_is_the_routing_probability_of_the_pair():
    scores = CosinePredictor(D)
    h = tokens()
    probability = scores(h).sigmoid()
    for t in range(10):
        cosine = torch.cosine_similarity(h[:, t], h[:, t + 1], dim=-1)
        torch.testing.assert_close(probability[:, t], (1 - cosine) / 2)
    assert (probability[:, -1] > 0.999).all()
    causal = CosinePredictor(D, causal=True)(h)
    torch.testing.assert_close(causal[:, 1:].sigmoid(), probability[:, :-1])
    assert (causal[:, 0].sigmoid() < 0.001).all()


def test_cosine_last_valid_token_closes_and_ignores_padding():
    scores = CosinePredictor(D)
    h = tokens()
    lengths = torch.tensor([11, 4, 1])
    logits = scores(h, lengths)
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(logits[row, :n], scores(h[row : row + 1, :n])[0])


def test_causal_cosine_continues_from_the_previous_token():
    scores = CosinePredictor(D, causal=True)
    h = tokens()
    whole = scores(h)
    part = scores(h[:, 4:7], previous=h[:, 3])
    torch.testing.assert_close(part, whole[:, 4:7])
    with pytest.raises(ValueError, match="previous is for causal scores"):
        CosinePredictor(D)(h, previous=h[:, 0])


def test_dissimilarity_is_finite_for_equal_and_opposite_vectors():
    h = tokens().requires_grad_()
    for other in (h.detach(), -h.detach(), torch.zeros_like(h)):
        logits = dissimilarity_logits(h, other)
        assert logits.isfinite().all()
        (gradient,) = torch.autograd.grad(logits.sum(), h)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "scores", [MLPPredictor(D), CosinePredictor(D), CosinePredictor(D, causal=True)]
)
@pytest.mark.parametrize("rule", ["gumbel", "top_k"])
def test_task_gradient_reaches_every_weight_of_the_predictor(scores, rule):
    h = tokens()
    noise = logistic_noise(hashed_uniform(torch.arange(3), 11))
    logits = scores(h)
    if rule == "gumbel":
        b = gumbel_boundaries(logits, noise=noise)
    else:
        b = top_k_boundaries(logits, torch.tensor([4, 4, 4]), noise=noise)
    loss = (pool(h, b).values ** 3).sum()
    gradients = torch.autograd.grad(loss, list(scores.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
