"""Strings that a tokenizer may get wrong, drawn at random from pools of trouble.

Plain functions without any need, loaded by path: by `conftest.py` and by `scripts/write_golden.py`.
"""

from __future__ import annotations

import html.entities
import random

POOLS: dict[str, list[str]] = {
    "printable": [chr(code) for code in range(0x20, 0x7F)],
    "words": [
        "a",
        "photo",
        "of",
        "the",
        "cat,",
        "dog's",
        "DON'T",
        "we'll",
        "you've",
        "i'm",
        "they'd",
        "re'll",
        "'s'",
        "1999",
        "3.5",
        "x2",
    ],
    "latin": [chr(code) for code in range(0x00, 0x100)],
    "indic and thai": [chr(code) for code in range(0x900, 0xE80)],
    "emoji": [*"👩👨👧😀🏽🇩🇪🇮🇳❤☠⚕", "\u200d", "\ufe0f", "\u20e3", "\U0001f3f4", "\U000e0067"],
    "punctuation": [chr(code) for code in range(0x2000, 0x2070)],
    "letters": [chr(code) for code in (*range(0x250, 0x600), *range(0x1E00, 0x2000))],
    "mojibake": [*"âÃ©€™œ\x9d\x80Â¢ä¸\xadæ–‡ð\x9f˜\x80", "â€œ", "Ã©", "ðŸ˜€", "doesnâ€™t"],
    "entities": [
        *(f"&{name}" for name in sorted(html.entities.html5)[::9]),
        *[
            "&#39;",
            "&#x1F600;",
            "&#0;",
            "&#xD800;",
            "&amp;lt;",
            "&amp;amp;amp;",
            "&#133;",
            "&#28;",
            "&Tab;",
            "&",
            "&x",
            "&;",
        ],
    ],
    "case": ["'ſ", "\u212a", "İ", "ı", "Σ", "ς", "ΑΣ ", "ß", "ﬁ", "ĳ", "Ａ", "＇s", "Ǆ", "ǅ"],
    "special": ["<start_of_text>", "<END_OF_TEXT>", "<end_of_text>", "<ſtart_of_text>", "!", "<"],
    "control": [*"\x00\x07\x0b\x0c\x1c\x7f\x85\u2028\ufeff\u00a0\u200b", "\x1b[31m", "\r\n", "\t"],
    "surrogates": ["\ud800", "\udc00", "\ud83d", "\ude00"],
    "cjk": [chr(code) for code in (*range(0x3000, 0x3100), *range(0x4E00, 0x4E80), 0xAC00)],
    "full width": [chr(code) for code in range(0xFF00, 0xFFF0)],
    "marks": [chr(code) for code in range(0x300, 0x370)] + ["e\u0301", "a\u030a"],
}


def draw_strings(seed: int, count: int) -> list[str]:
    """`count` strings: mixtures of up to three pools, and now and then any code points at all."""
    rng = random.Random(seed)
    pools = list(POOLS.values())
    strings: list[str] = []
    for _ in range(count):
        length = rng.choice((0, 1, 2, 5, 12, 30))
        if rng.random() < 0.05:
            strings.append("".join(chr(rng.randrange(0x110000)) for _ in range(length)))
            continue
        chosen = rng.sample(pools, rng.randint(1, 3))
        glue = rng.choice(("", " ", None))
        pieces = (
            rng.choice(rng.choice(chosen)) + (rng.choice((" ", "")) if glue is None else glue)
            for _ in range(length)
        )
        strings.append("".join(pieces))
    return strings
