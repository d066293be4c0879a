"""The distinct captions of a batch, and marks by which its equal images are found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DIGEST_BYTES = 16


def number_captions(captions: list[str], *, merge_equal: bool) -> tuple[list[str], Tensor]:
    """The candidates of a batch, and which of them belongs to each image.

    Args:
        captions: One per image (B).
        merge_equal: Whether equal captions are one candidate.

    Returns:
        The candidates (U of them, in order of first appearance) and `caption_of` (B,).
    """
    if not merge_equal:
        return captions, torch.arange(len(captions))
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(caption, len(numbers)) for caption in captions]
    return list(numbers), torch.tensor(rows)


def digest_image(image: bytes | Image.Image) -> bytes:
    """16 bytes that are equal for equal files, or for equal pixels of a decoded image."""
    if isinstance(image, bytes):
        return hashlib.blake2b(image, digest_size=DIGEST_BYTES).digest()
    facts = f"{image.mode} {image.size} ".encode()
    return hashlib.blake2b(facts + image.tobytes(), digest_size=DIGEST_BYTES).digest()


def mark_images(digests: Sequence[bytes]) -> Tensor:
    """Digests of B images as int64 (B, 2)."""
    words = np.frombuffer(b"".join(digests), dtype="<i8").reshape(-1, 2)
    return torch.from_numpy(words.astype(np.int64))
