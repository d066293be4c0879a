"""The main metrics of an evaluation in words, for the terminal and the curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def name_shares(row: Mapping[str, Any]) -> dict[str, str]:
    """Names of the metrics that are shares, by their keys.

    Args:
        row: Of metrics.jsonl. It says whether classes are new to the model; rows of earlier
            releases do not, so theirs are not called zero-shot.
    """
    return {
        "acc1": "zero-shot top-1" if row.get("zero_shot") else "top-1",
        "mean_average_precision": "mean average precision",
        "image_retrieval_recall@1": "image recall@1",
        "text_retrieval_recall@1": "text recall@1",
    }
