"""Distinct captions of a batch."""

from __future__ import annotations

from clip_train.data.captions import number_captions


def test_equal_captions_are_one_candidate() -> None:
    candidates, rows = number_captions(["b", "a", "b"], merge_equal=True)
    assert candidates == ["b", "a"]
    assert rows.tolist() == [0, 1, 0]
    candidates, rows = number_captions(["b", "a", "b"], merge_equal=False)
    assert candidates == ["b", "a", "b"]
    assert rows.tolist() == [0, 1, 2]
