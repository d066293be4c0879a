"""The README's table of data formats is the table in the code."""

from __future__ import annotations

from pathlib import Path

from clip_eval.data import FORMATS, Format

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def row_of(form: Format) -> str:
    options = ", ".join(f"`{name}`" for name in form.accepts)
    return f"| `{form.form}` | {form.content} | {options} |"


def test_the_table_is_the_table_of_formats() -> None:
    section = README.partition("\n## Data formats\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    shipped = [form for form in FORMATS.values() if isinstance(form.reader, str)]
    assert rows == [row_of(form) for form in shipped]
