"""Augmentation against slow loops; every choice follows from the given numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_train.augment.geometry import CROP_ATTEMPTS, crop_box, shift_and_flip
from clip_train.randomness import as_float32

IMAGES = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
UNIFORM = torch.tensor(
    [[0.0, 0.0, 0.9], [0.999, 0.999, 0.9], [0.5, 0.5, 0.1], [0.2, 0.7, 0.2], [0.9, 0.3, 0.6]]
)


def slow(image: np.ndarray, uniform: list[float], pad: int, flip: bool) -> np.ndarray:
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
    top, left = int(uniform[0] * (2 * pad + 1)), int(uniform[1] * (2 * pad + 1))
    part = padded[:, top : top + 8, left : left + 8]
    return part[:, :, ::-1] if flip and uniform[2] < 0.5 else part


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_equals_the_slow_loop(pad: int, flip: bool) -> None:
    ours = shift_and_flip(IMAGES, UNIFORM, pad=pad, flip=flip)
    assert ours.dtype == torch.uint8
    for image, uniform, mine in zip(IMAGES, UNIFORM, ours, strict=True):
        assert np.array_equal(mine.numpy(), slow(image.numpy(), uniform.tolist(), pad, flip))


def test_the_middle_shift_without_flip_is_the_identity() -> None:
    uniform = torch.tensor([[0.5, 0.5, 0.9]]).expand(5, 3)
    assert torch.equal(shift_and_flip(IMAGES, uniform, pad=3, flip=True), IMAGES)


@pytest.mark.parametrize("pad", range(1, 9))
def test_the_largest_number_is_the_largest_shift(pad: int) -> None:
    largest = torch.from_numpy(as_float32(np.full((5, 3), 1 - 2.0**-26)))
    found = shift_and_flip(IMAGES, largest, pad=min(pad, 7), flip=True)
    expected = shift_and_flip(IMAGES, torch.full((5, 3), 0.99), pad=min(pad, 7), flip=True)
    assert torch.equal(found, expected)


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    together = shift_and_flip(IMAGES, UNIFORM, pad=2, flip=True)
    alone = shift_and_flip(IMAGES[2:3], UNIFORM[2:3], pad=2, flip=True)
    assert torch.equal(together[2:3], alone)


@pytest.mark.parametrize("size", [(50, 40), (9, 90), (1, 1), (90, 9)])
def test_crop_stays_inside_and_keeps_the_asked_area(size: tuple[int, int]) -> None:
    width, height = size
    generator = np.random.default_rng(0)
    for _ in range(200):
        box = crop_box(width, height, generator.random(4 * CROP_ATTEMPTS).tolist(), (0.4, 0.9))
        assert box.top >= 0
        assert box.left >= 0
        assert box.height >= 1
        assert box.width >= 1
        assert box.top + box.height <= height
        assert box.left + box.width <= width
        if size == (50, 40):
            assert 0.35 < box.height * box.width / (width * height) < 0.95
            assert 0.7 < box.width / box.height < 1.42


def test_crop_positions_reach_every_border() -> None:
    generator = np.random.default_rng(1)
    boxes = [
        crop_box(40, 40, generator.random(4 * CROP_ATTEMPTS).tolist(), (0.5, 0.5))
        for _ in range(500)
    ]
    assert min(box.top for box in boxes) == 0
    assert max(box.top + box.height for box in boxes) == 40
    assert min(box.left for box in boxes) == 0
    assert max(box.left + box.width for box in boxes) == 40


def test_an_image_too_narrow_for_any_attempt_gives_the_central_crop() -> None:
    box = crop_box(10, 1000, [0.5] * (4 * CROP_ATTEMPTS), (1.0, 1.0))
    assert (box.width, box.height) == (10, 13)
    assert box.top == (1000 - 13) // 2
