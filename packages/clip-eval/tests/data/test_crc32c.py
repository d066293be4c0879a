from __future__ import annotations

import crc32c as native
import numpy as np
import pytest
from clip_eval.data.shards.crc32c import crc32c, masked_crc32c


def test_published_values() -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize(
    "length", [0, 1, 2, 3, 4, 5, 255, 256, 257, 511, 65_535, 65_536, 65_537, 65_792, 300_000]
)
def test_agrees_with_another_implementation(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == native.crc32c(data)


def test_the_mask_turns_and_adds() -> None:
    value = native.crc32c(b"abc")
    turned = int(f"{value:032b}"[-15:] + f"{value:032b}"[:-15], 2)
    assert masked_crc32c(b"abc") == (turned + 0xA282EAD8) % 2**32
