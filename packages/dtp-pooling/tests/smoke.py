"""Run by the isolation session: the installed wheel works alone."""

import torch
from dtp_pooling import pool, unpool

tokens = torch.arange(12.0).view(1, 6, 2).requires_grad_()
boundaries = torch.tensor([[0.0, 1, 0, 0, 1, 0]])
pooled = pool(tokens, boundaries)
assert pooled.values[0, 0].tolist() == [1.0, 2.0]
assert unpool(pooled.values, pooled.segment_of).shape == tokens.shape
pooled.values.sum().backward()
assert tokens.grad is not None
print("dtp-pooling works")
