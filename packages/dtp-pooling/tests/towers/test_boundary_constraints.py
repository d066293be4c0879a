from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
import torch
from dtp_pooling import token_pooling
from dtp_pooling.towers.boundary_constraints import count_segments, even_boundaries


def test_the_number_of_segments_is_exact_for_ints_and_tensors():
    tokens = torch.arange(1, 300)
    for twentieths in range(1, 21):
        rate, exact = twentieths / 20, Fraction(twentieths, 20)
        want = [floor(exact * n + Fraction(1, 2)) for n in tokens.tolist()]
        assert count_segments(tokens, rate).tolist() == want
        assert [count_segments(n, rate) for n in tokens.tolist()] == want
        causal = even_boundaries(torch.ones(1, 299, dtype=torch.bool), rate, causal=True)[0]
        assert causal.cumsum(0).tolist() == [floor(exact * n) for n in tokens.tolist()]


@pytest.mark.parametrize(("tokens", "rate"), [(90, 0.65), (45, 0.7), (90, 0.35), (3, 0.1)])
def test_the_outline_has_as_many_segments_as_a_run(tokens, rate):
    for kind in ("fixed", "dissimilarity"):
        pooling = token_pooling(4, kind=kind, rate=rate).eval()
        for apart in (None, torch.arange(tokens)[None] == 0):
            run = pooling(torch.randn(1, tokens, 4), keep_apart=apart)
            outline = pooling(torch.empty(1, tokens, 4, device="meta"), keep_apart=apart)
            assert run.tokens.shape == outline.tokens.shape
