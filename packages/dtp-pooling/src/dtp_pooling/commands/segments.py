"""`dtp-lm segments`: the segments of a text in the terminal, as JSON or as a page."""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Sequence

from dtp_pooling.commands.evaluation import load_model, read_part
from dtp_pooling.language_model.segments import find_segments
from dtp_pooling.training.run_directory import read_run, replace_file

COLORS = ("#cfe8ff", "#ffe3b8", "#d6f5d0", "#f4d6f0")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/2 ui-monospace, monospace; max-width: 60em; margin: 2em auto; padding: 0 1em }}
p {{ white-space: pre-wrap; overflow-wrap: anywhere }}
span {{ border-radius: 3px; padding: 2px 0 }}
</style>
<h1>{title}</h1>
<div>{summary}</div>
<p>{text}</p>
</html>
"""


def segments(options: argparse.Namespace) -> None:
    """Print where the segments of a text end, or write them as a page."""
    if options.out is not None and options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} already exists; pass --overwrite to replace it")
    run = read_run(options.run)
    text, split = read_part(options, run)
    ids = run.alphabet.encode(text)
    end = min(len(ids), options.start + options.length)
    found = find_segments(
        *(load_model(options, run), ids, options.start, end),
        window=run.config.evaluation_window,
        stride=run.config.evaluation_stride,
    )
    parts = [run.alphabet.decode(ids[first:last]) for first, last in found]
    if options.json:
        print(json.dumps({"segments": parts, "split": split, "start": options.start}))
        return
    summary = describe(parts, run.config.model.boundaries.kind)
    if options.out is None:
        print("|".join(parts))
        print(summary)
        return
    title = f"Segments of {options.data.name} by {options.run.name}"
    replace_file(options.out, draw(parts, title, summary).encode())
    print(f"{summary}\nwrote {options.out}")


def describe(parts: Sequence[str], kind: str) -> str:
    """Number and mean length of segments, and how many end with a word."""
    length = sum(map(len, parts)) / len(parts)
    at_space = sum(part.endswith(" ") for part in parts) / len(parts)
    return (
        f"{len(parts):,} segments of {length:.2f} characters on average ({kind}); "
        f"{100 * at_space:.0f} % end at a space"
    )


def draw(parts: Sequence[str], title: str, summary: str) -> str:
    """A page that needs no other file, with neighboring segments in different colors."""
    spans = [
        f'<span style="background: {COLORS[number % len(COLORS)]}">{html.escape(part)}</span>'
        for number, part in enumerate(parts)
    ]
    return PAGE.format(title=html.escape(title), summary=html.escape(summary), text="".join(spans))
