"""Captions per second beside the peers: one process, one thread, everyone to the same array.

    python bench/bench_tokenizer.py

Each contestant turns the same captions into an (N, 77) array of ids. Rounds alternate between the
contestants, so that a busy machine slows all of them alike; the best round counts.

- `ascii`: printable ASCII captions, words by Zipf's law from CLIP's own vocabulary, some capitals
  and punctuation. `mix`: the same with 6 % of the lines holding an HTML entity, an accent, a curly
  quote, a dash or CJK.
- Hugging Face's `tokenizers` runs our `tokenizer.json` (no ftfy, no HTML: less work than ours).
- `instant-clip-tokenizer` is Rust; it does no cleaning but white space and lower case.
"""

from __future__ import annotations

import itertools
import os
import random
import time
import warnings
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
from clip_tokenizer import Tokenizer

NUM_CAPTIONS = 10_000
ROUNDS = 5
CONTEXT_LENGTH = 77
ODD_SHARE = 0.06
ODD_PIECES = (
    "don&#39;t stop &amp; go",
    "it’s a café",
    "“naïve” résumé",
    "東京の猫",
    "schön – Grüße",
    "Ben &amp; Jerry’s",
)

Contestant = Callable[[list[str]], object]


def draw_captions(tokenizer: Tokenizer, count: int, odd_share: float) -> list[str]:
    """Captions of 5 to 25 words; `odd_share` of them with something that needs repair."""
    rng = random.Random(0)
    words = [
        symbol.removesuffix("</w>")
        for symbol in tokenizer.vocabulary.symbols
        if symbol.endswith("</w>") and symbol.isascii() and symbol[:-4].isalpha()
    ]
    weights = list(itertools.accumulate(1 / (rank + 2) for rank in range(len(words))))
    captions = []
    for _ in range(count):
        chosen = rng.choices(words, cum_weights=weights, k=rng.randint(5, 25))
        if rng.random() < 0.3:
            chosen[len(chosen) // 2] += ","
        if rng.random() < 0.1:
            chosen.append(str(rng.randint(1, 2030)))
        caption = " ".join(chosen)
        if rng.random() < 0.5:
            caption = caption.capitalize() + "."
        if rng.random() < odd_share:
            caption = f"{rng.choice(ODD_PIECES)} {caption}"
        captions.append(caption)
    return captions


def contestants(tokenizer: Tokenizer) -> dict[str, Contestant]:
    """Everyone that is installed, each from captions to an array of ids."""
    import instant_clip_tokenizer
    import tokenizers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from open_clip.tokenizer import SimpleTokenizer

    peer = SimpleTokenizer()
    instant = instant_clip_tokenizer.Tokenizer()
    with TemporaryDirectory() as folder:
        tokenizer.save(folder)
        rust = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    rust.enable_truncation(CONTEXT_LENGTH)
    rust.enable_padding(length=CONTEXT_LENGTH)

    def run_rust(captions: list[str]) -> object:
        return np.array([found.ids for found in rust.encode_batch_fast(captions)])

    return {
        "open_clip_torch": peer,
        "tokenizers (Rust)": run_rust,
        "instant-clip-tokenizer (Rust)": lambda captions: instant.tokenize_batch(
            captions, context_length=CONTEXT_LENGTH
        ),
        "clip-tokenizer, tensor": tokenizer,
        "clip-tokenizer, array": tokenizer.encode_batch,
        "clip-tokenizer, uint16": lambda captions: tokenizer.encode_batch(
            captions, dtype=np.uint16
        ),
    }


def measure(runs: dict[str, Contestant], captions: Sequence[str]) -> dict[str, float]:
    """Captions per second of each, the best of alternating rounds; one round warms up."""
    batch = list(captions)
    best = dict.fromkeys(runs, float("inf"))
    for round_number in range(ROUNDS + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(batch)
            if round_number:
                best[name] = min(best[name], time.perf_counter() - started)
    return {name: len(batch) / seconds for name, seconds in best.items()}


def main() -> None:
    """Check that the ids agree, measure, print one table."""
    import torch

    torch.set_num_threads(1)
    tokenizer = Tokenizer.openai()
    runs = contestants(tokenizer)
    speeds = {}
    for name, odd_share in (("ascii", 0.0), ("mix", ODD_SHARE)):
        captions = draw_captions(tokenizer, NUM_CAPTIONS, odd_share)
        expected = np.asarray(runs["open_clip_torch"](captions[:1000]))
        assert np.array_equal(tokenizer.encode_batch(captions[:1000]), expected)
        speeds[name] = measure(runs, captions)
    base = "open_clip_torch"
    print(f"| {NUM_CAPTIONS} captions, one thread | ascii/s | × | mix/s | × |")
    print("|---|---|---|---|---|")
    for name in runs:
        cells = [
            f"{speeds[kind][name]:,.0f} | {speeds[kind][name] / speeds[kind][base]:.1f}"
            for kind in ("ascii", "mix")
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
