from __future__ import annotations

import random
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from clip_tokenizer import OpenClipGenerator, SyntaxOrder, Tokenizer, TokenizerError, TokenRows
from clip_tokenizer.reduction import REDUCTIONS, find_reduction

TEXTS = [
    "a dog",
    "",
    "one two three four five six seven eight nine ten eleven twelve",
    "the quick brown fox jumps over the lazy dog again and again and again",
    "extraordinarily unpronounceable llanfairpwllgwyngyll déjà vu",
    "six words that just about fit",
]
TAGS = {"dog": "NN", "fox": "NN", "quick": "JJ", "brown": "JJ", "lazy": "JJ", "jumps": "VBZ"}


def tag_by_table(text):
    return [(word, TAGS.get(word, "XX")) for word in text.split()]


def put_nltk(monkeypatch, word_tokenize):
    """An nltk of ours: the real one wants data from the network."""
    nltk = ModuleType("nltk")
    nltk.download = lambda name: True
    nltk.word_tokenize = word_tokenize
    nltk.tokenize = SimpleNamespace(word_tokenize=word_tokenize)
    nltk.pos_tag = lambda words: tag_by_table(" ".join(words))
    monkeypatch.setitem(sys.modules, "nltk", nltk)


@pytest.mark.parametrize("context_length", [2, 3, 8, 16, 77])
@pytest.mark.parametrize(
    ("ours", "theirs"), [("random", "random"), ("shuffle", "shuffle"), ("block", "simple")]
)
def test_with_the_same_seed_ids_are_those_of_open_clip(openai, peer, ours, theirs, context_length):
    theirs_tokenizer = peer.SimpleTokenizer(reduction_mask=theirs)
    for seed in range(5):
        torch.manual_seed(seed)
        random.seed(seed)
        expected = theirs_tokenizer(TEXTS, context_length).numpy()
        found = openai.encode_batch(
            TEXTS, context_length, reduction=ours, generator=OpenClipGenerator(seed)
        )
        assert np.array_equal(found, expected)


def test_a_parity_generator_leaves_the_global_ones_alone(openai):
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(1).item(), random.random()
    torch.manual_seed(1)
    random.seed(1)
    for reduction in ("random", "block"):
        openai(TEXTS, 8, reduction=reduction, generator=OpenClipGenerator(7))
    assert (torch.rand(1).item(), random.random()) == expected


def test_the_clipa_order_is_that_of_open_clip(openai, peer, monkeypatch):
    put_nltk(monkeypatch, str.split)
    texts = [text for text in TEXTS if text]
    texts += [" ".join(random.Random(seed).choices([*TAGS, "a", "of"], k=40)) for seed in range(20)]
    for context_length in (3, 8, 20, 32):
        expected = peer.SimpleTokenizer(reduction_mask="syntax")(texts, context_length)
        found = openai(texts, context_length, reduction="syntax-clipa")
        assert torch.equal(found, expected)
        assert not torch.equal(found, openai(texts, context_length))


@pytest.mark.parametrize("name", ["random", "shuffle", "block"])
def test_random_reductions_keep_ids_of_the_text(openai, name):
    rows = openai.encode_rows(TEXTS).to_list()
    found = openai.encode_batch(TEXTS, 8, reduction=name, generator=np.random.default_rng(3))
    again = openai.encode_batch(TEXTS, 8, reduction=name, generator=np.random.default_rng(3))
    other = openai.encode_batch(TEXTS, 8, reduction=name, generator=np.random.default_rng(4))
    assert np.array_equal(found, again)
    assert not np.array_equal(found, other)
    for row, ids in zip(found.tolist(), rows, strict=True):
        kept = row[1 : row.index(openai.eot_token_id)]
        assert row[0] == openai.sot_token_id
        assert len(kept) == min(6, len(ids))
        remaining = list(ids)
        for index in kept:
            remaining.remove(index)
        if name == "block":
            assert any(ids[at : at + len(kept)] == kept for at in range(len(ids) + 1))
        if name == "random":
            walk = iter(ids)
            assert all(index in walk for index in kept)


def test_random_keeps_every_position_equally_often(openai):
    ids = openai.encode(TEXTS[2])
    rng = np.random.default_rng(0)
    found = openai.encode_batch([TEXTS[2]] * 3000, 8, reduction="random", generator=rng)
    share = [(found[:, 1:7] == index).any(1).mean() for index in ids]
    assert np.allclose(share, 6 / len(ids), atol=0.05)


def test_stable_syntax_keeps_the_earliest_of_a_class(openai):
    order = SyntaxOrder(tagger=tag_by_table)
    text = "the quick brown fox jumps over the lazy dog"
    assert order.reduce_text(text, 0) == ""
    assert order.reduce_text(text, 2) == "fox dog"
    assert order.reduce_text(text, 4) == "quick brown fox dog"
    assert order.reduce_text(text, 6) == "quick brown fox jumps lazy dog"
    assert order.reduce_text(text, 7) == "the quick brown fox jumps lazy dog"
    assert order.reduce_text("", 3) == ""
    many = " ".join(f"w{index}" for index in range(100))
    assert order.reduce_text(many, 3) == "w0 w1 w2"
    assert openai.encode_batch([text], 6, reduction=order)[0, 1:-1].tolist() == openai.encode(
        "quick brown fox dog"
    )


def test_a_tokenizer_may_have_a_default_reduction(openai):
    own = Tokenizer.openai(context_length=8, reduction="block")
    found = own.encode_batch(TEXTS, generator=np.random.default_rng(0))
    expected = openai.encode_batch(TEXTS, 8, reduction="block", generator=np.random.default_rng(0))
    assert np.array_equal(found, expected)
    cut = own.encode_batch(TEXTS, reduction="truncate")
    assert np.array_equal(cut, openai.encode_batch(TEXTS, 8))


def test_a_plug_in_is_called_with_the_budget(openai):
    class Reverse:
        def __call__(self, tokenizer, texts, budget, generator):
            assert budget == 4
            rows = tokenizer.encode_rows(texts)
            return rows.take([np.arange(length)[::-1] for length in rows.lengths])

    assert openai.encode_batch(["a cat"], 6, reduction=Reverse()).tolist() == [
        [49406, 2368, 320, 49407, 0, 0]
    ]


def test_nothing_is_drawn_for_short_texts(openai):
    class Untouched:
        permutation = integers = None

    for name in ("random", "shuffle", "block"):
        found = openai.encode_batch(TEXTS, reduction=name, generator=Untouched())
        assert np.array_equal(found, openai.encode_batch(TEXTS))
        empty = openai.encode_batch([], 4, reduction=name, generator=Untouched())
        assert empty.shape == (0, 4)


def test_a_context_of_one_or_two_holds_no_ids(openai):
    for name in REDUCTIONS:
        options = {"reduction": name, "generator": np.random.default_rng(0)}
        if name.startswith("syntax"):
            options["reduction"] = SyntaxOrder(tagger=tag_by_table)
        assert set(openai.encode_batch(TEXTS, 1, **options)[:, 0]) == {49407}
        assert openai.encode_batch(TEXTS, 2, **options).tolist() == [[49406, 49407]] * len(TEXTS)


def test_mistakes_are_explained(openai, monkeypatch):
    for wrong in (None, 0, torch.Generator()):
        with pytest.raises(
            TokenizerError, match=r"default_rng\(seed\) or OpenClipGenerator.*, got"
        ):
            openai.encode_batch(TEXTS, 8, reduction="random", generator=wrong)
    with pytest.raises(TokenizerError, match="got 'shufle'; nearest is 'shuffle'"):
        find_reduction("shufle")

    def without_data(text):
        raise LookupError("punkt")

    put_nltk(monkeypatch, without_data)
    with pytest.raises(TokenizerError, match=r"nltk\.downloader"):
        openai.encode_batch(TEXTS, 8, reduction="syntax")
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(TokenizerError, match=r"clip-tokenizer\[syntax\]"):
        openai.encode_batch(TEXTS, 8, reduction="syntax")


def test_rows_take_by_index():
    rows = TokenRows(ids=np.array([5, 6, 7, 8], np.uint16), lengths=np.array([3, 0, 1]))
    taken = rows.take([np.array([2, 0]), np.array([], np.int64), np.array([0])])
    assert taken.to_list() == [[7, 5], [], [8]]
    assert rows.starts.tolist() == [0, 3, 3]
