from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from clip_tokenizer import Tokenizer
from clip_tokenizer.cli import main
from clip_tokenizer.commands import show_progress


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("a photo of a cat\r\n\nCafé &amp; bar\n" + "a " * 100, encoding="utf-8")
    return str(path)


def feed(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


def test_encode_then_decode(captions, capsys, monkeypatch, openai):
    assert main(["encode", captions]) == 0
    output = capsys.readouterr().out
    assert output.startswith("320 1125 539 320 2368\n\n")
    assert len(output.splitlines()) == 4
    feed(monkeypatch, output.encode())
    assert main(["decode"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == ["a photo of a cat", "", "café & bar"]


def test_encode_with_start_and_end(monkeypatch, capsys):
    feed(monkeypatch, b"a cat\n")
    assert main(["encode", "--special", "-"]) == 0
    assert capsys.readouterr().out == "49406 320 2368 49407\n"


def test_encode_to_an_array(captions, tmp_path, openai):
    target = tmp_path / "ids.npy"
    assert main(["encode", captions, "--out", str(target), "--context-length", "8"]) == 0
    found = np.load(target)
    assert found.dtype == np.uint16
    texts = ["a photo of a cat", "", "Café &amp; bar", "a " * 100]
    assert np.array_equal(found, openai.encode_batch(texts, 8))


def test_an_array_always_has_start_and_end(captions, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["encode", captions, "--special", "--out", str(tmp_path / "ids.npy")])
    assert "not allowed with" in capsys.readouterr().err


def test_count(captions, capsys):
    assert main(["count", captions]) == 0
    assert capsys.readouterr().out == (
        "4 lines, 108 tokens, longest 100, 1 do not fit in 77 with start and end\n"
    )
    assert main(["count", "--each", captions, captions]) == 0
    assert capsys.readouterr().out.split() == ["5", "0", "3", "100"] * 2


def test_train_and_use_and_export(captions, tmp_path, capsys):
    folder = str(tmp_path / "trained")
    assert main(["train", captions, captions, "--vocab-size", "518", "--out", folder]) == 0
    assert "518 ids written" in capsys.readouterr().out
    assert Tokenizer.from_pretrained(folder).vocab_size == 518
    assert main(["count", "--tokenizer", folder, captions]) == 0
    exported = tmp_path / "exported"
    arguments = ["export", "--tokenizer", "bytes", "--clean", "whitespace", "--out"]
    assert main([*arguments, str(exported)]) == 0
    assert Tokenizer.from_pretrained(exported).clean == "whitespace"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["encode", "--out", "{}/ids.npy"], "ids.npy"),
        (["train", "--vocab-size", "514", "--out", "{}"], "vocab.json"),
        (["export", "--tokenizer", "bytes", "--out", "{}"], "merges.txt"),
    ],
)
def test_existing_files_are_replaced_on_request_only(
    arguments, written, tmp_path, monkeypatch, capsys
):
    arguments = [argument.format(tmp_path) for argument in arguments]
    (tmp_path / written).write_text("kept")
    feed(monkeypatch, b"\xff")  # what is written is looked at before what is read
    assert main(arguments) == 2
    assert " exists; add --overwrite to replace its files" in capsys.readouterr().err
    assert (tmp_path / written).read_text() == "kept"
    feed(monkeypatch, b"a cat\n")
    assert main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / written).read_bytes() != b"kept"


def test_json(captions, monkeypatch, capsys):
    assert main(["count", "--json", captions]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == {
        "lines": 4,
        "tokens": 108,
        "longest": 100,
        "too_long": 1,
        "context_length": 77,
    }
    feed(monkeypatch, b"a cat\n\n")
    assert main(["encode", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [[320, 2368], []]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_no_torch(arguments):
    code = (
        "import sys\nfrom clip_tokenizer.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_special_tokens_are_text_unless_allowed(monkeypatch, capsys):
    for arguments, expected in (([], False), (["--allow-special"], True)):
        feed(monkeypatch, b"<end_of_text>\n")
        assert main(["encode", *arguments]) == 0
        assert (capsys.readouterr().out == "49407\n") is expected


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        (["decode"], b"1 2\nx\n", "line 2 must be ids, got 'x'"),
        (["decode"], b"99999\n", r"line 1: ids\[0\] must be in"),
        (["encode"], b"ok\n\xff\n", "-, line 2 is not UTF-8"),
        (["encode", "absent.txt"], b"", "No such file"),
        (["count", "--tokenizer", "absent"], b"", "neither a directory"),
        (["train", "--vocab-size", "3", "--out", "x"], b"a", "at least 514"),
        (["train", "--vocab-size", "600", "--context-length", "0", "--out", "x"], b"a", "posit"),
    ],
)
def test_mistakes_end_with_a_message(monkeypatch, capsys, arguments, data, message):
    feed(monkeypatch, data)
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("clip-tokenizer: error: ")
    assert shown.count("\n") == 1
    assert re.search(message, shown)


def test_a_closed_pipe_is_no_error(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("a photo of a cat\n" * 50_000, encoding="utf-8")
    command = [sys.executable, "-m", "clip_tokenizer.cli", "encode", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "320 1125 539 320 2368\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 0


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_for_terminals_and_long_input(monkeypatch):
    lines = [("x", 2)] * 1000
    silent = io.StringIO()
    assert list(show_progress(lines, 2000, silent)) == ["x"] * 1000
    assert silent.getvalue() == ""
    quick = Terminal()
    assert list(show_progress(lines, 2000, quick)) == ["x"] * 1000
    assert quick.getvalue() == ""
    monkeypatch.setattr("clip_tokenizer.commands.PROGRESS_DELAY", 0.0)
    shown = Terminal()
    assert list(show_progress(lines, 2000, shown)) == ["x"] * 1000
    last = shown.getvalue().split("\r")[-1]
    assert last.startswith("100%|")
    assert "2.00k/2.00k" in last
    assert last.endswith("\n")
    piped = Terminal()
    assert list(show_progress(lines, None, piped)) == ["x"] * 1000
    assert "\r2.00kB [" in piped.getvalue()
