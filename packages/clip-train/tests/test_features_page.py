"""The commands and the programs of docs/features.md, in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "features.md"
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
HERE = Path(sys.executable).parent


@pytest.mark.slow
def test_the_page_runs_from_its_first_line_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(HERE), prepend=":")
    for kind, text in BLOCKS:
        words = ["bash", "-eu", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stderr[-2000:]}"
    for run in ("pooled", "supernet", "student", "range", "sizes", "native", "reduced"):
        assert (tmp_path / run / "model.safetensors").is_file(), run
