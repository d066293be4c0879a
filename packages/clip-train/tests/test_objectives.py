"""The contrastive loss against slow loops in float64."""

from __future__ import annotations

import pytest
import torch
from clip_train.objectives import contrastive_loss, number_captions
from torch import Tensor
from torch.nn.functional import normalize


def features(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 6, generator=generator, dtype=torch.float64), dim=1)


def slow_loss(image: Tensor, text: Tensor, scale: Tensor, rows: list[int], eps: float) -> Tensor:
    """The definition, pair by pair: one candidate per distinct caption."""
    count, candidates = len(image), len(text)
    to_text = torch.zeros((), dtype=torch.float64)
    to_image = torch.zeros((), dtype=torch.float64)
    for i in range(count):
        scores = [scale * image[i] @ text[u] for u in range(candidates)]
        logs = torch.stack(scores) - torch.logsumexp(torch.stack(scores), 0)
        to_text = to_text - (1 - eps) * logs[rows[i]] - eps / candidates * logs.sum()
    for i in range(count):  # the caption of image i, scored against all images
        scores = [scale * image[j] @ text[rows[i]] for j in range(count)]
        logs = torch.stack(scores) - torch.logsumexp(torch.stack(scores), 0)
        mates = [j for j in range(count) if rows[j] == rows[i]]
        for j in mates:
            to_image = to_image - (1 - eps) * logs[j] / len(mates)
        to_image = to_image - eps / count * logs.sum()
    return (to_text + to_image) / (2 * count)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1], [0, 0, 0, 0, 0], [0]])
def test_equals_the_slow_loop_with_gradients(rows: list[int], smoothing: float) -> None:
    image, text = features(len(rows), 1), features(max(rows) + 1, 2)
    scale = torch.tensor(9.0, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (image, text, scale)]
    ours = contrastive_loss(*inputs, torch.tensor(rows), label_smoothing=smoothing)
    slow = slow_loss(*inputs, rows, smoothing)
    assert torch.allclose(ours, slow, atol=1e-12)
    for mine, reference in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(slow, inputs), strict=True
    ):
        assert torch.allclose(mine, reference, atol=1e-12)


def test_distinct_captions_give_clip_s_loss() -> None:
    image, text, scale = features(7, 3), features(7, 4), torch.tensor(20.0, dtype=torch.float64)
    logits = scale * image @ text.T
    target = torch.arange(7)
    cross_entropy = torch.nn.functional.cross_entropy
    reference = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    assert torch.allclose(contrastive_loss(image, text, scale, target), reference, atol=1e-12)


def test_order_of_the_batch_does_not_matter() -> None:
    image, text, scale = features(6, 3), features(3, 4), torch.tensor(5.0, dtype=torch.float64)
    rows = torch.tensor([0, 1, 0, 2, 2, 0])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    one = contrastive_loss(image, text, scale, rows)
    other = contrastive_loss(image[order], text, scale, rows[order])
    assert torch.allclose(one, other, atol=1e-12)


def test_gradcheck() -> None:
    image, text = features(4, 1).requires_grad_(), features(3, 2).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 2, 1, 2])
    assert torch.autograd.gradcheck(
        lambda *inputs: contrastive_loss(*inputs, rows, label_smoothing=0.1), (image, text, scale)
    )


def test_equal_captions_are_one_candidate() -> None:
    candidates, rows = number_captions(["b", "a", "b"], merge_equal=True)
    assert candidates == ["b", "a"]
    assert rows.tolist() == [0, 1, 0]
    candidates, rows = number_captions(["b", "a", "b"], merge_equal=False)
    assert candidates == ["b", "a", "b"]
    assert rows.tolist() == [0, 1, 2]
