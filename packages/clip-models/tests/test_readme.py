"""The examples of both pages run in order, print what their comments say, and show every name."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from clip_models import CLIP, get_config, save_model
from clip_models.config import PreprocessConfig, named_models
from clip_models.converters import from_native
from clip_models.files import hub
from PIL import Image

PACKAGE = Path(__file__).parents[1]
PAGES = [
    PACKAGE / "README.md",
    *(PACKAGE / "docs" / f"{x}.md" for x in ("reference", "checkpoints")),
]
PARTS = ["config", "converters", "files", "graphs", "model", "pooling"]


def examples(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


class NoHub:
    """A hub's interface that stores nothing."""

    def __init__(self, endpoint: str | None) -> None:
        self.endpoint = endpoint

    def create_repo(self, repository: str, **_: object) -> None: ...

    def list_repo_files(self, repository: str) -> list[str]:
        return []

    def upload_folder(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(commit_url="https://huggingface.co/org/name/commit/0")


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small ViT-B-32-quickgelu, its weights as OpenAI's file, and a repository with it."""
    config = get_config("ViT-B-32-quickgelu")
    small = {"width": 64, "num_layers": 1, "num_heads": 1}
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, **small),
        text=dataclasses.replace(config.text, **small),
    )
    monkeypatch.setitem(named_models._CONFIGS, "ViT-B-32-quickgelu", config)
    model = CLIP(config)
    torch.save(from_native(model.state_dict(), config, "openai"), tmp_path / "ViT-B-32.pt")
    save_model(tmp_path / "repository", model, PreprocessConfig())
    monkeypatch.setattr(hub, "download", lambda *_, **__: tmp_path / "repository")
    monkeypatch.setattr(huggingface_hub, "HfApi", NoHub)
    torch.save({"state_dict_ema": model.state_dict()}, tmp_path / "last.ckpt")
    (tmp_path / "my.json").write_text(json.dumps(config.to_dict()))
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "photo.jpg")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run_and_print_what_their_comments_say(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert examples(page)
    namespace: dict[str, object] = {}
    for block in examples(page):
        exec(compile(block, str(page), "exec"), namespace)
        expected = [
            line.split("  # ", 1)[1]
            for line in block.splitlines()
            if line.lstrip().startswith("print(")
        ]
        assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("part", ["", *PARTS])
def test_every_public_name_is_shown_in_an_example(part: str) -> None:
    module = importlib.import_module(f"clip_models.{part}".rstrip("."))
    shown = "\n".join(examples(PAGES[bool(part)]))
    assert [name for name in module.__all__ if not re.search(rf"\b{name}\b", shown)] == []
