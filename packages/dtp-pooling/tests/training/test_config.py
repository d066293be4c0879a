from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"warmup": -1},
        {"clip": 0.0},
        {"precision": "float16"},
        {"evaluation_stride": 0},
        {"evaluation_stride": 33},
        {"evaluation_window": 15},
        {"unigram_vocabulary": 0},
        {"learning_rate": float("inf")},
        {"seed": 2**32},
    ],
)
def test_wrong_settings_are_refused(change, small):
    with pytest.raises(ValueError, match=next(iter(change))):
        small("none", **change)
