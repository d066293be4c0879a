"""A converted model gives another library's user our logits: a picture and words in, end to end."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_models import (
    CLIP,
    CLIPConfig,
    Preprocess,
    get_config,
    load_model,
    save_model,
    save_pretrained,
)
from clip_models.cli import main
from clip_models.config import (
    ModifiedResNetConfig,
    PreprocessConfig,
    TextConfig,
    TokenizerConfig,
    ViTConfig,
    named_models,
)
from clip_tokenizer import HFTokenizer, Tokenizer, get_tokenizer
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what transformers imports in its turn
    from transformers import AutoModel, AutoProcessor, AutoTokenizer, pipeline

WORDS = ["A photo of a dog.", "two BLUE squares_and, don't you think?", "a", "café zzz " * 40]
SMALL = {"width": 32, "num_layers": 1, "num_heads": 2}
VIT = ViTConfig(image_size=32, patch_size=8, **SMALL)
PREPROCESS = PreprocessConfig(size=32, mean=(0.4, 0.5, 0.6), std=(0.3, 0.3, 0.2))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((64, 44), Image.Resampling.BICUBIC).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def trained(**options: Any) -> Tokenizer:
    texts = ["a photo of a dog", "two blue squares", "a café, don't you think"] * 3
    return Tokenizer.train(texts, 560, context_length=20, **options)


def make_model(tokenizer: Any, **values: Any) -> CLIP:
    torch.manual_seed(0)
    text = TextConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
        eot_token_id=getattr(tokenizer, "eot_token_id", None),
        **SMALL,
    )
    config = CLIPConfig(**{"embed_dim": 16, "vision": VIT, "text": text, **values})
    return CLIP(config).eval()


def save(folder: Path, model: CLIP, tokenizer: Any = None, preprocess: Any = PREPROCESS) -> Path:
    save_model(folder, model, preprocess)
    if tokenizer is not None:
        tokenizer.save(folder)
    return folder


def convert(source: Path, to: str, *more: str) -> Path:
    out = source.with_name(f"{source.name}-{to}")
    assert main(["convert", str(source), "--to", to, "--out", str(out), *more]) == 0
    return out


@torch.no_grad()
def our_logits(folder: Path, picture: Path) -> torch.Tensor:
    model, config = load_model(folder)
    tokenizer, preprocess = get_tokenizer(folder), Preprocess(config)
    pixels = preprocess.normalize(preprocess(Image.open(picture))[None])
    output = model(pixels, tokenizer(WORDS))
    logits = output.logit_scale * output.image_features @ output.text_features.T
    return logits[0] if output.logit_bias is None else logits[0] + output.logit_bias


@torch.no_grad()
def their_logits(folder: Path, picture: Path, **options: Any) -> torch.Tensor:
    processor = AutoProcessor.from_pretrained(folder, **options)
    model = AutoModel.from_pretrained(folder).eval()
    siglip = model.config.model_type == "siglip"
    inputs = processor(
        text=WORDS,
        images=Image.open(picture),
        return_tensors="pt",
        padding="max_length" if siglip else True,
        truncation=True,
    )
    return model(**inputs).logits_per_image[0]


@torch.no_grad()
def open_clip_logits(folder: Path, picture: Path) -> torch.Tensor:
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    image = model.encode_image(transform(Image.open(picture))[None], normalize=True)
    text = model.encode_text(open_clip.get_tokenizer(name)(WORDS), normalize=True)
    logits = model.logit_scale.exp() * image @ text.T
    return (logits if model.logit_bias is None else logits + model.logit_bias)[0]


def added(folder: Path) -> Any:
    """The trained tokenizer with a token that transformers added."""
    trained().save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.add_tokens(["zzz"])
    theirs.save_pretrained(folder)
    return Tokenizer.from_pretrained(folder)


KINDS: dict[str, Callable[[Path], Any]] = {
    "OpenAI's vocabulary": lambda folder: Tokenizer.openai(context_length=20),
    "a trained one": lambda folder: trained(),
    "bytes": lambda folder: Tokenizer.from_bytes(context_length=77),
    "case kept": lambda folder: trained(clean="whitespace"),
    "without punctuation": lambda folder: trained(clean="canonicalize"),
    "an added token": added,
    "an extra token": lambda folder: trained(extra_special_tokens=["<x>"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_logits_in_transformers_and_open_clip(
    tmp_path: Path, picture: Path, kind: str
) -> None:
    tokenizer = KINDS[kind](tmp_path / "words")
    source = save(tmp_path / "run", make_model(tokenizer), tokenizer)
    ours = our_logits(source, picture)
    assert len(set(ours.tolist())) == len(WORDS)
    theirs = convert(source, "hugging-face")
    exact = their_logits(theirs, picture, backend="pil")
    torch.testing.assert_close(exact, ours, rtol=0, atol=1e-4)
    default = their_logits(theirs, picture)  # which rounds resized pixels once more
    torch.testing.assert_close(default, ours, rtol=0, atol=0.05)
    theirs = open_clip_logits(convert(source, "open-clip"), picture)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    for to in ("hugging-face", "open-clip"):  # and back, with the tokenizer
        back = tmp_path / f"back-{to}"
        command = ["convert", f"{source}-{to}", "--to", "clip-models", "--out", str(back)]
        assert main(command) == 0
        if kind != "without punctuation" or to == "open-clip":
            torch.testing.assert_close(our_logits(back, picture), ours, rtol=0, atol=1e-5)


def test_the_pipeline_of_transformers(tmp_path: Path, picture: Path) -> None:
    source = save(tmp_path / "run", make_model(trained()), trained())
    ours = our_logits(source, picture)[:3].softmax(0)
    classify = pipeline(
        "zero-shot-image-classification", model=str(convert(source, "hugging-face"))
    )
    found = classify(str(picture), candidate_labels=WORDS[:3], hypothesis_template="{}")
    scores = {row["label"]: row["score"] for row in found}
    for word, expected in zip(WORDS[:3], ours.tolist(), strict=True):
        assert scores[word] == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-quickgelu", "RN50"])
def test_weight_files_of_named_models(
    tmp_path: Path, picture: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named models at small sizes; the file knows no tokenizer, the name does."""
    config = get_config(name)
    vision: Any = dataclasses.replace(VIT, activation=config.text.activation)
    if isinstance(config.vision, ModifiedResNetConfig):
        vision = ModifiedResNetConfig(image_size=32, layers=(1, 1, 1, 1), width=8, num_heads=4)
    text = dataclasses.replace(config.text, **SMALL)
    config = dataclasses.replace(config, embed_dim=16, vision=vision, text=text)
    monkeypatch.setitem(named_models._CONFIGS, name, config)
    torch.manual_seed(0)
    model = CLIP(config).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch.pt")
    weights = tmp_path / "epoch.pt"
    ours = our_logits(convert(weights, "clip-models", "--model", name), picture)
    found = open_clip_logits(convert(weights, "open-clip", "--model", name), picture)
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)
    if name != "RN50":
        theirs = convert(weights, "hugging-face", "--model", name)
        found = their_logits(theirs, picture, backend="pil")
        torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)


def sentence_pieces(folder: Path) -> HFTokenizer:
    """A small tokenizer of SigLIP's kind."""
    tokenizers = pytest.importorskip("tokenizers")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyzé'.,?_BLUEA"]
    pieces += [("▁a", -1.0), ("▁photo", -1.5), ("▁dog", -1.5)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return HFTokenizer(backend, context_length=64, clean="canonicalize", pad_token_id=1)


def test_siglip_with_sentence_pieces(tmp_path: Path, picture: Path) -> None:
    tokenizer = sentence_pieces(tmp_path)
    named = get_config("ViT-B-16-SigLIP")
    config = dataclasses.replace(
        named,
        embed_dim=32,
        vision=dataclasses.replace(named.vision, image_size=32, patch_size=8, **SMALL),
        text=dataclasses.replace(named.text, vocab_size=tokenizer.vocab_size, **SMALL),
    )
    torch.manual_seed(0)
    preprocess = PreprocessConfig(size=32, resize_mode="squash")
    source = save(tmp_path / "run", CLIP(config).eval(), tokenizer, preprocess)
    ours = our_logits(source, picture)
    assert len(set(ours.tolist())) == len(WORDS)
    found = their_logits(convert(source, "hugging-face"), picture, backend="pil")
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)


def test_a_tower_that_reads_padding_with_sentence_pieces_in_open_clip(
    tmp_path: Path, picture: Path
) -> None:
    tokenizer = sentence_pieces(tmp_path)
    text = TextConfig(
        vocab_size=tokenizer.vocab_size, context_length=64, causal=False, readout="last", **SMALL
    )
    source = save(tmp_path / "run", make_model(tokenizer, text=text), tokenizer)
    found = open_clip_logits(convert(source, "open-clip"), picture)
    torch.testing.assert_close(found, our_logits(source, picture), rtol=0, atol=1e-4)


def test_a_checkpoint_has_the_tokenizer_of_its_run(tmp_path: Path, picture: Path) -> None:
    tokenizer = trained()
    run = save(tmp_path / "run", make_model(tokenizer), tokenizer)
    checkpoint = save(run / "checkpoints" / "step-0000001", make_model(tokenizer))
    theirs = tmp_path / "theirs"
    assert main(["convert", str(checkpoint), "--to", "hugging-face", "--out", str(theirs)]) == 0
    found = their_logits(theirs, picture, backend="pil")
    torch.testing.assert_close(found, our_logits(run, picture), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("to", "tokenizer", "values", "words"),
    [
        ("hugging-face", {"reduction": "random"}, {}, "the reduction 'random' of this tokenizer"),
        ("open-clip", {"reduction": "random"}, {}, "the reduction 'random' of this tokenizer"),
        ("open-clip", {}, {"causal": False, "readout": "last"}, "sees padding"),
        ("open-clip", {}, {"eot_token_id": 3}, "end with the token {end}, and the model reads"),
        ("hugging-face", {}, {"vocab_size": 49408}, "has only {size} ids and the model 49,408"),
        ("clip-models", {}, {"vocab_size": 500}, "has {size} ids and the model only 500"),
        ("hugging-face", {}, {"causal": False, "readout": "last"}, "text.causal is False, not"),
        ("hugging-face", {}, {"tokenizer": TokenizerConfig(name="org/x")}, ""),
    ],
)
def test_what_cannot_be_said_there_is_refused_before_anything_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    to: str,
    tokenizer: dict[str, Any],
    values: dict[str, Any],
    words: str,
) -> None:
    known = trained(**tokenizer)
    text = {
        "vocab_size": known.vocab_size,
        "context_length": known.context_length,
        "eot_token_id": known.eot_token_id,
    }
    config = CLIPConfig(embed_dim=32, vision=VIT, text=TextConfig(**{**text, **values, **SMALL}))
    source = save(tmp_path / "run", CLIP(config), known)
    out = tmp_path / "out"
    code = main(["convert", str(source), "--to", to, "--out", str(out)])
    assert code == (2 if words else 0)
    if words:
        shown = capsys.readouterr().err
        assert words.format(size=known.vocab_size, end=known.eot_token_id) in shown
        assert shown.startswith("clip-models: error: ")
        assert shown.count("\n") == 1
        assert not out.exists()


def test_without_a_tokenizer_it_is_said_and_transformers_makes_none_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "run", make_model(trained()))
    theirs = convert(source, "hugging-face")
    assert "note: no tokenizer is written" in capsys.readouterr().err
    with pytest.raises((OSError, ValueError, TypeError)):
        AutoTokenizer.from_pretrained(theirs)
    trained().save(tmp_path / "words")
    convert(source, "hugging-face", "--tokenizer", str(tmp_path / "words"), "--overwrite")
    ids = AutoTokenizer.from_pretrained(theirs)(WORDS[0]).input_ids
    assert ids[1:-1] == trained().encode(WORDS[0])
    trained().save(source)
    convert(source, "open-clip", "--tokenizer", "none")
    assert "no tokenizer is written: as asked" in capsys.readouterr().err


def test_no_file_of_an_earlier_tokenizer_stays(tmp_path: Path) -> None:
    source = save(tmp_path / "run", make_model(trained()), trained())
    theirs = convert(source, "hugging-face")
    (theirs / "special_tokens_map.json").write_text('{"eos_token": "a</w>"}')
    convert(source, "hugging-face", "--overwrite")
    assert not (theirs / "special_tokens_map.json").exists()
    (theirs / "notes.txt").write_text("mine")
    convert(source, "hugging-face", "--overwrite")
    assert (theirs / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["OpenAI's vocabulary", "a trained one", "bytes", "case kept"])
def test_a_model_saved_with_its_tokenizer_tells_open_clip_of_it(
    kind: str, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    tokenizer = KINDS[kind](tmp_path / "own")
    tokenizer.save(tmp_path / "own")
    model = make_model(tokenizer)
    files = sorted((tmp_path / "own").iterdir())
    save_pretrained(tmp_path / "out", model, PREPROCESS, files=files)
    theirs = open_clip_logits(tmp_path / "out", picture)
    assert torch.allclose(theirs, our_logits(tmp_path / "out", picture), atol=1e-4)


def test_open_clip_is_not_given_a_model_whose_tokenizer_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    tokenizer = trained(reduction="syntax")
    tokenizer.save(tmp_path / "own")
    files = sorted((tmp_path / "own").iterdir())
    written = save_pretrained(tmp_path / "out", make_model(tokenizer), PREPROCESS, files=files)
    assert "model.safetensors" in {path.name for path in written}
    assert not [path for path in written if path.name.startswith("open_clip")]
