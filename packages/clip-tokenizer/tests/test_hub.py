from __future__ import annotations

import json
import sys

import huggingface_hub
import pytest
from clip_tokenizer import HFTokenizer, Tokenizer, TokenizerError, get_tokenizer, hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

online = []  # files that the hub was really asked for


@pytest.fixture
def broken():
    return {}


@pytest.fixture
def fake_hub(monkeypatch, tmp_path, broken):
    """A hub of one repository, `org/name`, in a folder; it cannot send what is `broken`."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    asked = []
    online.clear()

    def download(repository, name, *, revision=None, local_files_only=False):
        asked.append((repository, name) if revision is None else (repository, name, revision))
        if not local_files_only:
            online.append(name)
        if repository != "org/name":
            raise LocalEntryNotFoundError("the hub cannot be reached")
        if name in broken:
            raise broken[name]
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
    assert online == [*hub.CONFIG_FILES, *hub.VOCABULARY_FILES, hub.CONFIG_FILES[0]]


def test_a_revision_is_asked_for(fake_hub):
    folder, asked = fake_hub
    Tokenizer.train(["abc abc"] * 3, 520, context_length=5).save(folder)
    assert get_tokenizer("hf-hub:org/name@v1.0").context_length == 5
    assert ("org/name", "tokenizer.json", "v1.0") in asked


@pytest.mark.parametrize("error", [OSError, LocalEntryNotFoundError])
def test_a_file_that_could_not_be_fetched_is_not_taken_for_absent(fake_hub, broken, error):
    folder, _ = fake_hub
    Tokenizer.train(["abc abc"] * 3, 520, context_length=5).save(folder)
    broken["tokenizer_config.json"] = error("timed out")
    with pytest.raises(
        TokenizerError, match=r"in part only; .*tokenizer_config.json \(.*timed out"
    ):
        get_tokenizer("org/name")


def test_cached_files_are_enough_when_the_hub_cannot_be_reached(fake_hub, broken):
    folder, _ = fake_hub
    Tokenizer.train(["abc abc"] * 3, 520, context_length=5).save(folder)
    for name in hub.CONFIG_FILES + hub.VOCABULARY_FILES:
        if not (folder / name).is_file():
            broken[name] = LocalEntryNotFoundError("offline")
    assert get_tokenizer("org/name").context_length == 5


def test_a_config_without_files_beside_it_reads_the_repository_it_names(fake_hub, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    folder, _ = fake_hub
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
    HFTokenizer(backend, context_length=5).save(folder)
    named = {"hf_tokenizer_name": "org/name"}, {"tokenizer": {"name": "org/name"}}
    for text, file in zip(named, ("open_clip_config.json", "clip_config.json"), strict=True):
        config = {"text": {"context_length": 3, **text}}
        (tmp_path / file).write_text(json.dumps(config), encoding="utf-8")
        assert get_tokenizer(tmp_path).encode_batch("a").tolist() == [[0, 0, 0]]
        (tmp_path / file).unlink()


def test_a_config_without_tokenizer_files_is_refused(fake_hub):
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
        ("org/name@a/branch", "org/name@a/branch"),
        ("name", None),
        ("a/b/c", None),
        ("./folder", None),
        ("/folder/name", None),
        ("../name", None),
    ],
)
def test_names_of_repositories(source, expected):
    assert hub.parse_repository(source) == expected


@pytest.mark.parametrize("source", ["absent", "a/b/c", "/absent/folder"])
def test_neither_directory_nor_repository(source):
    with pytest.raises(TokenizerError, match="neither a directory nor a hub repository"):
        Tokenizer.from_pretrained(source)
