from __future__ import annotations

import pytest
from clip_eval.data import DataError
from clip_eval.data.splits import resolve_split


@pytest.mark.parametrize(
    ("available", "split", "expected"),
    [
        (("train", "test"), "train", "train"),
        (("train", "test", "val"), None, "test"),
        (("train", "val"), None, "val"),
        (("dev",), None, "dev"),
        (("",), None, ""),
    ],
)
def test_what_is_asked_for_then_what_is_preferred(
    available: tuple[str, ...], split: str | None, expected: str
) -> None:
    assert resolve_split(available, split, preferred=("test", "val"), where="d") == expected


def test_a_choice_without_a_default_lists_the_splits() -> None:
    with pytest.raises(DataError, match=r"d: several splits \(a, b\); name one of them"):
        resolve_split(("b", "a"), None, preferred=("test",), where="d")
    with pytest.raises(DataError, match="d: no split 'c'; there are a, b"):
        resolve_split(("b", "a"), "c", preferred=("test",), where="d")
