from __future__ import annotations

import importlib.util
from importlib.metadata import files
from types import ModuleType

import pytest

from clip_tokenizer import Tokenizer


@pytest.fixture(scope="session")
def openai() -> Tokenizer:
    return Tokenizer.openai()


@pytest.fixture(scope="session")
def peer() -> ModuleType:
    """The tokenizer module of the installed open_clip_torch, without its models and their needs."""
    pytest.importorskip("torch")
    try:
        installed = files("open_clip_torch") or []
    except ModuleNotFoundError:
        pytest.skip("open_clip_torch is not installed")
    (path,) = (str(file.locate()) for file in installed if str(file) == "open_clip/tokenizer.py")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer_alone", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
