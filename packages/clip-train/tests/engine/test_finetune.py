"""From a folder and a table of captions to a fine-tuned model and its retrieval report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from clip_eval.cli.main import main as evaluate
from clip_eval.data import open_source
from clip_models import CLIP, CLIPConfig, create_model, save_model
from clip_models.config import PreprocessConfig
from clip_models.files import load_config
from clip_tokenizer import Tokenizer
from clip_train.cli.main import main
from PIL import Image

MODEL = {
    "embed_dim": 16,
    "vision": {
        "kind": "vit",
        "image_size": 32,
        "patch_size": 16,
        "width": 16,
        "num_layers": 1,
        "num_heads": 2,
    },
    "text": {"width": 16, "num_layers": 1, "num_heads": 2, "context_length": 16},
}
LENGTH = ("--epochs", "2", "--batch-size", "8", "--workers", "0")


@pytest.fixture
def table(shapes: Path, tmp_path: Path) -> Path:
    """Photographs of one's own: a folder, and a CSV of file names and captions."""
    source = open_source(f"wds:{shapes}/train")
    lines = ["filepath,title"]
    (tmp_path / "photos").mkdir()
    for index in range(60):
        sample = source.read(index)
        assert isinstance(sample.image, bytes)
        (tmp_path / "photos" / f"{index}.jpg").write_bytes(sample.image)
        lines.append(f'photos/{index}.jpg,"{sample.captions[0]}"')
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    return tmp_path / "captions.csv"


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A model with a vocabulary and a preprocessing of its own."""
    tokenizer = Tokenizer.train(["a red circle", "a blue square"] * 5, 520, context_length=16)
    text = {**MODEL["text"], "vocab_size": tokenizer.vocab_size}
    text["eot_token_id"] = tokenizer.eot_token_id
    torch.manual_seed(0)
    model = CLIP(CLIPConfig.from_dict({**MODEL, "text": text}))
    preprocess = PreprocessConfig(size=32, mean=(0.5, 0.4, 0.3), std=(0.3, 0.3, 0.3))
    save_model(tmp_path / "clip", model, preprocess)
    tokenizer.save(tmp_path / "clip")
    return tmp_path / "clip"


def test_a_table_of_captions_fine_tunes_a_model(
    table: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    keys = ("--model.pretrained", pretrained, "--data.train", f"csv:{table}")
    words = ("run", "finetune", *keys, *LENGTH, "--out", out, "--optim.lr", "1e-3")
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("text_retrieval_recall@1" in key for row in rows for key in row), rows
    saved, given = Tokenizer.from_pretrained(out), Tokenizer.from_pretrained(pretrained)
    assert saved.encode("a red circle") == given.encode("a red circle")
    assert load_config(out)[1] == load_config(pretrained)[1]  # its preprocessing too
    before, after = create_model(pretrained), create_model(out)
    assert not torch.equal(before.state_dict()["logit_scale"], after.state_dict()["logit_scale"])
    report = ("run", "--model", out, "--data", f"csv:{table}")
    command = (*report, "--task", "retrieval", "--out", tmp_path / "report", "--workers", "0")
    assert evaluate([str(word) for word in command]) == 0
    assert list((tmp_path / "report").rglob("*.html"))


def test_one_s_own_photos_are_trained_at_a_size_that_fits_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(24):
        folder = tmp_path / "photos" / ("left", "right")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 120), (9 * index, 50, 80)).save(folder / f"{index}.jpg")
    words = ("run", "photos-small", "--data.train", f"imagefolder:{tmp_path / 'photos'}")
    size = ("--model.vision.width", "96", "--model.vision.num_layers", "1")
    prompts = ("--data.templates", "a photo from the {c}.")
    short = (
        "--data.holdout",
        "0.5",
        "--steps",
        "1",
        "--batch-size",
        "4",
        "--workers",
        "0",
        "--tokenizer.vocab_size",
        "520",
    )
    code = main([*words, *size, *prompts, *short, "--model.text.num_layers", "1", "--dry-run"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "112" in printed.out
