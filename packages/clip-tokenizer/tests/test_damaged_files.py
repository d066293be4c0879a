"""Damaged tokenizer files: the error is ours and names the file."""

from __future__ import annotations

import gzip
import json

import pytest
from clip_tokenizer import Tokenizer, TokenizerError, get_tokenizer
from clip_tokenizer.vocabulary_files import read_directory


@pytest.fixture
def saved(tmp_path):
    Tokenizer.train(["hello world hello there"] * 3, 520).save(tmp_path)
    return tmp_path


def refused(path, words):
    """Neither way to load a directory gives anything but our error."""
    for load in (Tokenizer.from_pretrained, get_tokenizer):
        with pytest.raises(TokenizerError, match=words):
            load(path)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:9]])
def test_half_an_archive(tmp_path, damage):
    lines = [f"{left} {right}" for left, right in zip("abcdefgh", "ijklmnop", strict=True)]
    (tmp_path / "any.txt.gz").write_bytes(damage(gzip.compress("\n".join(lines).encode())))
    refused(tmp_path, r"any.txt.gz cannot be read \(EOFError")
    with pytest.raises(TokenizerError, match=r"any.txt.gz cannot be read"):
        Tokenizer.openai(tmp_path / "any.txt.gz")


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json", "tokenizer_config.json"])
def test_bytes_that_are_not_text(saved, name):
    (saved / "tokenizer.json").unlink()
    (saved / name).write_bytes(b"\xff\xfe\n")
    refused(saved, rf"{name} cannot be read \(UnicodeDecodeError")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.pop("merges"), r"tokenizer.json cannot be read \(KeyError: 'merges'"),
        (lambda model: model.pop("vocab"), r"tokenizer.json cannot be read \(KeyError: 'vocab'"),
        (lambda model: model.update(merges=["abc"]), r"tokenizer.json cannot be read"),
        (lambda model: model.update(merges=None), r"tokenizer.json cannot be read"),
        (lambda model: model["vocab"].update(a="x"), "the id of 'a' must be an int"),
        (lambda model: model["vocab"].update(a=-3), "the id of 'a' must be an int >= 0, got -3"),
        (lambda model: model["vocab"].update(a=model["vocab"]["b"]), "have the same id"),
    ],
)
def test_a_model_with_missing_keys(saved, change, words):
    (saved / "merges.txt").unlink()
    path = saved / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content["model"])
    path.write_text(json.dumps(content), encoding="utf-8")
    refused(saved, words)


@pytest.mark.parametrize("content", ["{}", '{"model": null}', '{"model": 3}'])
def test_no_model(saved, content):
    (saved / "merges.txt").unlink()
    (saved / "tokenizer.json").write_text(content, encoding="utf-8")
    refused(saved, r"tokenizer.json cannot be read")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"clip_tokenizer": None},
            "tokenizer_config.json must be a table of context_length, .*None",
        ),
        ({"clip_tokenizer": {"foo": 1}}, r"must be a table of .*got {'foo': 1}"),
        ({"clip_tokenizer": {"pad_token_id": "x"}}, r"pad_token_id must be in \[0, .*got 'x'"),
        ({"clip_tokenizer": {"clean": 3}}, "clean must be one of"),
        ({"clip_tokenizer": {"reduction": 3}}, "reduction must be one of"),
        ({"clip_tokenizer": {}, "model_max_length": "77"}, "tokenizer_config.json cannot be read"),
        ({"clip_tokenizer": {}, "model_max_length": 7.5}, "must be a positive int, got 7.5"),
    ],
)
def test_impossible_settings(saved, change, words):
    path = saved / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **change}), encoding="utf-8")
    refused(saved, words)


@pytest.mark.parametrize("length", [None, 1e30, 10**30])
def test_a_length_without_meaning_is_ignored(saved, length):
    path = saved / "tokenizer_config.json"
    path.write_text(json.dumps({"model_max_length": length}), encoding="utf-8")
    assert read_directory(saved)[1] == {}


def test_a_damaged_model_config(saved):
    (saved / "clip_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"clip_config.json cannot be read"):
        get_tokenizer(saved)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"model": {"type": "WordPiece"}}'),
        ("vocab.txt", "no separator"),
        ("tokenizer_config.json", '{"do_lower_case": "yes"}'),
        ("special_tokens_map.json", "{"),
    ],
)
def test_files_of_another_kind(tmp_path, name, content):
    pytest.importorskip("tokenizers")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", encoding="utf-8")
    assert get_tokenizer(tmp_path, context_length=4).encode("a") == [4]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"{name} cannot be read"):
        get_tokenizer(tmp_path, context_length=4)
