"""Changes of colour from given random numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from clip_models import ConfigError
from clip_train.augment.color_jitter import NUMBERS, changes_colors, jitter_colors
from clip_train.config.data import AugmentConfig

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
STRONG = AugmentConfig(color_jitter=(0.4, 0.3, 0.2, 0.1), grayscale_probability=0.2)


def numbers(**given: float) -> list[float]:
    """Middle numbers change nothing: factors of 1, no shift, no gray."""
    names = ["apply", "gray", "brightness", "contrast", "saturation", "hue", *"abcd"]
    assert len(names) == NUMBERS
    return [given.get(name, 0.5) for name in names]


def test_nothing_asked_for_changes_nothing() -> None:
    assert not changes_colors(AugmentConfig())
    assert np.array_equal(jitter_colors(PIXELS, numbers(), AugmentConfig()), PIXELS)


def test_middle_numbers_change_nothing() -> None:
    assert changes_colors(STRONG)
    changed = jitter_colors(PIXELS, numbers(), STRONG).astype(int)
    assert np.abs(changed - PIXELS).max() <= 1  # the way through HSV and back rounds


def test_brightness_by_hand() -> None:
    config = AugmentConfig(color_jitter=(0.4, 0, 0, 0))
    for number, factor in ((0.0, 0.6), (0.75, 1.2)):
        changed = jitter_colors(PIXELS, numbers(brightness=number), config)
        expected = np.clip(PIXELS * factor, 0, 255)
        assert np.abs(changed.astype(float) - expected).max() <= 1


def test_probabilities() -> None:
    config = AugmentConfig(color_jitter=(0.4, 0, 0, 0), color_jitter_probability=0.3)
    dark = {"brightness": 0.0}
    assert not np.array_equal(jitter_colors(PIXELS, numbers(apply=0.29, **dark), config), PIXELS)
    assert np.array_equal(jitter_colors(PIXELS, numbers(apply=0.3, **dark), config), PIXELS)
    gray = jitter_colors(PIXELS, numbers(gray=0.19), STRONG)
    assert np.array_equal(gray[..., 0], gray[..., 1])
    assert np.array_equal(gray[..., 0], gray[..., 2])


def test_the_order_of_changes_is_drawn() -> None:
    config = AugmentConfig(color_jitter=(1.0, 1.0, 0, 0))
    results = {
        jitter_colors(PIXELS, numbers(brightness=1, contrast=0, a=a, b=b), config).tobytes()
        for a, b in itertools.permutations((0.1, 0.9))
    }
    assert len(results) == 2


def test_wrong_strengths() -> None:
    with pytest.raises(ConfigError, match="hue in"):
        AugmentConfig(color_jitter=(0, 0, 0, 0.6))
    with pytest.raises(ConfigError, match="grayscale_probability"):
        AugmentConfig(grayscale_probability=-0.1)
