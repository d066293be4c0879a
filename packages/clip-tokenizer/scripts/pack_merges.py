"""Write `openai_merges.bin` from the merges of an installed `open_clip_torch`.

    python scripts/pack_merges.py

Prints the SHA-256 that `clip_tokenizer.vocabulary` checks. The table is written as two columns of
little-endian 16-bit ids, all left halves before all right halves, deflated.
"""

from __future__ import annotations

import hashlib
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
from clip_tokenizer.vocabulary import NUM_OPENAI_MERGES, Vocabulary
from clip_tokenizer.vocabulary_files import read_merges_text

TARGET = Path(__file__).parents[1] / "src" / "clip_tokenizer" / "data" / "openai_merges.bin"


def main() -> None:
    """Read open_clip's file, pack it, report size and hash."""
    source = files("open_clip") / "bpe_simple_vocab_16e6.txt.gz"
    merges = read_merges_text(source.read_bytes(), limit=NUM_OPENAI_MERGES)
    vocabulary = Vocabulary.from_merges(merges)
    table = np.array(vocabulary.merges, dtype="<u2").T.tobytes()
    TARGET.write_bytes(zlib.compress(table, level=9))
    print(f"{len(merges)} merges, {TARGET.stat().st_size} bytes")
    print(f"sha256 {hashlib.sha256(table).hexdigest()}")


if __name__ == "__main__":
    main()
