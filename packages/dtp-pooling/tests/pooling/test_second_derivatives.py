"""Gradients of gradients through pooling, against the dense formula."""

from __future__ import annotations

import pytest
import torch
from dtp_pooling import pool, unpool

B, L, D = 2, 9, 3


def dense_pool(h, boundaries, reduce):
    """(B, S, D) by the (B, L, S) weights of Nawrot et al. 2023, differentiable any number of times.

    Weights are 1 + c_t - s where token t is in segment s, and 0 elsewhere.
    """
    before = boundaries.cumsum(1) - boundaries
    segments = round(float(before.detach().max())) + 1
    distance = before[..., None] - torch.arange(segments, dtype=h.dtype)
    weights = torch.where(distance.detach().round() == 0, 1 + distance, 0.0)
    sums = weights.transpose(1, 2) @ h
    total = weights.sum(1)[..., None]
    return sums / torch.where(total > 0, total, 1) if reduce == "mean" else sums


def inputs():
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(B, L, D, generator=generator, dtype=torch.float64, requires_grad=True)
    hard = (torch.rand(B, L, generator=generator) < 0.4).double()
    return h, hard.requires_grad_()


def loss(values):
    return (values.sin() * torch.arange(1, values.shape[1] + 1)[:, None]).sum()


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("by", ["grad", "backward"])
def test_second_derivatives_are_those_of_the_dense_formula(reduce, linear, by):
    results = []
    for function in (lambda h, b: pool(h, b, reduce).values, lambda h, b: dense_pool(h, b, reduce)):
        h, b = inputs()
        values = function(h, b)
        total = values.sum() if linear else loss(values)
        first = torch.autograd.grad(total, (h, b), create_graph=True)
        penalty = sum(part.square().sum() for part in first)
        if by == "grad":
            results.append((*first, *torch.autograd.grad(penalty, (h, b))))
        else:
            penalty.backward()
            results.append((*first, h.grad, b.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("tail", ["keep", "drop"])
def test_pool_and_unpool_pass_gradgradcheck_without_learned_boundaries(layout, tail):
    h, b = inputs()
    null = torch.randn(D, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([L, 6])

    def there_and_back(h, null):
        pooled = pool(h, b.detach(), "mean", tail, null, lengths, layout)
        packed = pooled.cu_seqlens if layout == "packed" else None
        return unpool(pooled.values.tanh(), pooled.segment_of, packed)

    assert torch.autograd.gradgradcheck(there_and_back, (h, null))


@pytest.mark.parametrize("lengths", [None, torch.tensor([L, 5])])
def test_dropped_tokens_have_no_second_derivative(lengths):
    h, b = inputs()
    pooled = pool(h, b, tail="drop", lengths=lengths)
    (first,) = torch.autograd.grad(loss(pooled.values), h, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), h)
    outside = pooled.segment_of < 0
    assert outside.any()
    assert not second[outside].any()
    assert second[~outside].any()


def test_a_gradient_penalty_through_a_boundary_predictor_is_exact():
    """What a user does: penalize the gradient of the tokens that also decide the boundaries."""
    h, _ = inputs()
    scores = torch.linspace(-1, 1, D, dtype=torch.float64)

    def straight_through(h):
        soft = torch.sigmoid(h @ scores)
        return (soft > 0.5).to(soft.dtype) + soft - soft.detach()

    results = []
    for function in (lambda h, b: pool(h, b).values, lambda h, b: dense_pool(h, b, "mean")):
        values = function(h, straight_through(h))
        (first,) = torch.autograd.grad(loss(values), h, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), h)[0])
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
