"""Files of strangers: no more memory than a bound, no waiting, one line, and nothing lost."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from clip_tokenizer import Tokenizer, TokenizerError, get_tokenizer
from clip_tokenizer.cli import main
from clip_tokenizer.vocabulary_files import MAX_MERGES, read_merges_text

ZEROS = gzip.compress(bytes(80 * 2**20), 9)
LINES = gzip.compress(b"a b\n" * (MAX_MERGES + 1), 9)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bomb.txt.gz", ZEROS, "unpacks to more than 67,108,864 bytes"),
        ("members.txt.gz", gzip.compress(b"x", mtime=0) * 3 + ZEROS, "unpacks to more than"),
        ("lfs.txt.gz", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("half.txt.gz", gzip.compress(b"a b\n" * 99, mtime=0)[:-20], "cannot be read"),
        ("tail.txt.gz", gzip.compress(b"a b\n", mtime=0)[:-4] + b"xxxx", "cannot be read"),
        ("bytes.txt", b"\xff\xfe", "cannot be read"),
        ("three.txt", b"a b c\n", "must be two symbols"),
        ("made.txt", b"ab c\n", "no earlier merge makes ab"),
    ],
)
def test_merges_files(tmp_path, name, content, words, capsys, monkeypatch):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=words) as caught:
        Tokenizer.openai(path)
    assert name in str(caught.value) or "merge" in str(caught.value)
    monkeypatch.setenv("CLIP_TOKENIZER_MERGES", str(path))
    assert main(["count", os.devnull]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("clip-tokenizer: error: ")
    assert shown.count("\n") == 1


def test_too_many_merges():
    with pytest.raises(TokenizerError, match="more than 2,000,000 merges"):
        read_merges_text(LINES)
    assert len(read_merges_text(LINES, limit=5)) == 5


def test_a_packed_vocabulary_needs_bounded_memory(tmp_path):
    """Each of these once took gigabytes; a process may have one here."""
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(bytes(2**28), 9))
    code = (
        "import resource, sys\n"
        "from clip_tokenizer import Tokenizer, TokenizerError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    Tokenizer.openai(sys.argv[1])\nexcept TokenizerError:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.txt.gz")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 200_000  # kilobytes


@pytest.mark.parametrize("kind", ["fifo", "device", "sparse"])
@pytest.mark.parametrize("name", ["merges.txt", "vocab.json", "tokenizer.json"])
def test_files_that_are_none(tmp_path, kind, name):
    Tokenizer.from_bytes().save(tmp_path)
    (tmp_path / ("merges.txt" if name == "tokenizer.json" else "tokenizer.json")).unlink()
    path = tmp_path / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with open(path, "wb") as file:
            file.truncate(10**12)
    for load in (Tokenizer.from_pretrained, get_tokenizer):
        with pytest.raises(TokenizerError):
            load(tmp_path)
    if name == "merges.txt":
        with pytest.raises(TokenizerError):
            Tokenizer.openai(path)


@pytest.mark.parametrize("at", [2**24, 10**12, 2**70])
def test_ids_without_bound(tmp_path, at):
    Tokenizer.from_bytes().save(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": at}))
    with pytest.raises(TokenizerError, match="the id of '<x>' must be below 16,777,216, got"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("length", [2**24 + 1, 10**12, 2**70])
def test_context_lengths_without_bound(length):
    with pytest.raises(TokenizerError, match="a positive int of at most 16,777,216, got"):
        Tokenizer.from_bytes(context_length=length)


# --- output files


def test_an_array_is_named_as_one(tmp_path, capsys):
    source = tmp_path / "x.txt"
    source.write_text("a cat\n")
    for out in ("ids.txt", "ids", "ids.npz"):
        assert main(["encode", str(source), "--out", str(tmp_path / out)]) == 2
        assert "must end in .npy; lines of ids are printed" in capsys.readouterr().err
        assert not (tmp_path / out).exists()
    (tmp_path / "folder.npy").mkdir()
    assert main(["encode", str(source), "--out", str(tmp_path / "folder.npy")]) == 2
    assert "is a directory" in capsys.readouterr().err


def test_an_input_is_never_the_output(tmp_path, capsys):
    source = tmp_path / "captions.npy"  # whatever its name
    source.write_text("a cat\n")
    (tmp_path / "link.npy").symlink_to(source)
    for out in ("captions.npy", "link.npy"):
        command = ["encode", str(source), "--out", str(tmp_path / out), "--overwrite"]
        assert main(command) == 2
        assert "is read and cannot be written" in capsys.readouterr().err
    assert source.read_text() == "a cat\n"


def test_a_user_s_temporary_file_stays(tmp_path):
    (tmp_path / "x.txt").write_text("a cat\n")
    (tmp_path / "ids.npy.tmp").write_text("mine")
    assert main(["encode", str(tmp_path / "x.txt"), "--out", str(tmp_path / "ids.npy")]) == 0
    assert np.load(tmp_path / "ids.npy").shape == (1, 77)
    assert (tmp_path / "ids.npy.tmp").read_text() == "mine"
    (tmp_path / "vocab.json.tmp").write_text("mine")
    Tokenizer.from_bytes().save(tmp_path)
    assert (tmp_path / "vocab.json.tmp").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


def test_a_directory_is_not_a_file(tmp_path, capsys):
    (tmp_path / "f").write_text("mine")
    (tmp_path / "x.txt").write_text("a cat\n")
    for command in (
        ["export", "--tokenizer", "bytes", "--out", str(tmp_path / "f"), "--overwrite"],
        [
            "train",
            str(tmp_path / "x.txt"),
            "--vocab-size=514",
            "--overwrite",
            f"--out={tmp_path}/f",
        ],
    ):
        assert main(command) == 2
        assert "is a file; a tokenizer is written to a directory" in capsys.readouterr().err
    assert (tmp_path / "f").read_text() == "mine"


def test_a_word_or_a_line_without_an_end_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "word.txt").write_bytes(b"a b\n" + b"x" * 10**7 + b"\n")
    for command in ("count", "encode"):
        assert main([command, str(tmp_path / "word.txt")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "a word of 10,000,000 bytes begins with 'xxx" in error
    (tmp_path / "words.txt").write_bytes(b"a b " * 2_500_000)  # 10 MB of a line are no trouble
    assert main(["count", "--json", str(tmp_path / "words.txt")]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 5_000_000
    tokenizer = Tokenizer.from_bytes()
    assert tokenizer.encode_rows(["x" * 2**20]).lengths.tolist() == [2**20]
    with pytest.raises(TokenizerError, match="1,048,577 bytes begins with 'é"):
        tokenizer(["é" * 2**19 + "x"])
    monkeypatch.setattr("clip_tokenizer.commands.LONGEST_LINE", 5)
    (tmp_path / "lines.txt").write_bytes(b"12345\n1234\n123456")
    assert main(["count", str(tmp_path / "lines.txt")]) == 2
    assert "lines.txt, line 1 has more than 5 bytes" in capsys.readouterr().err
