"""Tokens that transformers added to a tokenizer: the ids that transformers gives, or a refusal."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from clip_tokenizer import Tokenizer, TokenizerError, get_tokenizer

TEXTS = [
    "a <sks> dog",
    "<sks>",
    "a <SKS> b",
    "asksb sks",
    "'sks",
    "!!<sks>!!",
    "caf é* x",
    "CAFÉ* café*",
    "bone one stone one, 3one",
    "plain words only",
    "<sks2> and <sks>",
    "",
]


@pytest.fixture(scope="module")
def small():
    texts = ["a dog and a stone, one café", "sks is plain words only", "bone stone one"] * 3
    tokenizer = Tokenizer.train(texts, 540)
    assert tokenizer.vocab_size == 540
    return tokenizer


@pytest.fixture
def theirs(small, tmp_path):
    """The small tokenizer in transformers."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    small.save(tmp_path / "a")
    return transformers.CLIPTokenizer.from_pretrained(tmp_path / "a")


def add_plain(tokenizer):
    from transformers import AddedToken

    tokens = ["<sks>", "sks", "<sks2>", "é*"]
    tokenizer.add_tokens([*tokens, AddedToken("one", single_word=True)])


def add_special(tokenizer):
    tokenizer.add_tokens(["<sks>", "<sks2>"], special_tokens=True)


def add_additional(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sks>", "<sks2>"]})


def add_padding(tokenizer):
    """Stable Diffusion 2 pads with `!`, which becomes an added token."""
    tokenizer.add_special_tokens({"pad_token": "!"})


@pytest.mark.parametrize("add", [add_plain, add_special, add_additional, add_padding])
def test_the_ids_are_those_of_transformers(theirs, tmp_path, add):
    add(theirs)
    theirs.save_pretrained(tmp_path / "b")
    for load in (Tokenizer.from_pretrained, get_tokenizer):
        ours = load(tmp_path / "b")
        for text in TEXTS:
            if add in (add_plain, add_padding) or "<SKS>" not in text:  # theirs takes case apart
                assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
        assert ours.vocab_size == len(theirs)
        assert ours.eot_token_id == theirs.eos_token_id
    ours.save(tmp_path / "c")
    again = Tokenizer.from_pretrained(tmp_path / "c")
    assert again.vocabulary == ours.vocabulary
    back = type(theirs).from_pretrained(tmp_path / "c")
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text)
        if "<SKS>" not in text:
            assert back.encode(text, add_special_tokens=False) == ours.encode(text)


def test_offsets_and_decoding(theirs, tmp_path):
    add_plain(theirs)
    theirs.save_pretrained(tmp_path / "b")
    ours = Tokenizer.from_pretrained(tmp_path / "b")
    found = ours.offsets("A <sks> dog!<sks2>")
    parts = [found.text[start:end] for start, end in found.spans]
    assert found.ids == ours.encode("A <sks> dog!<sks2>")
    assert (parts[1], parts[-1]) == ("<sks>", "<sks2>")
    assert ours.decode(ours.encode("a <sks> dog")) == "a <sks> dog"
    assert ours.vocabulary.ids["<sks>"] == 540
    row = ours.encode_batch(["a <sks> dog"], 8)[0]
    assert np.flatnonzero(row == 540).tolist() == [2]


def test_older_directories_list_them_in_a_file_of_their_own(small, tmp_path):
    """`vocab.json`, `merges.txt` and `added_tokens.json`, without `tokenizer.json`."""
    small.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<sks>": 540}))
    ours = Tokenizer.from_pretrained(tmp_path)
    assert ours.encode("a <sks>") == [*small.encode("a"), 540]
    small.save(tmp_path)  # saving another tokenizer there leaves no token of this one
    assert Tokenizer.from_pretrained(tmp_path).vocabulary == small.vocabulary


def test_a_directory_that_transformers_saved_over_is_read_as_it_is_now(theirs, tmp_path):
    add_plain(theirs)
    theirs.save_pretrained(tmp_path / "a")  # vocab.json and merges.txt of before stay there
    assert Tokenizer.from_pretrained(tmp_path / "a").encode("<sks>") == [540]


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ({"new york": 540}, "without white space, got 'new york'"),
        ({"<sks>": 3}, "have the same id, 3"),
        ({"dog</w>": 900}, "'dog</w>' has the id 900, in the vocabulary"),
        ({"<sks>": "x"}, "the id of '<sks>' must be an int"),
        ({"": 540}, "got ''"),
        ([], "must hold a JSON object"),
    ],
)
def test_what_cannot_be_used_is_refused(small, tmp_path, added, words):
    small.save(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(TokenizerError, match=words):
        Tokenizer.from_pretrained(tmp_path)


def test_two_files_that_disagree_and_a_cleaning_that_takes_tokens_apart(theirs, tmp_path):
    add_special(theirs)
    theirs.save_pretrained(tmp_path / "b")
    with pytest.raises(TokenizerError, match=r"'<sks>' becomes 'sks' with clean='canonicalize'"):
        Tokenizer.from_pretrained(tmp_path / "b", clean="canonicalize")
    (tmp_path / "b" / "added_tokens.json").write_text(json.dumps({"<sks>": 561}))
    with pytest.raises(TokenizerError, match=r"gives the added token '<sks>' the id 561, another"):
        Tokenizer.from_pretrained(tmp_path / "b")


def test_tokens_added_to_a_word_piece_tokenizer(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<sks>": 5}))
    assert get_tokenizer(tmp_path, context_length=4).encode("a <sks>") == [4, 5]
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<sks>": 7}))
    with pytest.raises(TokenizerError, match="'<sks>' has the id 7, which"):
        get_tokenizer(tmp_path, context_length=4)
