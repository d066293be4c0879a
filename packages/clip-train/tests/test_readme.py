"""The examples of the README run in order, and every public name stands in it."""

from __future__ import annotations

import re
from pathlib import Path

import clip_train
import pytest

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "stopped" / "model.safetensors").is_file()
    assert "stopped at step 2 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("name", clip_train.__all__)
def test_every_public_name_is_shown(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)
