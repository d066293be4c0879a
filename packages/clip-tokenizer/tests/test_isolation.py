"""What the package does without torch and without the extras, and inside worker processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest
import torch
from clip_tokenizer import Tokenizer
from torch.utils.data import DataLoader

WITHOUT_EXTRAS = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "huggingface_hub", "tokenizers", "transformers", "nltk"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
before = set(sys.modules)
import tempfile
from clip_tokenizer import Tokenizer, get_tokenizer
from clip_tokenizer.cli import main

tokenizer = get_tokenizer("ViT-B-32")
assert tokenizer.encode_batch(["a cat"], 5).tolist() == [[49406, 320, 2368, 49407, 0]]
trained = Tokenizer.train(["ab ab"], 515)
with tempfile.TemporaryDirectory() as folder:
    trained.save(folder)
    assert Tokenizer.from_pretrained(folder).encode("ab") == [512]
try:
    tokenizer("a cat")
except ImportError as error:
    assert "clip-tokenizer[torch]" in str(error)
else:
    raise AssertionError("a tensor without torch")
allowed = {"numpy", "regex", "_regex", "_regex_core", "ftfy", "wcwidth", "clip_tokenizer"}
third_party = {
    name.split(".")[0]
    for name, module in sys.modules.items()
    if name not in before and "site-packages" in (getattr(module, "__file__", None) or "")
}
assert third_party <= allowed, third_party - allowed
"""


def test_numpy_regex_and_ftfy_are_enough():
    command = [sys.executable, "-I", "-c", WITHOUT_EXTRAS]
    subprocess.run(command, check=True, timeout=300)


def test_importing_does_not_import_torch():
    code = "import clip_tokenizer, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=300)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_ids(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    tokenizer = Tokenizer.from_bytes(context_length=30, clean="whitespace")
    captions = [f"caption {index} of a café" for index in range(24)]
    expected = tokenizer(captions)
    loader = DataLoader(
        captions,
        batch_size=5,
        collate_fn=tokenizer,
        num_workers=1,
        multiprocessing_context=method,
    )
    assert torch.equal(torch.cat(list(loader)), expected)
