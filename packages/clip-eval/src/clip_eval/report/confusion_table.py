"""Confusions in a page: the most frequent ones, and the whole matrix where it is small."""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_eval.report.sample_pictures import png_address
from clip_eval.results.result import Result

MATRIX_CLASSES = 25
SHOWN = 12
HEAT_PIXELS = 500
PAPER, RIGHT_INK, WRONG_INK = (np.array(c) for c in ((238, 241, 244), (21, 128, 61), (194, 65, 12)))


def render_confusions(result: Result) -> str:
    """HTML of the confusions; empty if nothing was confused."""
    if not result.confusions:
        return ""
    rows = "".join(
        f"<tr><td>{escape(c.label)}</td><td>{escape(c.predicted)}</td>"
        f'<td class="number">{c.n:,}</td></tr>'
        for c in result.confusions[:SHOWN]
    )
    table = (
        '<div class="card"><table><tr><th>image of</th><th>taken for</th>'
        f'<th class="number">times</th></tr>{rows}</table></div>'
    )
    matrix = _matrix(result) if result.n_classes <= MATRIX_CLASSES else _heat_map(result)
    return f'<h2>Most frequent mistakes</h2>\n<div class="columns">{table}{matrix}</div>'


def confusion_counts(result: Result) -> NDArray[np.int64]:
    """How often each class (row) was given each answer (column), (C, C)."""
    counts = np.zeros((result.n_classes, result.n_classes), dtype=np.int64)
    for prediction in result.predictions or ():
        if prediction.guesses:
            counts[prediction.label, prediction.guesses[0]] += 1
    return counts


def _matrix(result: Result) -> str:
    counts = confusion_counts(result)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [escape(name) for name in result.classnames]
    head = "".join(f"<th><span>{name}</span></th>" for name in names)
    body = ""
    for row, name in enumerate(names):
        cells = (
            _cell(int(counts[row, column]), float(shares[row, column]), row == column)
            for column in range(len(names))
        )
        body += f"<tr><th>{name}</th>{''.join(cells)}</tr>"
    return (
        '<div class="card scroll"><p class="soft">image of (row), taken for (column)</p>'
        f'<table class="matrix"><thead><tr><th></th>{head}</tr></thead>{body}</table></div>'
    )


def _heat_map(result: Result) -> str:
    """The matrix of many classes as a picture, one pixel a class or a few classes."""
    counts = confusion_counts(result)
    step = -(-len(counts) // HEAT_PIXELS)  # classes per pixel, rounded up
    edges = np.arange(0, len(counts), step)
    counts = np.add.reduceat(np.add.reduceat(counts, edges, axis=0), edges, axis=1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    strength = np.sqrt(shares)[..., None]  # so that rare confusions can be seen
    ink = np.where(np.eye(len(counts), dtype=bool)[..., None], RIGHT_INK, WRONG_INK)
    pixels = (PAPER + strength * (ink - PAPER)).round().astype(np.uint8)
    scale = max(1, HEAT_PIXELS // len(counts))
    image = Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))
    grouped = f", {step} neighbouring classes a dot" if step > 1 else ""
    return (
        '<div class="card"><p class="soft">image of (row), taken for (column), in label order'
        f'{grouped}</p><img class="heat" src="{png_address(image)}" '
        f'alt="confusion matrix of {result.n_classes:,} classes"></div>'
    )


def _cell(count: int, share: float, hit: bool) -> str:
    if not count:
        return '<td style="background:var(--track);opacity:.45"></td>'
    colour = "--right" if hit else "--wrong"
    strength = 15 + 70 * share
    background = f"color-mix(in srgb, var({colour}) {strength:.0f}%, transparent)"
    return f'<td style="background:{background}" title="{share:.1%}">{count}</td>'
