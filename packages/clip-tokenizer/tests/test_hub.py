from __future__ import annotations

import sys

import huggingface_hub
import pytest
from clip_tokenizer import Tokenizer, TokenizerError, get_tokenizer, hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """A hub of one repository, `org/name`, in a folder."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        if repository != "org/name":
            raise LocalEntryNotFoundError("the hub cannot be reached")
        if not (folder / name).is_file():
            raise EntryNotFoundError(f"404 {name}")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return folder, asked


def test_a_repository_loads_like_its_directory(fake_hub):
    folder, asked = fake_hub
    Tokenizer.train(["abc abc"] * 3, 520, context_length=5).save(folder)
    for name in ("org/name", "hf-hub:org/name"):
        loaded = Tokenizer.from_pretrained(name)
        assert loaded.vocabulary == Tokenizer.from_pretrained(folder).vocabulary
        assert loaded.context_length == 5
        assert repr(get_tokenizer(name)) == repr(loaded)
    assert ("org/name", "tokenizer.json") in asked


def test_the_error_names_what_was_tried(fake_hub):
    with pytest.raises(TokenizerError, match=r"org/name; tried .*vocab\.json \(EntryNotFound"):
        Tokenizer.from_pretrained("org/name")
    with pytest.raises(TokenizerError, match=r"merges\.txt \(LocalEntryNotFoundError: the hub"):
        Tokenizer.from_pretrained("other/name")


def test_a_config_alone_is_no_tokenizer(fake_hub):
    folder, _ = fake_hub
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match="org/name holds no tokenizer; expected"):
        Tokenizer.from_pretrained("org/name")


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"clip-tokenizer\[hub\]"):
        Tokenizer.from_pretrained("org/name")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("org/name", "org/name"),
        ("hf-hub:org/na.me-1", "org/na.me-1"),
        ("name", None),
        ("a/b/c", None),
        ("./folder", None),
        ("/folder/name", None),
        ("../name", None),
    ],
)
def test_what_is_a_repository(source, expected):
    assert hub.repository_of(source) == expected


@pytest.mark.parametrize("source", ["absent", "a/b/c", "/absent/folder"])
def test_neither_directory_nor_repository(source):
    with pytest.raises(TokenizerError, match="neither a directory nor a hub repository"):
        Tokenizer.from_pretrained(source)
