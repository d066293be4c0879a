"""Evaluation mode for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from clip_eval.models.protocols import ImageTextModel


@contextmanager
def evaluation_mode(model: ImageTextModel) -> Iterator[None]:
    """Every module in evaluation mode, and back to the mode it was in."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
