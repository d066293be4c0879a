"""`dtp-lm segments`: the segments of a text in the terminal, as JSON or as a page."""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Sequence

from torch import Tensor

from dtp_pooling.commands.evaluation import load_model, read_part
from dtp_pooling.language_model.segment_drawing import draw_svg
from dtp_pooling.language_model.segments import find_cuts
from dtp_pooling.training.alphabet import Alphabet
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
{picture}</html>
"""
MARKS = ("", "|", "‖")


def segments(options: argparse.Namespace) -> None:
    """Print where the segments of a text end, or write them as a page."""
    if options.out is not None and options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} already exists; pass --overwrite to replace it")
    run = read_run(options.run)
    text, split = read_part(options, run)
    ids = run.alphabet.encode(text)
    end = min(len(ids), options.start + options.length)
    cuts = find_cuts(
        *(load_model(options, run), ids, options.start, end),
        window=run.config.evaluation_window,
        stride=run.config.evaluation_stride,
    )
    firsts = [place for place, level in enumerate(cuts.levels) if level or not place]
    ids = ids[options.start : end]
    parts = [run.alphabet.decode(part) for part in ids.tensor_split(firsts[1:])]
    if options.json:
        print(json.dumps({"segments": parts, "split": split, "start": options.start}))
        return
    summary = describe(parts, run.config.model.boundaries.kind)
    if options.out is None:
        marked = zip(firsts, parts, strict=True)
        print("".join(MARKS[cuts.levels[first]] + part for first, part in marked))
        print(summary)
        return
    title = f"Segments of {options.data.name} by {options.run.name}"
    picture = draw_svg(list_symbols(ids, run.alphabet), cuts)
    is_picture = options.out.suffix == ".svg"
    page = picture if is_picture else draw(parts, title, summary, picture)
    replace_file(options.out, page.encode())
    print(f"{summary}\nwrote {options.out}")


def list_symbols(ids: Tensor, alphabet: Alphabet) -> list[str]:
    """What to show for each id; bytes that are no ASCII character are a replacement character."""
    return [alphabet.decode(one) for one in ids[:, None]]


def describe(parts: Sequence[str], kind: str) -> str:
    """Number and mean length of segments, and how many end with a word."""
    length = sum(map(len, parts)) / len(parts)
    at_space = sum(part.endswith(" ") for part in parts) / len(parts)
    return (
        f"{len(parts):,} segments of {length:.2f} characters on average ({kind}); "
        f"{100 * at_space:.0f} % end at a space"
    )


def draw(parts: Sequence[str], title: str, summary: str, picture: str) -> str:
    """A page that needs no other file, with neighboring segments in different colors.

    Below is the picture, an SVG, of the probability of each boundary.
    """
    spans = [
        f'<span style="background: {COLORS[number % len(COLORS)]}">{html.escape(part)}</span>'
        for number, part in enumerate(parts)
    ]
    return PAGE.format(
        title=html.escape(title), summary=html.escape(summary), text="".join(spans), picture=picture
    )
