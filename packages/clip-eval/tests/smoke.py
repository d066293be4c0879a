"""Run by the isolation session: the installed wheels evaluate a saved model."""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from clip_models import CLIP, get_config, save_model
from clip_models.config import PreprocessConfig
from clip_tokenizer import Tokenizer
from PIL import Image

with tempfile.TemporaryDirectory() as directory:
    root = Path(directory)
    config = get_config("Compact-32")
    tokenizer = Tokenizer.from_bytes(context_length=config.text.context_length)
    text = replace(config.text, vocab_size=tokenizer.vocab_size)
    save_model(root / "model", CLIP(replace(config, text=text)), PreprocessConfig(size=32))
    tokenizer.save(root / "model")
    for name in ("cat", "dog"):
        (root / "data" / name).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(root / "data" / name / "1.png")
    command = Path(sys.executable).with_name("clip-eval")
    arguments = ("run", "--model", "model", "--data", "data", "--out", "out")
    subprocess.run([command, *arguments], cwd=root, check=True)
    assert json.loads((root / "out" / "result.json").read_text())["n"] == 2
print("clip-eval works")
