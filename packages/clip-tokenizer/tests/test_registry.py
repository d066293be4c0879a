from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clip_tokenizer import Tokenizer, TokenizerError, get_tokenizer
from clip_tokenizer.registry import find_text_config


def open_clip_configs():
    try:
        installed = files("open_clip_torch") or []
    except PackageNotFoundError:
        return {}
    paths = [Path(str(file.locate())) for file in installed if "model_configs/" in str(file)]
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in paths
        if path.suffix == ".json"
    }


def test_the_table_agrees_with_open_clips_configs():
    configs = open_clip_configs()
    if not configs:
        pytest.skip("open_clip_torch is not installed")
    known = 0
    for name, config in configs.items():
        text = config["text_cfg"]
        try:
            found = find_text_config(name)
        except TokenizerError:
            # only families with a tokenizer of their own that we do not claim
            assert text.get("hf_tokenizer_name") or text["vocab_size"] != 49408, name
            assert "SigLIP" not in name
            assert "CLIPA" not in name
            continue
        known += 1
        assert found == {
            "context_length": text.get("context_length", 77),
            "hf_tokenizer_name": text.get("hf_tokenizer_name"),
            "tokenizer_kwargs": text.get("tokenizer_kwargs", {}),
        }, name
    assert known > 120


def test_tokenizers_by_name(openai):
    found = get_tokenizer("ViT-B-32")
    assert isinstance(found, Tokenizer)
    assert found.vocabulary == openai.vocabulary
    assert get_tokenizer("coca_ViT-L-14").context_length == 76
    chosen = get_tokenizer("PE-Core-B-16", context_length=9, clean="whitespace")
    assert (chosen.context_length, chosen.clean) == (9, "whitespace")


@pytest.mark.parametrize(
    "config",
    [
        {"model_cfg": {"text_cfg": {"context_length": 9, "vocab_size": 49408}}},
        {"text_cfg": {"context_length": 9}},
        {"model": {"text": {"context_length": 9, "vocab_size": 49408}, "embed_dim": 8}},
        {"text": {"context_length": 9, "vocab_size": 49408}},
        SimpleNamespace(text=SimpleNamespace(context_length=9, vocab_size=49408)),
    ],
)
def test_tokenizers_by_config(config):
    found = get_tokenizer(config)
    assert (found.context_length, found.vocab_size) == (9, 49408)
    assert get_tokenizer(config, context_length=5).context_length == 5


@pytest.mark.parametrize("words", ["open_clip", "ours", "object"])
def test_options_in_a_config_count(words):
    options = {"clean": "canonicalize", "reduction_mask": "simple"}
    text = {"vocab_size": 49408, "tokenizer_kwargs": options}
    if words != "open_clip":
        text = {"vocab_size": 49408, "tokenizer": {"name": "clip", "options": options}}
    config = {"text": text}
    if words == "object":
        tokenizer = SimpleNamespace(name="clip", options=options)
        config = SimpleNamespace(text=SimpleNamespace(vocab_size=49408, tokenizer=tokenizer))
    found = get_tokenizer(config)
    assert (found.clean, found.reduction) == ("canonicalize", "block")
    assert get_tokenizer(config, clean="lower").clean == "lower"


@pytest.mark.parametrize("name", ["additional_special_tokens", "strip_sep_token", "nonsense"])
def test_an_option_of_a_config_that_is_not_known_is_refused(name):
    with pytest.raises(TokenizerError, match=f"asks for {name}, .* expected clean, red"):
        get_tokenizer({"text_cfg": {"vocab_size": 49408, "tokenizer_kwargs": {name: ["<x>"]}}})


def test_a_tokenizer_mode_is_refused():
    with pytest.raises(TokenizerError, match="asks for tokenizer_mode"):
        get_tokenizer({"text_cfg": {"vocab_size": 49408, "tokenizer_mode": "clips"}})


def test_directories_of_this_package_and_of_open_clip(tmp_path):
    saved = Tokenizer.train(["abc abc"] * 3, 520, context_length=5)
    saved.save(tmp_path)
    assert repr(get_tokenizer(tmp_path)) == repr(saved)
    config = {"model_cfg": {"text_cfg": {"context_length": 7, "vocab_size": 520}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = get_tokenizer(str(tmp_path))
    assert found.context_length == 7
    assert np.array_equal(found.encode_batch(["abc"]), saved.encode_batch(["abc"], 7))


def test_a_clip_models_directory(tmp_path):
    config = {"model": {"text": {"context_length": 7, "vocab_size": 49408}}, "preprocess": {}}
    (tmp_path / "clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert repr(get_tokenizer(tmp_path)) == repr(Tokenizer.openai(context_length=7))
    saved = Tokenizer.train(["abc abc"] * 3, 520, context_length=7)
    saved.save(tmp_path)
    assert repr(get_tokenizer(tmp_path)) == repr(saved)


def test_saved_files_hold_their_options(tmp_path):
    saved = Tokenizer.train(["abc abc"] * 3, 520, context_length=7)
    saved.save(tmp_path)  # as after a training that began with another model's config
    tokenizer = {"name": "timm/ViT-B-16-SigLIP", "options": {"clean": "canonicalize"}}
    config = {"model": {"text": {"context_length": 5, "tokenizer": tokenizer}}}
    (tmp_path / "clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = get_tokenizer(tmp_path)
    assert (found.clean, found.context_length) == ("lower", 5)
    assert found.vocabulary == saved.vocabulary


def test_an_open_clip_directory_without_tokenizer_files_means_openais(tmp_path):
    config = {"model_cfg": {"text_cfg": {"context_length": 7, "vocab_size": 49408}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = get_tokenizer(tmp_path)
    assert (found.context_length, found.vocab_size) == (7, 49408)


def test_names_of_clip_models():
    assert get_tokenizer("Compact-32").context_length == 32
    shortened = get_tokenizer("ViT-L-16-CL8-Syntax-GAP")
    assert (shortened.context_length, shortened.reduction) == (8, "syntax-clipa")


def test_a_misspelled_name_is_refused():
    with pytest.raises(TokenizerError, match=r"'ViT-B-16-SigLp' \(did you mean 'ViT-B-16-SigLIP'"):
        get_tokenizer("ViT-B-16-SigLp")
    with pytest.raises(TokenizerError) as caught:
        get_tokenizer("ViT-H-14-worldwide")  # not misspelled: its tokenizer is not known here
    assert "did you mean" not in str(caught.value)


def test_unknown_tokenizers_are_refused(tmp_path):
    for name in ("ViT-H-14-worldwide", "nllb-clip-base-siglip", "nonsense"):
        with pytest.raises(TokenizerError, match=f"no tokenizer is known for the model '{name}'"):
            get_tokenizer(name)
    with pytest.raises(TokenizerError, match="no tokenizer is known for a vocabulary of 600 ids"):
        get_tokenizer({"text_cfg": {"vocab_size": 600}})
    with pytest.raises(TokenizerError, match="got dict with the keys vision_cfg"):
        get_tokenizer({"vision_cfg": {}})
    with pytest.raises(TokenizerError, match=r"got int with the keys \(none\)"):
        get_tokenizer(7)
    with pytest.raises(TokenizerError, match="must hold tokenizer"):
        get_tokenizer(tmp_path)
