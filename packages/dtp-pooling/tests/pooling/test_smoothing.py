from __future__ import annotations

import pytest
import torch
from dtp_pooling import closed_segment_of, pool, smooth, unpool
from dtp_pooling.pooling import boundary_confidence, linear_recurrence, routing_boundaries
from torch import Tensor

B, S, D = 3, 9, 4


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(B, S, D, generator=generator, dtype=torch.float64)
    return values.to(dtype), torch.rand(B, S, generator=generator, dtype=torch.float64).to(dtype)


def loop_smooth(values: Tensor, p: Tensor) -> Tensor:
    """One segment after another."""
    rows = []
    for row, chances in zip(values, p.clamp(1e-4, 1 - 1e-4), strict=True):
        out = [row[0]]
        for value, chance in zip(row[1:], chances[1:], strict=True):
            out.append(chance * value + (1 - chance) * out[-1])
        rows.append(torch.stack(out))
    return torch.stack(rows)


def test_values_and_gradients_equal_the_loop():
    values, p = inputs()
    weight = torch.randn(B, S, D, dtype=torch.float64)
    results = []
    for function in (smooth, loop_smooth):
        v, q = values.clone().requires_grad_(), p.clone().requires_grad_()
        out = function(v, q)
        (out * weight).sum().backward()
        results.append((out.detach(), v.grad, q.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_gradcheck_and_second_derivatives():
    values, p = inputs()
    p = p.clamp(0.05, 0.95)
    inside = values[:2, :5, :2].clone().requires_grad_(), p[:2, :5].clone().requires_grad_()
    assert torch.autograd.gradcheck(smooth, inside)
    assert torch.autograd.gradgradcheck(smooth, inside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_values_are_averaged_in_float32(dtype):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 500, D, generator=generator).to(dtype)
    p = torch.rand(2, 500, generator=generator) * 0.02  # long memories
    got = smooth(values, p)
    assert got.dtype == dtype
    want = loop_smooth(values.double(), p.double())
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), want, rtol=step, atol=4 * 1.2e-7 + step / 100)


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 16])
def test_doubling_equals_the_steps(steps):
    generator = torch.Generator().manual_seed(2)
    keep = torch.rand(B, steps, generator=generator, dtype=torch.float64)
    add = torch.randn(B, steps, D, generator=generator, dtype=torch.float64)
    before = add.clone()
    got = linear_recurrence._double(keep, add)
    torch.testing.assert_close(got, linear_recurrence._step_through(keep, add), rtol=0, atol=1e-12)
    assert torch.equal(add, before)


@pytest.mark.parametrize("form", ["steps", "doubling"])
def test_the_future_changes_no_bit_of_the_past(form, monkeypatch):
    if form == "doubling":
        monkeypatch.setattr(linear_recurrence, "_step_through", linear_recurrence._double)
    values, p = inputs(torch.float32)
    for t in range(1, S):
        other, chances = values.clone(), p.clone()
        other[:, t:], chances[:, t:] = 7.0, 0.5
        assert torch.equal(smooth(values, p)[:, :t], smooth(other, chances)[:, :t])


def test_packed_rows_equal_padded_ones():
    values, p = inputs()
    lengths = [9, 0, 4]
    packed = torch.cat([row[:n] for row, n in zip(values, lengths, strict=True)])
    chances = torch.cat([row[:n] for row, n in zip(p, lengths, strict=True)])
    cu_seqlens = torch.tensor([0, 9, 9, 13], dtype=torch.int32)
    got = smooth(packed.requires_grad_(), chances.requires_grad_(), cu_seqlens)
    want = smooth(values, p)
    torch.testing.assert_close(got, torch.cat([want[0], want[2, :4]]), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda v, c: smooth(v, c, cu_seqlens), (packed, chances.clamp(0.05, 0.95))
    )


def test_a_row_does_not_depend_on_its_batch_and_goes_on_from_the_previous_segment():
    values, p = inputs(torch.float32)
    whole = smooth(values, p)
    assert torch.equal(whole[1:2], smooth(values[1:2], p[1:2]))
    rest = smooth(values[:, 4:], p[:, 4:], previous=whole[:, 3])
    torch.testing.assert_close(rest, whole[:, 4:], rtol=0, atol=1e-6)
    one = smooth(values[:, 5:6], p[:, 5:6], previous=whole[:, 4])
    torch.testing.assert_close(one[:, 0], whole[:, 5], rtol=0, atol=1e-6)


def test_probabilities_of_zero_and_one_stay_finite_and_within_the_limits():
    values, _ = inputs()
    for p, at in ((0.0, slice(0, 1)), (1.0, slice(1, S))):
        got = smooth(values, torch.full((B, S), p, dtype=torch.float64))
        want = values[:, :1].expand(-1, S, -1) if p == 0 else values
        torch.testing.assert_close(got[:, at], want[:, at], rtol=0, atol=1e-3)
        assert got.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, D), (2, 0, D), (2, 1, D)])
def test_empty_and_single(shape):
    values = torch.randn(shape, requires_grad=True)
    out = smooth(values, torch.rand(shape[:2]))
    assert out.shape == shape
    out.sum().backward()


def test_confidence_changes_no_value_and_has_the_gradient_of_a_factor():
    logits = torch.tensor([[2.0, -1.0, 0.5, -3.0]], dtype=torch.float64)
    b = routing_boundaries(logits).double()
    assert b.tolist() == [[1, 0, 1, 0]]
    confidence = boundary_confidence(logits, b).double()
    p = logits.sigmoid()
    torch.testing.assert_close(confidence, torch.where(b > 0, p, 1 - p), rtol=0, atol=1e-7)
    h = torch.randn(1, 4, D, dtype=torch.float64)
    values = pool(h, b, "last", "drop", torch.zeros(D, dtype=h.dtype)).values
    plain = unpool(values, closed_segment_of(b))
    sure = confidence.clone().requires_grad_()
    got = unpool(values, closed_segment_of(b), confidence=sure)
    assert torch.equal(got, plain)
    weight = torch.randn_like(plain)
    (got * weight).sum().backward()
    torch.testing.assert_close(sure.grad, (weight * plain).sum(-1))


def test_routing_has_the_gradient_of_the_probability():
    logits = torch.randn(2, 6, requires_grad=True)
    weight = torch.randn(2, 6)
    (routing_boundaries(logits) * weight).sum().backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, weight * p * (1 - p))


def test_wrong_shapes_are_refused():
    values, p = inputs()
    with pytest.raises(ValueError, match="expected values"):
        smooth(values, p[:, :-1])
    with pytest.raises(ValueError, match="expected values"):
        smooth(values[0], p[0])
    with pytest.raises(ValueError, match="previous must be"):
        smooth(values, p, previous=values[:, :2])
    with pytest.raises(ValueError, match="confidence must be"):
        unpool(values, torch.zeros(B, 5, dtype=torch.long), confidence=torch.zeros(B, 4))
