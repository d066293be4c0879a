from __future__ import annotations

import torch
from dtp_pooling.segment_autograd import segment_sum


def test_the_reduction_used_off_cpu_gives_the_same_sums():
    # segment_reduce runs on CPU too; here it stands in for the path taken on other devices
    slot = torch.tensor([0, 0, 2, 2, 2, 5])
    flat = torch.randn(6, 3, dtype=torch.float64)
    sizes = torch.bincount(slot, minlength=7)
    reduced = torch.segment_reduce(flat, "sum", lengths=sizes, unsafe=True, initial=0.0)
    torch.testing.assert_close(segment_sum(flat, slot, sizes), reduced, rtol=0, atol=1e-14)
