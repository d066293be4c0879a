"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns: those that begin with a digit in the first row of data right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sample = rows[1] if len(rows) > 1 else rows[0]
    right = [cell[:1].isdigit() or cell[:1] == "-" for cell in sample]
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)
