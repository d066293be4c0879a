from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from clip_eval.runs.settings import settings_key
from clip_eval.tasks.config import ResolvedTask, TaskConfig
from torch import Tensor


class LengthTokenizer:
    """One token per text: its length."""

    def __repr__(self) -> str:
        return "a tokenizer"

    def __call__(self, texts: list[str]) -> Tensor:
        return torch.tensor([[len(text)] for text in texts])


def test_the_key_of_a_result_is_that_of_earlier_versions() -> None:
    encoder: Any = SimpleNamespace(
        fingerprint="model",
        tokenizer=LengthTokenizer(),
        preprocess_key="preprocess",
        precision="fp32",
        device=torch.device("cpu"),
    )
    config = TaskConfig(
        task="knn", templates=("a {c}",), ks=(1, 2), neighbors=7, shots=3, penalty=0.5, seed=4
    )
    key = settings_key(
        encoder, ResolvedTask(config=config, names=("cat", "dog")), "content", "train"
    )
    assert key == "c4da0a1d75f8ea5b7c6e4d923e7f45eaa61ec91a9cd3b875d8064321e20d7bca"
