"""The examples of the README run in order, print what their comments say, and show every name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import clip_tokenizer
import pytest
from clip_tokenizer import hub

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A directory with a small WordPiece vocabulary."""
    folder = tmp_path / "bert-directory"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = {"pad_token": "[PAD]", "sep_token": "[SEP]", "model_max_length": 16}
    config["clip_tokenizer"] = {"context_length": 16}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_examples_run_and_print_what_their_comments_say(tmp_path, bert, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "download", lambda repository: bert)  # no network
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
        expected = [
            line.split("  # ", 1)[1]
            for line in block.splitlines()
            if line.lstrip().startswith("print(")
        ]
        assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("name", clip_tokenizer.__all__)
def test_every_public_name_is_shown_in_an_example(name):
    assert re.search(rf"\b{name}\b", "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S)))
