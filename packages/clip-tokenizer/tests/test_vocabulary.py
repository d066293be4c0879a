from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from clip_tokenizer import Tokenizer, TokenizerError, vocabulary
from clip_tokenizer.alphabet import BASE_SYMBOLS, BYTE_ORDER, decode_symbol, spell_bytes
from clip_tokenizer.vocabulary import MERGES_VARIABLE, Vocabulary
from clip_tokenizer.vocabulary_files import read_directory, read_merges_text

MERGES = [("a", "b"), ("ab", "c</w>"), ("Ã", "©</w>")]


@pytest.fixture
def small():
    return Vocabulary.from_merges(MERGES)


def test_the_alphabet_spells_every_byte():
    assert sorted(BYTE_ORDER) == list(range(256))
    assert len(set(BASE_SYMBOLS)) == 512
    assert decode_symbol(spell_bytes(bytes(range(256)))) == bytes(range(256))
    assert spell_bytes(b" \n\xad") == "ĠĊŃ"
    assert not any(symbol.isspace() for symbol in BASE_SYMBOLS)


def test_the_alphabet_is_that_of_open_clip(peer):
    assert BASE_SYMBOLS[:256] == tuple(peer.bytes_to_unicode().values())
    assert tuple(peer.bytes_to_unicode()) == BYTE_ORDER


def test_the_packed_vocabulary_is_that_of_open_clip(peer, openai):
    theirs = peer.SimpleTokenizer()
    assert dict(openai.vocabulary.ids) == theirs.encoder
    assert openai.vocabulary.merge_symbols() == list(theirs.bpe_ranks)


def test_a_damaged_table_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "openai_merges.bin").write_bytes(b"damaged")
    monkeypatch.setattr(vocabulary, "files", lambda package: tmp_path)
    vocabulary._read_packed_merges.cache_clear()
    with pytest.raises(TokenizerError, match=r"SHA-256 .* expected .* reinstall"):
        Vocabulary.openai()
    vocabulary._read_packed_merges.cache_clear()


def test_layout(small):
    assert [small.ids[symbol] for symbol in ("ab", "abc</w>", "Ã©</w>")] == [512, 513, 514]
    assert (small.ids[small.sot], small.ids[small.eot], small.size) == (515, 516, 517)
    assert small.merge_symbols() == MERGES
    assert small.products() == [512, 513, 514]


def test_two_merges_of_one_symbol_share_an_id():
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]
    vocabulary = Vocabulary.from_merges(merges)
    assert vocabulary.products() == [512, 513, 514, 514]
    assert vocabulary.size == 517


def test_mistakes_are_explained(small):
    with pytest.raises(TokenizerError, match=r"merge 0 .*: no earlier merge makes xy"):
        Vocabulary.from_merges([("xy", "a")])
    with pytest.raises(TokenizerError, match=r"all 512 byte symbols, 511 are missing"):
        Vocabulary(ids={"!": 0}, merges=[])
    with pytest.raises(TokenizerError, match="special tokens must differ"):
        Vocabulary(ids=small.ids, merges=small.merges, eot=small.sot)
    for wrong in (-3, "x", True):
        with pytest.raises(TokenizerError, match=f"'é' must be an int >= 0, got {wrong!r}"):
            Vocabulary(ids={**small.ids, "é": wrong}, merges=small.merges)
    with pytest.raises(TokenizerError, match="'a' and 'é' have the same id, 64"):
        Vocabulary(ids={**small.ids, "é": small.ids["a"]}, merges=small.merges)
    with pytest.raises(TokenizerError, match="'<x>' is not in the vocabulary"):
        Vocabulary(ids=small.ids, merges=small.merges, extra=("<x>",))
    without = {symbol: index for symbol, index in small.ids.items() if symbol != "abc</w>"}
    with pytest.raises(TokenizerError, match=r"makes 'abc</w>', which the vocabulary does not"):
        Tokenizer(Vocabulary(ids=without, merges=small.merges))


def write_merges(path, header='"bpe_simple_vocab_16e6.txt#version: 0.2'):
    lines = [header, *(" ".join(pair) for pair in MERGES), ""]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def test_a_path_or_the_environment_replaces_the_table(tmp_path, monkeypatch):
    path = tmp_path / "merges.txt.gz"
    write_merges(path)
    assert Tokenizer.openai(path).vocab_size == 517
    monkeypatch.setenv(MERGES_VARIABLE, str(path))
    assert Tokenizer.openai().encode("abc é") == [513, 514]
    monkeypatch.setenv(MERGES_VARIABLE, "")
    assert Tokenizer.openai().vocab_size == 49408
    with pytest.raises(TokenizerError, match=r"absent.txt.gz cannot be read"):
        Tokenizer.openai(tmp_path / "absent.txt.gz")


def test_the_peers_own_file_gives_the_packed_table(peer, openai):
    assert Tokenizer.openai(peer.default_bpe()).vocabulary == openai.vocabulary


def test_merges_text_with_and_without_header():
    assert read_merges_text(b"#version: 0.2\na b\r\n\nab c</w>\n") == MERGES[:2]
    assert read_merges_text(b"a b\nab c</w>") == MERGES[:2]
    assert read_merges_text(b"a b\nab c</w>", limit=1) == MERGES[:1]
    with pytest.raises(TokenizerError, match="line 2 of a merges file must be two symbols"):
        read_merges_text(b"#version\na b c\n")


@pytest.mark.parametrize("kind", ["vocab and merges", "tokenizer.json", "old tokenizer.json", "gz"])
def test_every_form_gives_the_same_tokenizer(small, tmp_path, kind):
    Tokenizer(small).save(tmp_path)
    if kind == "gz":
        for path in tmp_path.iterdir():
            path.unlink()
        write_merges(tmp_path / "any.txt.gz")
    elif kind != "vocab and merges":
        (tmp_path / "vocab.json").unlink()
        (tmp_path / "merges.txt").unlink()
    if kind == "old tokenizer.json":
        path = tmp_path / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        path.write_text(json.dumps(content), encoding="utf-8")
    assert Tokenizer.from_pretrained(tmp_path).vocabulary == small


def test_hugging_faces_spelling_of_the_special_tokens(small, tmp_path):
    Tokenizer(small).save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    path = tmp_path / "vocab.json"
    text = path.read_text(encoding="utf-8")
    for name, new in (("start_of_text", "|startoftext|"), ("end_of_text", "|endoftext|")):
        text = text.replace(f"<{name}>", f"<{new}>")
    path.write_text(text, encoding="utf-8")
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert (loaded.vocabulary.sot, loaded.vocabulary.eot) == ("<|startoftext|>", "<|endoftext|>")
    assert loaded.encode_batch(["abc"], 4).tolist() == [[515, 513, 516, 0]]
    config = {"bos_token": {"content": "ab"}, "eos_token": "abc</w>", "model_max_length": 9}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    named = Tokenizer.from_pretrained(tmp_path)
    assert (named.sot_token_id, named.eot_token_id, named.context_length) == (512, 513, 9)


def test_ids_in_another_order_are_kept(small, tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(small.size).tolist()
    moved = {symbol: order[index] for symbol, index in small.ids.items()}
    merges = [(order[left], order[right]) for left, right in small.merges]
    tokenizer = Tokenizer(Vocabulary(ids=moved, merges=merges))
    plain = Tokenizer(small)
    for text in ("abc é", "cab ab", "日本"):
        assert tokenizer.encode(text) == [order[index] for index in plain.encode(text)]
        assert tokenizer.decode(tokenizer.encode(text)) == plain.decode(plain.encode(text))
    tokenizer.save(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).vocabulary == tokenizer.vocabulary


def test_broken_files_are_explained(tmp_path):
    assert read_directory(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer.json cannot be read"):
        read_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]", encoding="utf-8")
    with pytest.raises(TokenizerError, match="must hold a JSON object, got list"):
        read_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}', encoding="utf-8")
    with pytest.raises(TokenizerError, match="get_tokenizer"):
        read_directory(tmp_path)
    ids = {symbol: index for index, symbol in enumerate(BASE_SYMBOLS)}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(TokenizerError, match="no start and end token"):
        read_directory(tmp_path)
    ids |= {"<start_of_text>": 512, "<end_of_text>": 513}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nab c\n", encoding="utf-8")
    with pytest.raises(TokenizerError, match="the vocabulary lacks 'ab'"):
        read_directory(tmp_path)
