from __future__ import annotations

import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from clip_tokenizer import HFTokenizer, TokenizerError, get_tokenizer

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "A photo of a Cat, sitting!",
    "",
    "don&#39;t   stop &amp; go",
    "it’s a naïve café",
    "unaffable",
    "a_b_c 42",
    "東京の猫",
    "a " * 100,
    "🙂 emoji",
]
CORPUS = [text.lower() for text in TEXTS] * 3 + ["the cat sat on the mat and the dog ran"] * 5


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert_directory(tmp_path_factory, transformers):
    """What `bert-base-uncased` looks like on disk, with a small vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("".join(CORPUS)) - {" "})
    words = ["cat", "photo", "the", "aff", "of", "##able", "##ting", "sit", "cafe", "naive"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def siglip_directory(tmp_path_factory, transformers):
    """What SigLIP's T5 tokenizer looks like on disk, with a small vocabulary."""
    folder = tmp_path_factory.mktemp("siglip")
    backend = tokenizers.SentencePieceUnigramTokenizer()
    backend.train_from_iterator(
        CORPUS,
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    pieces = json.loads(backend.to_str())["model"]["vocab"]
    fast = transformers.T5TokenizerFast(
        vocab=[(piece, score) for piece, score in pieces], extra_ids=0, pad_token="</s>"
    )
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("context_length", [3, 8, 32])
def test_word_piece_equals_open_clips_for_clipa(bert_directory, peer, context_length):
    theirs = peer.HFTokenizer(
        str(bert_directory), context_length=context_length, strip_sep_token=True
    )
    ours = HFTokenizer.from_directory(bert_directory, context_length=context_length, strip_sep=True)
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    plain = peer.HFTokenizer(str(bert_directory), context_length=context_length)
    kept = HFTokenizer.from_directory(bert_directory, context_length=context_length)
    assert torch.equal(kept(TEXTS), plain(TEXTS))
    assert not torch.equal(kept(TEXTS), ours(TEXTS))


def test_a_bare_word_piece_vocabulary_will_do(bert_directory, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((bert_directory / "vocab.txt").read_bytes())
    bare = HFTokenizer.from_directory(tmp_path, context_length=16)
    whole = HFTokenizer.from_directory(bert_directory, context_length=16)
    assert np.array_equal(bare.encode_batch(TEXTS), whole.encode_batch(TEXTS))


@pytest.mark.parametrize("context_length", [3, 16, 64])
def test_sentence_piece_equals_open_clips_for_siglip(siglip_directory, peer, context_length):
    theirs = peer.HFTokenizer(
        str(siglip_directory), context_length=context_length, clean="canonicalize"
    )
    ours = HFTokenizer.from_directory(
        siglip_directory, context_length=context_length, clean="canonicalize"
    )
    assert torch.equal(ours(TEXTS), theirs(TEXTS))
    assert ours.pad_token_id == 1
    assert ours.encode_batch(["cat"])[0, -1] == 1


def test_an_open_clip_directory_names_its_tokenizer(bert_directory, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert_directory / name).read_bytes())
    config = {
        "model_cfg": {
            "text_cfg": {
                "context_length": 12,
                "hf_tokenizer_name": "bert-base-uncased",
                "tokenizer_kwargs": {"strip_sep_token": True},
            }
        }
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = get_tokenizer(tmp_path)
    expected = HFTokenizer.from_directory(bert_directory, context_length=12, strip_sep=True)
    assert np.array_equal(found.encode_batch(TEXTS), expected.encode_batch(TEXTS))


CASED = ["A photo of a Cat", "it’s a naïve café", "東京の猫", "CAT cat", "a " * 20]


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"padding_side": "left"},
        {"padding_side": "left", "truncation_side": "left"},
    ],
)
def test_the_options_of_a_directory_count(bert_directory, tmp_path, peer, file, options):
    (tmp_path / file).write_bytes((bert_directory / file).read_bytes())
    config = {"tokenizer_class": "BertTokenizer", **options}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = peer.HFTokenizer(str(tmp_path), context_length=9)
    ours = HFTokenizer.from_directory(tmp_path, context_length=9)
    assert torch.equal(ours(CASED), theirs(CASED))
    plain = HFTokenizer.from_directory(bert_directory, context_length=9)
    assert not torch.equal(ours(CASED), plain(CASED))
    ours.save(tmp_path / "saved")
    again = HFTokenizer.from_directory(tmp_path / "saved")
    assert torch.equal(again(CASED), ours(CASED))
    theirs = peer.HFTokenizer(str(tmp_path / "saved"), context_length=9)
    assert torch.equal(again(CASED), theirs(CASED))


def test_the_side_in_tokenizer_json_counts(siglip_directory, tmp_path, peer):
    (tmp_path / "tokenizer_config.json").write_bytes(
        (siglip_directory / "tokenizer_config.json").read_bytes()
    )
    backend = tokenizers.Tokenizer.from_file(str(siglip_directory / "tokenizer.json"))
    backend.enable_padding(direction="left", pad_id=1, pad_token="</s>")
    backend.enable_truncation(4, direction="left")
    backend.save(str(tmp_path / "tokenizer.json"))
    theirs = peer.HFTokenizer(str(tmp_path), context_length=9)
    ours = HFTokenizer.from_directory(tmp_path, context_length=9)
    assert torch.equal(ours(TEXTS), theirs(TEXTS))


def test_the_backend_is_never_changed(bert_directory):
    backend = tokenizers.Tokenizer.from_file(str(bert_directory / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=3)
    before = backend.to_str()
    ours = HFTokenizer(backend, context_length=30)
    assert ours.lengths(["a " * 20]).tolist() == [22]
    ours.encode_batch(TEXTS)
    assert backend.to_str() == before


def test_threads_may_share_a_tokenizer(bert_directory):
    ours = HFTokenizer.from_directory(bert_directory, context_length=8)
    texts = ["the cat " * 20] * 8
    expected = {width: ours.encode_batch(texts, width) for width in (8, 16)}

    def work(width):
        for _ in range(50):
            assert np.array_equal(ours.encode_batch(texts, width), expected[width])
            assert ours.lengths(texts[:1]).tolist() == [42]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [8, 16, 8, 16]))


def test_the_special_tokens_must_fit(bert_directory, siglip_directory):
    bert = HFTokenizer.from_directory(bert_directory, context_length=8)
    assert bert.encode_batch(["a cat"], 2).tolist() == [[2, 3]]
    with pytest.raises(TokenizerError, match="at least 2, the tokenizer's special tokens, got 1"):
        bert.encode_batch("a cat", 1)
    siglip = HFTokenizer.from_directory(siglip_directory, context_length=8)
    assert siglip.encode_batch(["a cat"], 1).tolist() == [[1]]


def test_saving_and_loading_keeps_everything(bert_directory, tmp_path):
    saved = HFTokenizer.from_directory(
        bert_directory, context_length=9, clean="canonicalize", strip_sep=True
    )
    saved.save(tmp_path)
    loaded = get_tokenizer(tmp_path)
    assert isinstance(loaded, HFTokenizer)
    assert repr(loaded) == repr(saved)
    assert np.array_equal(loaded.encode_batch(TEXTS), saved.encode_batch(TEXTS))
    config = {"model": {"text": {"context_length": 6, "vocab_size": 32000}}}
    (tmp_path / "clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    beside_a_model = get_tokenizer(tmp_path)
    assert np.array_equal(beside_a_model.encode_batch(TEXTS), saved.encode_batch(TEXTS, 6))
    copy = pickle.loads(pickle.dumps(saved))
    assert np.array_equal(copy.encode_batch(TEXTS), saved.encode_batch(TEXTS))


def test_the_methods_are_those_of_tokenizer(bert_directory):
    tokenizer = HFTokenizer.from_directory(bert_directory, context_length=9)
    assert tokenizer([]).shape == (0, 9)
    assert tokenizer("a cat").shape == (1, 9)
    ids = tokenizer.encode("a cat")
    assert tokenizer.count("a cat") == len(ids) == 2
    assert tokenizer.lengths(["a cat", ""]).tolist() == [4, 2]
    assert tokenizer.decode(ids) == "a cat"
    assert tokenizer.decode(tokenizer("a cat")[0]) == "a cat"
    assert "[CLS]" in tokenizer.decode(tokenizer("a cat")[0], keep_special=True)
    assert tokenizer.encode_batch("a", dtype=np.int32).dtype == np.int32
    strict = HFTokenizer.from_directory(bert_directory, context_length=3, truncate="error")
    with pytest.raises(TokenizerError, match=r"texts\[1\] needs 4 tokens"):
        strict.encode_batch(["cat", "a cat"])
    with pytest.raises(TokenizerError, match=r"texts\[1\] must be a str"):
        tokenizer.encode_batch(["a", None])


def test_without_a_config_the_pad_id_can_be_given(siglip_directory, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((siglip_directory / "tokenizer.json").read_bytes())
    with pytest.raises(TokenizerError, match=r"no token '\[PAD\]'; pass pad_token_id"):
        HFTokenizer.from_directory(tmp_path, context_length=8)
    padded = HFTokenizer.from_directory(tmp_path, context_length=8, pad_token_id=2)
    assert padded.encode_batch(["cat"])[0, -1] == 2


def test_mistakes_are_explained(bert_directory, siglip_directory, tmp_path):
    with pytest.raises(TokenizerError, match="names no context length"):
        HFTokenizer.from_directory(bert_directory)
    with pytest.raises(TokenizerError, match=r"must hold tokenizer.json or vocab.txt"):
        HFTokenizer.from_directory(tmp_path, context_length=8)
    with pytest.raises(TokenizerError, match="a side must be 'left' or 'right', got 'up'"):
        HFTokenizer.from_directory(bert_directory, context_length=8, padding_side="up")
    with pytest.raises(TokenizerError, match=r"pad_token_id must be in \[0, "):
        HFTokenizer.from_directory(bert_directory, context_length=8, pad_token_id=-1)
    with pytest.raises(TokenizerError, match=r"no token '\[SEP\]'"):
        HFTokenizer.from_directory(siglip_directory, context_length=8, strip_sep=True)
