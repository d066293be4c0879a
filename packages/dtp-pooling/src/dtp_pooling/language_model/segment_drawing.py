"""Pictures of the cuts that a language model makes in a text."""

from __future__ import annotations

import html
from collections.abc import Sequence

from dtp_pooling.language_model.segments import Cuts

_COLUMNS = 64
_CELL, _ROW, _BAR = 14, 58, 22  # pixels: width of a symbol, height of a row, of a bar


def draw_svg(symbols: Sequence[str], cuts: Cuts) -> str:
    """An SVG: lines of symbols, a bar of the boundary's probability above each, lines at cuts."""
    rows = -(-len(symbols) // _COLUMNS)
    width, height = _COLUMNS * _CELL + 20, rows * _ROW + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="monospace" font-size="16">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    segment = 0
    for index, symbol in enumerate(symbols):
        x, y = 10 + index % _COLUMNS * _CELL, index // _COLUMNS * _ROW
        level = cuts.levels[index]
        segment += level > 0
        parts.append(_draw_symbol(symbol, x, y, is_odd=segment % 2 == 1))
        if cuts.probabilities is not None:
            bar = round(cuts.probabilities[index] * _BAR, 1)
            parts.append(
                f'<rect x="{x + 4}" y="{y + 6 + _BAR - bar}" width="{_CELL - 8}" height="{bar}" '
                'fill="#d08030"/>'
            )
        if level:
            top = y + 6 if level == 2 else y + 30
            parts.append(
                f'<line x1="{x}" x2="{x}" y1="{top}" y2="{y + 54}" stroke="#203050" '
                f'stroke-width="{2 * level - 1}"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_symbol(symbol: str, x: int, y: int, *, is_odd: bool) -> str:
    fill = "#dce8f8" if is_odd else "#eef1e4"
    return (
        f'<rect x="{x}" y="{y + 32}" width="{_CELL}" height="22" fill="{fill}"/>'
        f'<text x="{x + 2}" y="{y + 48}" xml:space="preserve">{html.escape(_show(symbol))}</text>'
    )


def _show(symbol: str) -> str:
    """A symbol that takes one place: line breaks and other control characters as signs."""
    return symbol if not symbol or symbol.isprintable() else "⏎" if symbol == "\n" else "·"
