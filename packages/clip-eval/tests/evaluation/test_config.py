from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from clip_eval import EvaluationConfig, EvaluationError


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ks": ()}, "ks must be numbers of at least 1"),
        ({"recall_ks": (1, 0)}, "recall_ks must be numbers of at least 1, got \\(1, 0\\)"),
        ({"neighbors": 0}, "neighbors must be at least 1, got 0"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"penalty": -1.0}, "penalty must be finite and at least 0, got -1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, or None, got -1"),
        ({"rank": 2, "world_size": 2}, "rank must be in .*, got 2 of 2"),
        ({"precision": "half"}, "precision must be one of fp32, bf16, fp16, got 'half'"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        EvaluationConfig(**values)


def test_a_config_is_frozen() -> None:
    config = EvaluationConfig(penalty=0.0, workers=None)
    with pytest.raises(FrozenInstanceError):
        config.batch_size = 3  # type: ignore[misc]
