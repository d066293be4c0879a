"""Importing the package imports nothing heavy beside torch."""

from __future__ import annotations

import subprocess
import sys


def test_import_leaves_the_heavy_and_the_optional_alone() -> None:
    code = "import clip_models, sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    heavy = {"torchvision", "PIL", "huggingface_hub", "transformers", "open_clip", "timm", "onnx"}
    assert not loaded & heavy
