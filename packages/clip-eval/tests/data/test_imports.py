"""`clip_eval.data` stands below everything else in the package, and is cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import clip_eval
import pytest

DATA = Path(clip_eval.__file__).parent / "data"


def imported_names(source: str) -> list[str]:
    """Every module that a file imports, inside functions too, and modules named in strings."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names += [node.value.partition(":")[0]] if node.value.startswith("clip_eval.") else []
    return names


def climbing(source: str) -> list[str]:
    return [
        name
        for name in imported_names(source)
        if name.startswith(("clip_", "torch.nn")) and not name.startswith("clip_eval.data")
    ]


def test_nothing_of_evaluation_is_imported() -> None:
    files = sorted(DATA.rglob("*.py"))
    assert len(files) > 20
    assert {file.name: found for file in files if (found := climbing(file.read_text()))} == {}


@pytest.mark.parametrize(
    "line", ["import clip_models", "def f():\n    from clip_eval.results import result"]
)
def test_the_check_catches(line: str) -> None:
    assert climbing(line)


def test_the_table_imports_no_reader_and_nothing_heavy() -> None:
    code = (
        "import sys, clip_eval.data; clip_eval.data.FORMATS\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'pyarrow', 'webdataset', 'fsspec'}\n"
        "readers = {row.reader.partition(':')[0] for row in clip_eval.data.FORMATS.values()}\n"
        "sys.exit(repr((heavy | readers) & set(sys.modules)) if (heavy | readers)"
        " & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
