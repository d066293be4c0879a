from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType

import pytest
from clip_tokenizer import Tokenizer


def load_module(name: str, path: str | Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def openai() -> Tokenizer:
    return Tokenizer.openai()


@pytest.fixture(scope="session")
def odd_strings() -> ModuleType:
    return load_module("odd_strings", Path(__file__).with_name("odd_strings.py"))


@pytest.fixture(scope="session")
def peer() -> ModuleType:
    """The tokenizer module of the installed open_clip_torch, without its models and their needs."""
    pytest.importorskip("torch")
    try:
        installed = files("open_clip_torch") or []
    except PackageNotFoundError:
        pytest.skip("open_clip_torch is not installed")
    (path,) = (file.locate() for file in installed if str(file) == "open_clip/tokenizer.py")
    return load_module("open_clip_tokenizer_alone", str(path))
