from __future__ import annotations

import pytest
from clip_tokenizer import Tokenizer
from clip_tokenizer.atomic_write import replace_file, save_text


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "vocab.json"
    save_text(path, "earlier")
    with replace_file(path) as temporary:
        temporary.write_text("later")
    assert path.read_text() == "later"
    with pytest.raises(UnicodeEncodeError):
        save_text(path, "half \ud800")
    assert path.read_text() == "later"
    assert list(tmp_path.iterdir()) == [path]


def test_saving_leaves_no_temporary_file(tmp_path):
    Tokenizer.from_bytes().save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".txt"}
