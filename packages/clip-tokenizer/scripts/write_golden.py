"""Write `tests/golden_ids.jsonl.gz`: the ids that the installed open_clip_torch gives.

    python scripts/write_golden.py

Each line is a JSON object: a text, and its ids under each cleaning mode. The first line names the
version the ids come from. The tests compare with this file, so they stand without open_clip.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer

TESTS = Path(__file__).parents[1] / "tests"
MODES = ("lower", "whitespace", "canonicalize")

BY_HAND = [
    "",
    " ",
    "a photo of a cat",
    "A Photo of a CAT, sitting; it's 12:45!",
    "don&#39;t &amp;amp; won&#8217;t",
    "it’s “quoted” – naïve café résumé",
    "doesnâ€™t Ã©tÃ© ðŸ˜€",
    "👩🏽‍⚕️👨‍👩‍👧‍👦🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "नमस्ते दुनिया สวัสดีชาวโลก مرحبا שלום",
    "東京の猫 안녕하세요 Ωραία Привет",
    "<start_of_text>x<end_of_text>",
    "snake_case_name and/or e.g. C++ #1 @home 100%",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "z" * 300,
    "word " * 120,
]


def main() -> None:
    """Ask the peer, write the file, report."""
    spec = importlib.util.spec_from_file_location("odd_strings", TESTS / "odd_strings.py")
    assert spec is not None
    assert spec.loader is not None
    odd_strings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(odd_strings)
    texts = [*BY_HAND, *odd_strings.draw_strings(seed=20_000, count=2_000 - len(BY_HAND))]
    peers = {mode: SimpleTokenizer(clean=mode) for mode in MODES}
    lines = [json.dumps({"peer": f"open_clip_torch {version('open_clip_torch')}"})]
    for text in texts:
        ids = {mode: peer.encode(text) for mode, peer in peers.items()}
        lines.append(json.dumps({"text": text, **ids}, separators=(",", ":")))
    target = TESTS / "golden_ids.jsonl.gz"
    target.write_bytes(gzip.compress("\n".join(lines).encode("ascii"), mtime=0))
    print(f"{len(texts)} texts, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
