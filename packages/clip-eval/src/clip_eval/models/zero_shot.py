"""A zero-shot classifier: one direction per class, from the prompts of that class.

Legend: B batch, T tokens, C classes, G groups of P prompts, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clip_eval.data.templates import ClassPrompts, Templates
from clip_eval.errors import EvaluationError
from clip_eval.models.protocols import ImageTextModel, TextTokenizer

PROMPTS_AT_ONCE = 8192


@torch.no_grad()
def build_classifier(
    model: ImageTextModel,
    tokenizer: TextTokenizer,
    classnames: Sequence[str],
    templates: Templates,
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Build the directions of classes: the mean of the normalized prompt embeddings, normalized.

    Args:
        model: Has `encode_text`; it is used in its current mode.
        tokenizer: Texts to token ids.
        classnames: C names.
        templates: Templates with `{c}`, or the prompts of each class by its name.
        batch_size: Prompts per forward.
        device: Device of the model.

    Returns:
        (C, D) float32 on `device`, each row of length 1.

    Raises:
        EvaluationError: There is no class name.
        DataError: No template, one without `{c}`, or a class without prompts.
    """
    if not classnames:
        raise EvaluationError("expected at least one class name, got none")
    groups = ClassPrompts(classnames, templates)
    return encode_prompts(model, tokenizer, groups, batch_size=batch_size, device=device)


@torch.no_grad()
def encode_prompts(
    model: ImageTextModel,
    tokenizer: TextTokenizer,
    groups: Sequence[Sequence[str]],
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Encode groups of prompts: the mean of the unit vectors of each group, as a unit vector.

    Prompts are encoded some thousand at a time, so that beside the result memory does not grow with
    the number of groups; among those thousands each distinct prompt is encoded once.

    Args:
        model: Has `encode_text`.
        tokenizer: Texts to token ids.
        groups: G lists of prompts, none empty.
        batch_size: Prompts per forward.
        device: Device of the model.

    Returns:
        (G, D) float32 on `device`.
    """
    parts = [
        _encode_some(model, tokenizer, groups[start:stop], batch_size=batch_size, device=device)
        for start, stop in _spans(len(group) for group in groups)
    ]
    return torch.cat(parts).to(device)


def _spans(sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield spans of neighbouring groups with about `PROMPTS_AT_ONCE` prompts."""
    start = total = end = 0
    for end, size in enumerate(sizes, start=1):
        if total and total + size > PROMPTS_AT_ONCE:
            yield start, end - 1
            start, total = end - 1, 0
        total += size
    yield start, end


def _encode_some(
    model: ImageTextModel,
    tokenizer: TextTokenizer,
    groups: Sequence[Sequence[str]],
    *,
    batch_size: int,
    device: str | torch.device,
) -> Tensor:
    prompts = list(dict.fromkeys(prompt for group in groups for prompt in group))
    tokens = tokenizer(prompts)  # (P, T)
    order = torch.argsort(
        token_lengths(tokens), stable=True
    )  # short with short, so that little padding is computed
    tokens = tokens[order]
    place = {prompts[prompt]: row for row, prompt in enumerate(order.tolist())}
    rows = torch.tensor([place[prompt] for group in groups for prompt in group])
    owners = torch.repeat_interleave(
        torch.arange(len(groups)), torch.tensor([len(group) for group in groups])
    )
    rows, by_row = torch.sort(rows, stable=True)
    owners = owners[by_row]
    sums: Tensor | None = None
    for start in range(0, len(prompts), batch_size):
        features = model.encode_text(tokens[start : start + batch_size].to(device))
        unit = normalize(features.float().cpu().double(), dim=-1)  # (B, D)
        if sums is None:
            sums = unit.new_zeros(len(groups), unit.shape[1])
        edges = torch.searchsorted(rows, torch.tensor([start, start + len(unit)]))
        here = slice(int(edges[0]), int(edges[1]))
        sums.index_add_(0, owners[here], unit[rows[here] - start])
    assert sums is not None
    return normalize(sums, dim=-1).float()  # (G, D)


def token_lengths(tokens: Tensor) -> Tensor:
    """Count the columns of each row before the run of equal ids at its end, the padding; (P,)."""
    differs = tokens != tokens[:, -1:]  # (P, T)
    return (differs * torch.arange(1, tokens.shape[1] + 1)).amax(dim=1)
