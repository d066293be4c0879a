from __future__ import annotations

import gzip
import io
import zipfile

import pytest
import torch
from dtp_pooling.training.alphabet import Alphabet
from dtp_pooling.training.text import chunk_index, read_text, split_text


def test_read_text_from_every_container(tmp_path):
    text = "plain text\nof two lines"
    (tmp_path / "a.txt").write_text(text + "\n", encoding="utf-8")
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(text.encode())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("text8", text)
    assert {read_text(tmp_path / name) for name in ("a.txt", "a.gz", "a.zip")} == {text}
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("other", text)
    with pytest.raises(ValueError, match="expected one member"):
        read_text(tmp_path / "a.zip")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"image\.txt is not UTF-8 text"):
        read_text(tmp_path / "image.txt")


@pytest.mark.parametrize("suffix", ["gz", "zip"])
def test_a_damaged_container_is_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    whole = io.BytesIO()
    with gzip.open(whole, "wb") as file:
        file.write(b"text" * 99)
    for raw in (b"none", whole.getvalue()[:-9]):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=rf"a\.{suffix} is not a complete \.{suffix} file"):
            read_text(path)


def test_split_is_that_of_text8():
    parts = split_text("x" * 1000)
    assert [len(part) for part in parts] == [900, 50, 50]
    assert "".join(split_text("abcdefghijk")) == "abcdefghijk"


def test_split_by_bytes_may_cut_a_character():
    text = "é" * 50 + "x"
    parts = split_text(text, "bytes")
    encoded = [Alphabet(characters=None).encode(part) for part in parts]
    assert [len(ids) for ids in encoded] == [90, 5, 6]
    assert bytes(torch.cat(encoded).tolist()).decode() == text


def test_an_epoch_visits_every_chunk_once():
    size, context, batch = 120, 10, 3
    seen = torch.cat([chunk_index(size, context, batch, 7, step) for step in range(4)])
    assert torch.equal(seen[:, 1:], (seen[:, :-1] + 1) % size)
    assert sorted(seen[:, :-1].flatten().tolist()) == list(range(size))


def test_epochs_differ_and_steps_repeat():
    first = chunk_index(120, 10, 3, 7, 1)
    assert torch.equal(first, chunk_index(120, 10, 3, 7, 1))
    assert not torch.equal(first, chunk_index(120, 10, 3, 7, 5))
    assert not torch.equal(first, chunk_index(120, 10, 3, 8, 1))


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="needs 30 symbols, got 29"):
        chunk_index(29, 10, 3, 0, 0)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_byte_order_mark_is_no_letter(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    raw = b"\xef\xbb\xbfabc\xef\xbb\xbfd\n"
    path.write_bytes(gzip.compress(raw) if suffix else raw)
    assert read_text(path) == "abc\ufeffd"  # only the first one is a mark
