"""docs/journeys/segments.md: a text like text8, a language model, and its segments drawn."""

from __future__ import annotations

import html
import random
import re
from pathlib import Path

from pages import Page


def test_the_segments_of_a_text_are_drawn() -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "birds", "in", "trees"]
    draw = random.Random(0)
    text = " ".join(draw.choice(words) for _ in range(2000))
    Path("text8.txt").write_text(text)
    small = "--steps 20 --model.width 32 --model.feedforward 64 --model.num_heads 2 "
    small += "--model.head_dim 16 --model.shortened_layers 1 --context 128 --batch_size 4 "
    small += (
        "--evaluate_every 20 --evaluation_window 128 --evaluation_stride 64 --quiet --device cpu"
    )
    page = Page("docs/journeys/segments.md", flags={"dtp-lm train": small})
    page.run()

    drawn = Path("segments.html").read_text()
    segments = [html.unescape(one) for one in re.findall(r"<span [^>]*>(.*?)</span>", drawn)]
    test_part = text[int(len(text) * 0.95) :]
    assert "".join(segments) in text
    assert "".join(segments)[:300] in test_part[:320]
    assert len(segments) > 1
    assert re.search(r"\d\.\d+ bits per character over [\d,]+ characters \(test\)", page.printed)
    in_terminal = page.printed.splitlines()
    assert any(line.count("|") for line in in_terminal)
    assert in_terminal[-1].startswith("the ")
