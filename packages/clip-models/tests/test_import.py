"""Importing the package imports nothing heavy; a model needs torch and nothing else."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"torchvision", "PIL", "huggingface_hub", "transformers", "open_clip", "timm", "onnx"}


def test_import_leaves_the_heavy_and_the_optional_alone() -> None:
    loaded = modules_after("import clip_models")
    assert "torch" not in loaded
    assert not loaded & HEAVY
    loaded = modules_after("from clip_models import CLIP, load_model, save_model")
    assert "torch" in loaded
    assert not loaded & HEAVY


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
