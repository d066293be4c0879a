from __future__ import annotations

import math

import pytest
import torch
from dtp_pooling.language_model.attention import (
    RelativeAttention,
    RelativeTerms,
    RotaryAttention,
    rotate,
    sinusoids,
)

D, H, C, L = 12, 2, 4, 9


def tokens() -> torch.Tensor:
    return torch.randn(2, L, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def split(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer.qkv(x).view(2, L, 3, H, C).unbind(2)


def attend(scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return (scores.softmax(0)[:, None] * values).sum(0)


def test_rotary_attention_equals_the_loop():
    layer = RotaryAttention(D, H, C, 0.0).double()
    x = tokens()
    q, k, v = split(layer, x)
    out = torch.zeros(2, L, H, C, dtype=x.dtype)
    for b in range(2):
        for h in range(H):
            for i in range(L):
                scores = torch.stack(
                    [
                        rotate(q[b, i, h], torch.tensor(i)) @ rotate(k[b, j, h], torch.tensor(j))
                        for j in range(i + 1)
                    ]
                )
                out[b, i, h] = attend(scores / math.sqrt(C), v[b, : i + 1, h])
    got, cache = layer(x)
    assert cache is None
    torch.testing.assert_close(got, layer.out(out.flatten(2)), rtol=0, atol=1e-12)


def test_relative_attention_equals_the_loop():
    layer = RelativeAttention(D, H, C, 0.0).double()
    x = tokens()
    biases = torch.randn(2, H, C, dtype=x.dtype)
    table = sinusoids(L, D, x)
    q, k, v = split(layer, x)
    r = layer.position(table.flip(0)).view(L, H, C)  # by distance
    out = torch.zeros(2, L, H, C, dtype=x.dtype)
    for b in range(2):
        for h in range(H):
            for i in range(L):
                scores = torch.stack(
                    [
                        (q[b, i, h] + biases[0, h]) @ k[b, j, h]
                        + (q[b, i, h] + biases[1, h]) @ r[i - j, h]
                        for j in range(i + 1)
                    ]
                )
                out[b, i, h] = attend(scores / math.sqrt(C), v[b, : i + 1, h])
    got, _ = layer(x, RelativeTerms(table, *biases))
    torch.testing.assert_close(got, layer.out(out.flatten(2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [RotaryAttention, RelativeAttention])
def test_steps_continue_rows_of_different_length(kind):
    layer = kind(D, H, C, 0.0).double().eval()
    x = tokens()
    biases = torch.randn(2, H, C, dtype=x.dtype)
    relative = RelativeTerms(sinusoids(L, D, x), *biases)
    with torch.no_grad():
        whole, _ = layer(x, relative)
        lengths = torch.tensor([5, 2])
        _, cache = layer(x[:, :5], RelativeTerms(sinusoids(5, D, x), *biases), lengths)
        for t in range(3):
            rows = torch.arange(2)
            got = layer.step(x[rows, lengths + t], cache, rows, relative)
            torch.testing.assert_close(got, whole[rows, lengths + t], rtol=0, atol=1e-12)
        only = torch.tensor([1])  # one row goes on, the other waits
        got = layer.step(x[only, 5], cache, only, relative)
        torch.testing.assert_close(got, whole[only, 5], rtol=0, atol=1e-12)
    assert cache.lengths.tolist() == [8, 6]


def test_rotation_keeps_length_and_depends_on_distance_only():
    a, b = torch.randn(2, 8, dtype=torch.float64)
    at = [rotate(a, torch.tensor(p)) @ rotate(b, torch.tensor(p + 3)) for p in (0, 5, 40)]
    torch.testing.assert_close(at[0], at[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(at[0], at[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(rotate(a, torch.tensor(7)).norm(), a.norm())
    assert torch.equal(rotate(a, torch.tensor(0)), a)


def test_sinusoids_run_from_far_to_near():
    table = sinusoids(3, 4, torch.zeros(1))
    assert table[-1].tolist() == [0, 0, 1, 1]
    angles = torch.tensor([2.0, 0.02])
    torch.testing.assert_close(table[0], torch.cat([angles.sin(), angles.cos()]))
