from __future__ import annotations

import torch
from dtp_pooling.pooling.segment_autograd import _reduce, segment_sum


def test_the_reduction_used_off_cpu_gives_the_same_sums():
    slot = torch.tensor([0, 0, 2, 2, 2, 5])
    flat = torch.randn(6, 3, dtype=torch.float64)
    sizes = torch.bincount(slot, minlength=7)
    want = segment_sum(flat, slot, sizes)
    torch.testing.assert_close(_reduce(flat, sizes), want, rtol=0, atol=1e-14)
