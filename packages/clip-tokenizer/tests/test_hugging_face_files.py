"""What we save, loaded by Hugging Face's libraries; where they differ from us by design."""

from __future__ import annotations

import json
import warnings

import pytest
from clip_tokenizer import Tokenizer

tokenizers = pytest.importorskip("tokenizers")

SAME = [
    "a photo of a cat",
    "A Photo, of 12 CATS! (really?)",
    "naïve café résumé",
    "नमस्ते สวัสดี 東京の猫 안녕 🙂👩🏽‍⚕️",
    "don't we'll  it's\n\ttab",
    "",
    "word " * 100,
]
DIFFERENT = {
    "an HTML entity": "don&#39;t",
    "a curly apostrophe": "it’s",
    "a ligature": "ﬁsh",
    "full-width letters": "ＡＢＣ",
    "mojibake": "cafÃ©",
    "a control character": "a\x07b",
}


@pytest.fixture(scope="module")
def saved(openai, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    openai.save(folder)
    return folder


@pytest.fixture(scope="module")
def backend(saved):
    return tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers")


def test_the_tokenizers_library_gives_the_same_ids(backend, openai):
    for text in SAME:
        assert backend.encode(text).ids == [49406, *openai.encode(text), 49407]


def test_transformers_gives_the_same_ids(saved, openai, transformers):
    loaded = transformers.AutoTokenizer.from_pretrained(str(saved))
    assert "CLIPTokenizer" in type(loaded).__name__
    assert (loaded.bos_token_id, loaded.eos_token_id) == (49406, 49407)
    assert loaded.model_max_length == 77
    for text in SAME:
        ids = loaded(text, truncation=True).input_ids
        assert ids == openai.encode_batch([text])[0, : len(ids)].tolist()


@pytest.mark.parametrize("text", DIFFERENT.values(), ids=DIFFERENT)
def test_the_differences_the_readme_lists(backend, openai, text):
    assert backend.encode(text).ids[1:-1] != openai.encode(text)


def test_special_tokens_in_a_caption(backend, openai):
    text = "a <end_of_text> b"
    assert backend.encode(text).ids.count(49407) == 2
    assert 49407 not in openai.encode(text)
    assert backend.encode(text).ids[1:-1] == Tokenizer.openai(allow_special=True).encode(text)


@pytest.mark.parametrize("clean", ["whitespace", "canonicalize"])
def test_the_other_cleaning_modes(tmp_path, clean):
    ours = Tokenizer.train(SAME * 2, 600, clean=clean)
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*SAME, "Snake_Case, C++ [x] {y} ~`^"]:
        assert theirs.encode(text).ids[1:-1] == ours.encode(text)


def test_a_trained_tokenizer_with_extra_tokens(tmp_path):
    ours = Tokenizer.train(SAME * 2, 600, extra_special_tokens=["<|x|>"], allow_special=True)
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*SAME, "a <|x|> b"]:
        assert theirs.encode(text).ids == [ours.sot_token_id, *ours.encode(text), ours.eot_token_id]


def test_decoding_gives_the_text_back(backend, openai):
    ids = openai.encode("a photo of a cat")
    assert backend.decode(ids).replace("</w>", " ").strip() == openai.decode(ids)


def test_our_settings_are_under_one_key(saved):
    config = json.loads((saved / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["clip_tokenizer"] == {
        "context_length": 77,
        "clean": "lower",
        "truncate": "eot",
        "allow_special": False,
        "pad_token_id": 0,
        "reduction": "truncate",
        "extra_special_tokens": [],
    }
