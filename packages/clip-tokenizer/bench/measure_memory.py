"""Memory of a process that tokenizes millions of captions.

    python bench/measure_memory.py [MILLIONS]

Every fifth caption holds a word that never came before, so the cache of chunks is filled and turned
over again and again. Prints the resident memory after each million captions. Linux only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from bench_tokenizer import draw_captions
from clip_tokenizer import Tokenizer

BATCH = 10_000


def resident_megabytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(millions: int = 10) -> None:
    """Tokenize, print one table."""
    tokenizer = Tokenizer.openai()
    captions = draw_captions(tokenizer, BATCH, odd_share=0.02)
    print("| million captions | MB |")
    print("|---|---|")
    for million in range(1, millions + 1):
        for batch in range(1_000_000 // BATCH):
            name = f"z{million:x}q{batch:x}x"
            fresh = [f"{text} {name}{at:x}" for at, text in enumerate(captions[::5])]
            tokenizer.encode_batch([*captions[: BATCH * 4 // 5], *fresh], dtype=np.uint16)
        print(f"| {million} | {resident_megabytes():.0f} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
