"""`osf train` with models of libraries on images, on images with class prompts, and on texts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from osf_supernet.cli import main
from osf_supernet.commands.runs import _learning_rate
from osf_supernet.training.experiment import from_image_folder
from osf_supernet.training.text_files import from_text_folder
from safetensors.torch import load_file

pytestmark = pytest.mark.filterwarnings("ignore")  # what other libraries warn of
WORDS = ["a", "photo", "of", "blue", "red", "."]


@pytest.fixture
def pets(tmp_path):
    from PIL import Image

    for part, count in (("train", 8), ("val", 4)):
        for name, color in (("blue", (40, 40, 200)), ("red", (200, 40, 40))):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = Image.new("RGB", (8, 8), tuple(c + index for c in color))
                pixels.save(tmp_path / "pets" / part / name / f"{index}.png")
    return str(tmp_path / "pets")


def write_tokenizer(folder, last=49):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", *WORDS])} | {"<end>": last}
    found = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    found.pre_tokenizer = Whitespace()
    found.post_processor = TemplateProcessing("$A <end>", special_tokens=[("<end>", last)])
    PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="<pad>", eos_token="<end>"
    ).save_pretrained(folder)


def save(build, name, folder):
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, _ = build(name)
    model.float().save_pretrained(folder)
    return f"transformers:{folder}"


def train(model, *words, out, steps=25):
    options = ["--steps", str(steps), "--lr", "0.003", "--batch-size", "8", "--quiet"]
    return main(["train", model, *words, *options, "--out", str(out)])


@pytest.mark.parametrize(
    "name", ["hf_vit", pytest.param("hf_swin", marks=pytest.mark.slow), "hf_swinv2"]
)
def test_image_classifiers_of_transformers(name, build, pets, tmp_path, capsys):
    model = save(build, name, tmp_path / name)
    out = tmp_path / "net"
    words = ["--images", pets, "--num-classes", "2", "--workers", "2", "--schedule", "cosine"]
    assert train(model, *words, "--warmup", "2", out=out) == 0
    score = capsys.readouterr().out.split("largest: score ")[1].split()[0]
    assert float(score) > 80
    if name == "hf_vit":
        small = str(tmp_path / "small")
        words = ["--supernet", str(out), "--images", pets, "--num-classes", "2", "--quiet"]
        assert main(["extract", model, *words, "--max-params", "80%", "--out", small]) == 0
        assert main(["resume", str(out), "--steps", "26", "--quiet"]) == 0


def test_weights_stored_in_half_precision_are_trained_in_single(build, pets, tmp_path, capsys):
    from transformers import ViTForImageClassification

    folder = tmp_path / "half"
    save(build, "hf_vit", folder)
    ViTForImageClassification.from_pretrained(folder).half().save_pretrained(folder)
    model, out = f"transformers:{folder}", tmp_path / "net"
    words = ["--images", pets, "--num-classes", "2"]
    assert train(model, *words, out=out, steps=2) == 0
    types = {tensor.dtype for tensor in load_file(out / "model.safetensors").values()}
    assert types == {torch.float32}
    small = ["extract", model, "--num-classes", "2", "--quiet", "--max-params", "80%"]
    assert main([*small, "--supernet", str(out), "--out", str(tmp_path / "one")]) == 0
    assert main([*small, "--out", str(tmp_path / "two")]) == 0
    for name, expected in (("one", torch.float32), ("two", torch.float16)):
        tensors = load_file(tmp_path / name / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {expected}


def test_both_towers_of_a_clip_of_transformers(build, pets, tmp_path, capsys):
    folder = tmp_path / "clip"
    model = save(build, "hf_clip", folder)
    assert train(model, "--images", pets, out=tmp_path / "net") == 2
    assert "has no tokenizer" in capsys.readouterr().err
    write_tokenizer(folder)
    before = load_file(folder / "model.safetensors")
    out = tmp_path / "net"
    assert train(model, "--images", pets, "--precision", "bf16", out=out) == 0
    printed = capsys.readouterr().out
    assert float(printed.split("largest: score ")[1].split()[0]) > 80
    after = load_file(out / "model.safetensors")
    changed = {name.split(".")[0] for name, x in before.items() if not torch.equal(x, after[name])}
    assert {"text_model", "vision_model", "text_projection"} <= changed


def test_a_clip_of_clip_models(pets, tmp_path, capsys):
    import clip_models
    from clip_models.config import TextConfig, ViTConfig
    from clip_tokenizer import Tokenizer

    text = TextConfig(context_length=10, vocab_size=514, width=24, num_layers=2, num_heads=3)
    vit = ViTConfig(image_size=16, patch_size=8, width=32, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    full = clip_models.CLIP(clip_models.CLIPConfig(embed_dim=12, vision=vit, text=text))
    preprocess = clip_models.create_model_and_transforms(full.config).evaluate.config
    clip_models.save_model(tmp_path / "clip", full, preprocess)
    Tokenizer.from_bytes().save(tmp_path / "clip")
    words = [f"clip-models:{tmp_path / 'clip'}", "--images", pets]
    assert train(*words, out=tmp_path / "net") == 2
    assert "prompts of blue and red have the same 10 tokens" in capsys.readouterr().err
    assert train(*words, "--template", "{}", out=tmp_path / "net") == 0
    assert float(capsys.readouterr().out.split("largest: score ")[1].split()[0]) > 80


def test_a_clip_of_open_clip(pets, tmp_path, capsys):
    import open_clip

    vision = {"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "head_width": 8}
    text = {"context_length": 10, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    settings = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "Tiny-for-osf.json").write_text(json.dumps(settings))
    open_clip.add_model_config(tmp_path / "Tiny-for-osf.json")
    words = ["open_clip:Tiny-for-osf", "--images", pets, "--template", "one {}"]
    assert train(*words, out=tmp_path / "net") == 0
    assert float(capsys.readouterr().out.split("largest: score ")[1].split()[0]) > 80


def test_mamba_on_texts(build, tmp_path, capsys):
    model = save(build, "hf_mamba", tmp_path / "mamba")
    for part in ("train", "val"):
        (tmp_path / f"{part}.txt").write_text("a photo of blue . a photo of red . " * 12)
    words = ["--texts", str(tmp_path), "--context-length", "12", "--weight-decay", "0"]
    assert train(model, *words, out=tmp_path / "net") == 2
    assert "has no tokenizer" in capsys.readouterr().err  # and fewer ids than there are bytes
    write_tokenizer(tmp_path / "mamba")
    assert train(model, *words, out=tmp_path / "net", steps=80) == 0
    score = capsys.readouterr().out.split("largest: score ")[1].split()[0]
    assert -3 < float(score) < -1


def test_perplexity_of_a_text_counts_every_token_once(tmp_path):
    text = bytes(i % 7 for i in range(23))
    for part in ("train", "val"):
        (tmp_path / f"{part}.txt").write_bytes(text)
    made = from_text_folder(tmp_path, lambda x: list(x.encode()), length=5, batch_size=2)
    torch.manual_seed(0)
    table = torch.nn.Embedding(7, 7)
    logits = table(torch.tensor(list(text))[:-1])
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(list(text))[1:])
    assert made.evaluate(table) == pytest.approx(-math.exp(loss))


def test_workers_and_prompts_change_nothing_but_what_they_say(pets):
    plain = from_image_folder(pets, image_size=8, batch_size=6)
    other = from_image_folder(
        pets, image_size=8, batch_size=6, workers=2, prompts=torch.tensor([[5], [7]])
    )
    (images, labels), (same, tokens) = plain.batch_of(3), other.batch_of(3)
    assert torch.equal(images, same)
    assert torch.equal(tokens[:, 0], 5 + 2 * labels)
    scaled = from_image_folder(
        pets, image_size=8, batch_size=6, normalization=((0.0,) * 3, (1.0,) * 3)
    )
    assert scaled.batch_of(3)[0].min() >= 0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1, 2, 2, 2]), ("linear", [1, 2, 2, 1]), ("cosine", [1, 2, 2, 1])],
)
def test_the_learning_rate(schedule, expected):
    from argparse import Namespace

    options = Namespace(lr=2.0, warmup=2, steps=4, schedule=schedule)
    assert [_learning_rate(options, step) for step in range(4)] == pytest.approx(expected)


def test_what_does_not_fit_is_said(build, pets, tmp_path, capsys):
    model = save(build, "hf_mamba", tmp_path / "mamba")
    (tmp_path / "osf_headless.py").write_text(
        "import torch\ndef make(): return torch.nn.Conv2d(3, 4, 1), torch.zeros(2, 3, 8, 8)\n"
        "def one():\n    layers = torch.nn.Flatten(), torch.nn.Linear(192, 1)\n"
        "    return torch.nn.Sequential(*layers), torch.zeros(2, 3, 8, 8)\n"
    )
    sys.path.insert(0, str(tmp_path))
    for words, message in (
        ([model, "--images", pets], "--images needs a model"),
        (["osf_headless:make", "--images", pets], "no logits (B, classes)"),
        (["osf_headless:one", "--images", pets], "has 2 classes and osf_headless:one 1"),
        (["osf_headless:one", "--texts", pets], "--texts needs a language model"),
        (["osf_headless:one", "--num-classes", "2", "--images", pets], "--num-classes is for"),
    ):
        assert train(*words, out=tmp_path / "net") == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    sys.path.remove(str(tmp_path))


@pytest.mark.slow
def test_two_processes_train_what_one_does(build, pets, tmp_path):
    write_tokenizer(tmp_path / "clip")
    model = save(build, "hf_clip", tmp_path / "clip")
    words = ["train", model, "--images", pets, "--steps", "3", "--device", "auto"]
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={processes}", str(tmp_path / "osf_run.py")]
        (tmp_path / "osf_run.py").write_text("from osf_supernet.cli import main\nexit(main())\n")
        command += [*words, "--batch-size", str(8 // processes), "--out", str(out)]
        subprocess.run(command, check=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        found.append(load_file(out / "model.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=2e-4)
