from __future__ import annotations

import errno
import resource

import pytest
from clip_tokenizer import Tokenizer
from clip_tokenizer.atomic_write import replace_file, save_text
from clip_tokenizer.cli import main


@pytest.fixture
def small_files():
    """Files of more than 4 KiB cannot be written, as on a full disk or above a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "vocab.json"
    for kept in ("there is no part of it", "the earlier file is unchanged"):
        with pytest.raises(OSError, match=f"File too large; {kept}") as caught:
            save_text(path, "a" * 9999)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
        assert list(tmp_path.iterdir()) == ([path] if "earlier" in kept else [])
        save_text(path, "earlier")
    assert path.read_text() == "earlier"


@pytest.mark.usefixtures("small_files")
def test_ids_that_cannot_be_written_are_an_error_of_one_line(tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n" * 60)
    assert (
        main(["encode", "--tokenizer", "bytes", str(lines), "--out", str(tmp_path / "ids.npy")])
        == 2
    )
    error = f"{tmp_path}/ids.npy: File too large; there is no part of it"
    assert capsys.readouterr().err == f"clip-tokenizer: error: {error}\n"
    assert list(tmp_path.iterdir()) == [lines]
