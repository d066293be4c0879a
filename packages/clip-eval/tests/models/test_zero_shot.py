from __future__ import annotations

import pytest
import torch
from clip_eval import EvaluationError, ImageTextModel, build_classifier
from clip_eval.data import DataError
from torch import Tensor, nn
from torch.nn.functional import normalize

NAMES = ["cat", "dog", "{x} [brace]", "cat", "a cat"]
TEMPLATES = ["a photo of {c}.", "{c} and {c}", "{c}", "a {c}"]


class HashTower(nn.Module):
    """A text tower whose features depend on every token."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.table = nn.Parameter(torch.randn(256, 12, generator=torch.Generator().manual_seed(0)))
        self.batches: list[int] = []

    def encode_image(self, images: Tensor) -> Tensor:
        return images

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.batches.append(len(tokens))
        weights = torch.arange(1, tokens.shape[1] + 1)[None, :, None]
        return (self.table[tokens] * weights).sum(dim=1)


def tokenizer(texts: list[str]) -> Tensor:
    rows = torch.zeros(len(texts), 40, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = torch.tensor(list(text.encode()))
    return rows


def by_hand(model: HashTower) -> Tensor:
    rows = []
    for name in NAMES:
        prompts = [template.replace("{c}", name) for template in TEMPLATES]
        features = torch.stack([model.encode_text(tokenizer([p]))[0] for p in prompts])
        rows.append(normalize(normalize(features, dim=-1).mean(dim=0), dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_equals_the_mean_of_each_class_by_hand(batch_size: int) -> None:
    model = HashTower()
    assert isinstance(model, ImageTextModel)
    found = build_classifier(model, tokenizer, NAMES, TEMPLATES, batch_size=batch_size)
    assert found.shape == (5, 12)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, by_hand(model).detach(), atol=1e-6, rtol=0)


def test_each_distinct_prompt_is_encoded_once() -> None:
    model = HashTower()
    build_classifier(model, tokenizer, NAMES, TEMPLATES, batch_size=4)
    distinct = {t.replace("{c}", c) for c in NAMES for t in TEMPLATES}
    assert len(distinct) < 4 * 4  # "a cat" arises twice, "cat" is a class twice
    assert sum(model.batches) == len(distinct)
    assert max(model.batches) == 4


def test_one_class_one_template() -> None:
    assert build_classifier(HashTower(), tokenizer, ["x"], ["{c}"]).norm().item() == pytest.approx(
        1
    )


def test_no_class_and_no_slot_are_errors() -> None:
    with pytest.raises(EvaluationError, match="at least one class"):
        build_classifier(HashTower(), tokenizer, [], ["{c}"])
    with pytest.raises(DataError, match=r"has no \{c\}"):
        build_classifier(HashTower(), tokenizer, ["x"], ["a photo of {}"])
