from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from clip_tokenizer import Tokenizer, TokenizerError


def test_the_openai_vocabulary_has_clips_ids(openai):
    assert openai.vocab_size == 49408
    assert (openai.sot_token_id, openai.eot_token_id, openai.pad_token_id) == (49406, 49407, 0)
    symbols = openai.vocabulary.symbols
    assert (symbols[0], symbols[256], symbols[320]) == ("!", "!</w>", "a</w>")
    assert (symbols[512], symbols[49405]) == ("in", "jekyll</w>")


def test_a_caption_gets_the_published_ids(openai):
    assert openai.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert openai.decode([320, 1125, 539, 320, 2368]) == "a photo of a cat"


def test_a_batch_is_a_padded_long_tensor(openai):
    tokens = openai(["a cat", ""])
    assert tokens.dtype == torch.int64
    assert tokens.shape == (2, 77)
    assert tokens[0, :5].tolist() == [49406, 320, 2368, 49407, 0]
    assert tokens[1, :3].tolist() == [49406, 49407, 0]
    assert not tokens[:, 5:].any()
    assert openai("a cat").shape == (1, 77)
    assert openai([]).shape == (0, 77)


@pytest.mark.parametrize("context_length", [1, 2, 3, 8, 300])
def test_truncation_keeps_the_end_token_last(openai, context_length):
    texts = ["one two three four five six seven", "", "one"]
    array = openai.encode_batch(texts, context_length)
    for row, text in zip(array, texts, strict=True):
        expected = [49406, *openai.encode(text), 49407]
        if len(expected) > context_length:
            expected = [*expected[: context_length - 1], 49407]
        assert row.tolist() == expected + [0] * (context_length - len(expected))


def test_truncate_error_names_the_text():
    strict = Tokenizer.openai(context_length=4, truncate="error")
    assert strict.encode_batch(["a cat"]).tolist() == [[49406, 320, 2368, 49407]]
    with pytest.raises(TokenizerError, match=r"texts\[1\] needs 5 tokens, context_length is 4"):
        strict.encode_batch(["a", "a big cat"])


def test_the_pad_id_fills_the_tail():
    padded = Tokenizer.openai(pad_token_id=49407).encode_batch(["a", "a cat"], 5)
    assert padded.tolist() == [
        [49406, 320, 49407, 49407, 49407],
        [49406, 320, 2368, 49407, 49407],
    ]


def test_a_spelled_special_token_is_text_unless_allowed(openai):
    text = "a <end_of_text> b"
    assert 49407 not in openai.encode(text)
    assert openai.decode(openai.encode(text)) == "a < end _ of _ text > b"
    allowing = Tokenizer.openai(allow_special=True)
    assert allowing.encode(text) == [320, 49407, 321]
    assert allowing.encode_batch([text, "a"], 6).tolist() == [
        [49406, 320, 49407, 321, 49407, 0],
        [49406, 320, 49407, 0, 0, 0],
    ]


def test_extra_special_tokens_are_escaped_and_take_the_next_ids():
    tokens = ("<|a|>", "(+)", "[IMG]")
    tokenizer = Tokenizer.openai(extra_special_tokens=tokens, allow_special=True)
    assert tokenizer.vocab_size == 49411
    assert tokenizer.encode("x <|a|> (+) [IMG]") == [343, 49408, 49409, 49410]
    assert tokenizer.all_special_ids == [49406, 49407, 49408, 49409, 49410]
    closed = Tokenizer.openai(extra_special_tokens=tokens)
    assert max(closed.encode("x <|a|> (+) [IMG]")) < 49406


@pytest.mark.parametrize("token", ["", "two words", "a</w>", "<end_of_text>"])
def test_unusable_special_tokens_are_refused(token):
    with pytest.raises(TokenizerError, match="special token"):
        Tokenizer.openai(extra_special_tokens=[token])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "missing caption"),
        (math.nan, "missing caption"),
        (b"bytes", "decode it first"),
        (7, "int"),
        (["nested"], "list"),
    ],
)
def test_elements_that_are_not_text_are_named_by_position(openai, value, message):
    with pytest.raises(TokenizerError, match=rf"texts\[2\] must be a str, got .*{message}"):
        openai.encode_batch(["a", "b", value])


@pytest.mark.parametrize("value", [None, 3, b"bytes", math.nan, np.array("a"), {"a": 1}])
def test_a_batch_must_be_text(openai, value):
    with pytest.raises(TokenizerError, match="texts must be a str or a sequence"):
        openai.encode_batch(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "context_length"),
        ({"context_length": True}, "context_length must be a positive int, got True"),
        ({"clean": "upper"}, "clean must be one of lower, whitespace, canonicalize"),
        ({"truncate": "tail"}, "truncate"),
        ({"pad_token_id": 49408}, "pad_token_id"),
        ({"reduction": "shufle"}, "nearest is 'shuffle'"),
        ({"cache_size": 0}, "cache_size"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_bytes(**{"pad_token_id": 0, **options})


def test_counts_and_lengths(openai):
    assert openai.count("a photo of a cat") == 5
    assert openai.lengths(["a photo of a cat", "", "a " * 200]).tolist() == [7, 2, 202]
    rows = openai.encode_rows(["a cat", "", "a"])
    assert rows.to_list() == [[320, 2368], [], [320]]
    assert len(openai.encode_rows([])) == 0


def test_blocks_do_not_change_the_result(openai):
    texts = [f"caption number {index} é" if index % 7 else "" for index in range(9000)]
    whole = openai.encode_batch(texts, 9)
    assert whole[8999].tolist() == openai.encode_batch([texts[8999]], 9)[0].tolist()
    pieces = [openai.encode_batch(texts[at : at + 1000], 9) for at in range(0, 9000, 1000)]
    assert np.array_equal(whole, np.concatenate(pieces))
    assert openai.encode_rows(texts).lengths.tolist() == (openai.lengths(texts) - 2).tolist()


def test_arrays_come_in_the_type_asked_for(openai):
    small = openai.encode_batch(["a cat"], 4, dtype=np.uint16)
    assert small.dtype == np.uint16
    assert small.tolist() == openai.encode_batch(["a cat"], 4).tolist()
    with pytest.raises(TokenizerError, match="holds 49408 ids, got int16"):
        openai.encode_batch(["a cat"], 4, dtype=np.int16)


def test_a_vocabulary_beyond_sixteen_bits(openai):
    extra = [f"<extra_{index}>" for index in range(17_000)]
    wide = Tokenizer.openai(extra_special_tokens=extra)
    assert wide.vocab_size == 66_408
    assert wide.encode_rows(["a cat", "café"]).to_list() == [
        openai.encode("a cat"),
        openai.encode("café"),
    ]
    assert wide.decode([320, 66_407], keep_special=True) == "a <extra_16999>"
    assert Tokenizer.openai(pad_token_id=0).encode_rows(["a"]).ids.dtype == np.uint16
    assert wide.encode_rows(["a"]).ids.dtype == np.uint32


def test_decoding(openai):
    row = openai.encode_batch(["Hello, world! 42"], 12)[0]
    assert openai.decode(row) == "hello , world ! 4 2"
    assert openai.decode(torch.from_numpy(row)) == "hello , world ! 4 2"
    assert openai.decode(row[:4], keep_special=True) == "<start_of_text>hello , world "
    assert openai.decode(openai.encode("naïve café 猫")) == "naïve café 猫"
    assert openai.decode(openai.encode("😀")[:1]) in {"\ufffd", "😀"}
    with pytest.raises(TokenizerError, match=r"ids\[1\] must be in \[0, 49408\), got 49408"):
        openai.decode([320, 49408])


def test_one_row_is_decoded_at_a_time(openai):
    batch = openai.encode_batch(["a cat"])
    for ids in (batch, torch.from_numpy(batch)):
        with pytest.raises(
            TokenizerError, match=r"one row of ints, got shape \(1, 77\); decode each"
        ):
            openai.decode(ids)
    for ids in (320, [[320]], ["a"], np.array([0.5])):
        with pytest.raises(TokenizerError, match=r"one row of ints, got .*; decode each row"):
            openai.decode(ids)
    assert openai.decode(iter([np.uint16(320), torch.tensor(2368)])) == "a cat"


def test_offsets_point_into_the_cleaned_text(openai):
    found = openai.offsets("A  photograph&nbsp;of Unpronounceables, it's 42")
    assert found.text == "a photograph of unpronounceables, it's 42"
    assert found.ids == openai.encode(found.text)
    pieces = [found.text[first:end] for first, end in found.spans]
    assert pieces == [openai.decode([index]) for index in found.ids]
    assert "".join(pieces) == found.text.replace(" ", "")


def test_ids_that_share_a_character_share_its_offset():
    found = Tokenizer.from_bytes().offsets("é😀 a")
    assert found.spans == [(0, 1)] * 2 + [(1, 2)] * 4 + [(3, 4)]


def test_offsets_of_special_tokens():
    tokenizer = Tokenizer.openai(allow_special=True)
    found = tokenizer.offsets("a <end_of_text>b")
    assert found.ids == [320, 49407, 321]
    assert found.spans == [(0, 1), (2, 15), (15, 16)]


def test_pickling_keeps_options_and_ids(openai):
    original = Tokenizer.openai(context_length=9, clean="whitespace", allow_special=True)
    copy = pickle.loads(pickle.dumps(original))
    texts = ["A Cat", "<end_of_text>", "café"]
    assert copy.context_length == 9
    assert np.array_equal(copy.encode_batch(texts), original.encode_batch(texts))


def test_bytes_only():
    tokenizer = Tokenizer.from_bytes(context_length=8)
    assert tokenizer.vocab_size == 514
    assert "bytes only" in repr(tokenizer)
    ids = tokenizer.encode("ab é")
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "ab é"
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id) == (512, 513)


def test_training_learns_what_repeats():
    texts = ["the cat sat on the mat", "the cat ran after another cat"] * 5
    tokenizer = Tokenizer.train(texts, 530, context_length=12)
    assert tokenizer.vocab_size == 530
    assert tokenizer.count("the") == 1
    assert tokenizer.decode(tokenizer.encode("the dog sat")) == "the dog sat"
    assert tokenizer(["the cat"]).shape == (1, 12)
    with pytest.raises(TokenizerError, match=r"at least 514 .*, got 513"):
        Tokenizer.train(texts, 513)


def test_training_twice_gives_the_same_merges():
    texts = [f"caption {index % 17} of {index % 5} things" for index in range(200)]
    first, second = Tokenizer.train(texts, 600), Tokenizer.train(iter(texts), 600)
    assert first.vocabulary.merges == second.vocabulary.merges


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_saving_and_loading_keeps_everything(tmp_path, clean):
    texts = ["A Cat, a dog & a_mouse", "café", "<x>"]
    saved = Tokenizer.train(
        texts * 3,
        540,
        context_length=11,
        clean=clean,
        truncate="error",
        reduction="syntax",
        allow_special=True,
        extra_special_tokens=["<x>"],
        pad_token_id=2,
    )
    saved.save(tmp_path / "tokenizer")
    loaded = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    names = ("context_length", "clean", "truncate", "allow_special", "pad_token_id", "reduction")
    for name in names:
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.vocabulary == saved.vocabulary
    assert loaded.all_special_ids == saved.all_special_ids
    wide = {"context_length": 40, "reduction": "truncate"}
    assert np.array_equal(loaded.encode_batch(texts, **wide), saved.encode_batch(texts, **wide))
