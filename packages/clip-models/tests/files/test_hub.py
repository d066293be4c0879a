"""Pushing to and loading from a hub, over HTTP, with the real client."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clip_models import (
    CLIP,
    CheckpointError,
    CLIPConfig,
    ConfigError,
    create_model,
    create_model_and_transforms,
    from_pretrained,
    list_pretrained,
    push_to_hub,
    save_pretrained,
)
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig, named_models
from clip_models.config.pretrained_tags import read_table
from clip_models.files import hub
from clip_models.files.conversion import read_stored

_spec = importlib.util.spec_from_file_location(
    "hub_server", Path(__file__).with_name("hub_server.py")
)
assert _spec is not None
assert _spec.loader is not None
hub_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hub_server)

CONFIG = CLIPConfig(
    embed_dim=12,
    vision=ViTConfig(image_size=32, patch_size=8, width=64, num_layers=2, num_heads=1),
    text=TextConfig(context_length=9, vocab_size=50, width=16, num_layers=2, num_heads=2),
)
PREPROCESS = PreprocessConfig(size=32, mean=(0.1, 0.2, 0.3))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with hub_server.running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CONFIG).eval()


def assert_same(ours: CLIP, theirs: CLIP) -> None:
    assert ours.config == theirs.config
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_pushed_and_loaded(server: Any, model: CLIP, tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("a b")
    address = push_to_hub(
        "org/name", model, PREPROCESS, files=[tmp_path / "merges.txt"], description="Of shapes."
    )
    assert address.startswith(server.address)
    files = server.repositories["org/name"]
    assert set(files) == {
        "README.md",
        "clip_config.json",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "preprocessor_config.json",
    }
    assert b"Of shapes." in files["README.md"]
    for name in ("org/name", "hf-hub:org/name", "hf-hub:org/name@main"):
        loaded, preprocess = from_pretrained(name, cache_dir=tmp_path / name.replace(":", "-"))
        assert_same(loaded, model)
        assert preprocess == PREPROCESS
    made = create_model_and_transforms("hf-hub:org/name", force_image_size=48)
    assert made.model.config.vision.image_size == made.evaluate.config.size == 48


def test_open_clip_finds_a_vocabulary_in_the_repository(
    server: Any, model: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    planned = SimpleNamespace(text={"hf_tokenizer_name": "this-directory"})
    monkeypatch.setattr("clip_models.files.export.plan_files", lambda *_: planned)
    push_to_hub("org/name", model, PREPROCESS, files=[tmp_path / "vocab.json"])
    config = json.loads(server.repositories["org/name"]["open_clip_config.json"])
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "org/name"


def test_pretrained_from_the_hub(server: Any, model: CLIP) -> None:
    push_to_hub("org/name", model, PREPROCESS)
    made = create_model_and_transforms(CONFIG, pretrained="hf-hub:org/name")
    assert_same(made.model, model)
    assert made.evaluate.config == PREPROCESS


def test_tags_of_open_clip(
    server: Any, model: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pretrained="laion2b_s34b_b79k"`, as peers' users type it: the repository's weights."""
    monkeypatch.setitem(named_models._CONFIGS, "ViT-B-32", CONFIG)
    save_pretrained(tmp_path / "m", model, PREPROCESS)
    repository = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    server.repositories[repository] = {
        name: (tmp_path / "m" / name).read_bytes()
        for name in ("open_clip_config.json", "open_clip_model.safetensors")
    }
    made = create_model_and_transforms("ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert_same(made.model, model)
    assert made.evaluate.config == PREPROCESS
    stored = read_stored("laion2b_s34b_b79k", model="ViT-B-32")
    assert stored.preprocess.size == 32
    assert torch.equal(stored.state["visual.proj"], model.visual.proj)
    assert ("ViT-B-32", "laion2b_s34b_b79k") in list_pretrained("ViT-B-*")
    quick = {"activation": "quick_gelu"}
    config = dataclasses.replace(
        CONFIG,
        vision=dataclasses.replace(CONFIG.vision, **quick),
        text=dataclasses.replace(CONFIG.text, **quick),
    )
    monkeypatch.setitem(named_models._CONFIGS, "ViT-B-32", config)
    with pytest.raises(ConfigError, match="was trained with the activation gelu"):
        create_model("ViT-B-32", pretrained="laion2b_s34b_b79k")


def test_the_table_of_tags_is_open_clip_s() -> None:
    script = Path(__file__).parents[2] / "scripts" / "list_open_clip_tags.py"
    spec = importlib.util.spec_from_file_location("list_open_clip_tags", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.make_table() == read_table()
    assert len(list_pretrained()) >= 134


def test_only_what_is_needed_is_downloaded(server: Any, model: CLIP) -> None:
    push_to_hub("org/name", model, PREPROCESS)
    server.requests.clear()
    from_pretrained("org/name")
    asked = [line for line in server.requests if line.startswith("GET") and "safetensors" in line]
    assert len(asked) == 1


def test_open_clip_s_repository(server: Any, model: CLIP, tmp_path: Path) -> None:
    """With two sets of weights, those of the config that is read are taken."""
    save_pretrained(tmp_path / "out", model, PREPROCESS)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    del files["clip_config.json"]
    server.repositories["org/open"] = files
    server.requests.clear()
    assert_same(from_pretrained("org/open")[0], model)
    assert any(
        line.startswith("GET") and "open_clip_model.safe" in line for line in server.requests
    )


def test_sharded_repository(server: Any, model: CLIP, tmp_path: Path) -> None:
    save_pretrained(tmp_path / "out", model, PREPROCESS)
    from safetensors.torch import load_file, save

    state = load_file(tmp_path / "out" / "model.safetensors")
    keys = sorted(state)
    parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    files = {name: save({key: state[key] for key in part}) for name, part in parts.items()}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    for name in ("config.json", "preprocessor_config.json"):
        files[name] = (tmp_path / "out" / name).read_bytes()
    server.repositories["org/shards"] = files
    loaded, preprocess = from_pretrained("org/shards")
    assert preprocess == PREPROCESS
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    del files["b.safetensors"]
    with pytest.raises(CheckpointError, match=r"names b\.safetensors, which the repository lacks"):
        from_pretrained("org/shards", cache_dir=tmp_path / "other")
    files["model.safetensors.index.json"] = b"[]"
    with pytest.raises(CheckpointError, match="is not an index of shards"):
        from_pretrained("org/shards", cache_dir=tmp_path / "third")


def test_cached_files_need_no_hub(server: Any, model: CLIP) -> None:
    push_to_hub("org/name", model, PREPROCESS)
    from_pretrained("org/name")
    server.repositories.clear()
    server.server_close()
    server.shutdown()
    assert_same(from_pretrained("org/name")[0], model)


def test_existing_files_are_replaced_on_request_only(server: Any, model: CLIP) -> None:
    push_to_hub("org/name", model, PREPROCESS)
    server.repositories["org/name"]["README.md"] = b"My words."
    with pytest.raises(
        CheckpointError, match=r"org/name already has clip_config\.json, .*overwrite"
    ):
        push_to_hub("org/name", model, PREPROCESS)
    with torch.no_grad():
        model.logit_scale.fill_(1.0)
    push_to_hub("org/name", model, PREPROCESS, overwrite=True)
    assert server.repositories["org/name"]["README.md"] == b"My words."
    assert from_pretrained("org/name")[0].logit_scale.item() == 1.0


def test_no_file_of_the_replaced_model_stays(server: Any, model: CLIP) -> None:
    """open_clip and transformers, which lack the new model, would go on loading the old one."""
    push_to_hub("org/name", model, PREPROCESS)
    server.repositories["org/name"]["notes.txt"] = b"Mine."
    vision = dataclasses.replace(CONFIG.vision, readout="average")
    other = CLIP(dataclasses.replace(CONFIG, vision=vision))
    push_to_hub("org/name", other, PREPROCESS, overwrite=True)
    left = {"README.md", "clip_config.json", "model.safetensors", "notes.txt"}
    assert set(server.repositories["org/name"]) == left
    assert_same(from_pretrained("org/name")[0], other)
    server.repositories["org/open"] = {"open_clip_config.json": b"{}"}
    push_to_hub("org/open", other, PREPROCESS)
    assert server.repositories["org/open"]["open_clip_config.json"] == b"{}"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, r"no model could be read from hf-hub:org/name; tried clip_config\.json \(Repo"),
        ({}, r"no model could be read .*config\.json \(.*EntryNotFound"),
        ({"config.json": b"{}"}, r"hf-hub:org/name has no weights; tried .*model\.safetensors"),
        ({"config.json": b"{", "model.safetensors": b"x"}, r"config\.json cannot be read"),
    ],
)
def test_repositories_without_a_model(server: Any, files: Any, words: str) -> None:
    if files is not None:
        server.repositories["org/name"] = files
    with pytest.raises(CheckpointError, match=words):
        from_pretrained("org/name")


def test_an_existing_directory_is_preferred(model: CLIP, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained("org/name", model, PREPROCESS)
    assert_same(from_pretrained("org/name")[0], model)


def test_the_client_is_installed_with_the_package() -> None:
    requirements = [line for line in requires("clip-models") or [] if "extra" not in line]
    assert any(line.startswith("huggingface-hub") for line in requirements)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf-hub:org/na.me-1", "org/na.me-1"),
        ("hf-hub:org/name@v1.0", "org/name@v1.0"),
        ("org/name", None),
        ("ViT-B-32", None),
        (Path("a/b"), None),
    ],
)
def test_names_of_repositories(source: Any, expected: str | None) -> None:
    assert hub.parse_repository(source) == expected
