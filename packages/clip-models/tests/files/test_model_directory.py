"""Models on disk: exact round trips, and clear words about damaged or foreign files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from clip_models import CLIP, CheckpointError, CLIPConfig, create_model, load_model, save_model
from clip_models.config import CompactResNetConfig, PreprocessConfig, TextConfig
from clip_models.files import load_state, load_tensors, save_tensors

CONFIG = CLIPConfig(
    embed_dim=8,
    vision=CompactResNetConfig(widths=(4, 8)),
    text=TextConfig(context_length=6, vocab_size=20, width=8, num_layers=1, num_heads=2),
)
PREPROCESS = PreprocessConfig(size=32, mean=(0.5, 0.5, 0.5), resize_mode="squash")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[CLIP, Path]:
    torch.manual_seed(1)
    model = CLIP(CONFIG).eval()
    save_model(tmp_path / "model", model, PREPROCESS)
    return model, tmp_path / "model"


def test_round_trip_is_bit_exact(saved: tuple[CLIP, Path]) -> None:
    model, directory = saved
    loaded, preprocess = load_model(directory)
    assert preprocess == PREPROCESS
    assert loaded.config == CONFIG
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_channels_last_weights_round_trip(tmp_path: Path) -> None:
    model = CLIP(CONFIG).to(memory_format=torch.channels_last)
    save_model(tmp_path, model, PREPROCESS)
    weight = "visual.stages.0.down.conv.weight"
    assert torch.equal(load_model(tmp_path)[0].state_dict()[weight], model.state_dict()[weight])


def test_a_loaded_model_trains(saved: tuple[CLIP, Path]) -> None:
    loaded = create_model(saved[1])
    loaded.train().encode_image(torch.randn(2, 3, 32, 32)).sum().backward()
    assert loaded.visual.proj.weight.grad is not None


def test_nothing_half_written_stays(saved: tuple[CLIP, Path]) -> None:
    assert sorted(path.name for path in saved[1].iterdir()) == [
        "clip_config.json",
        "model.safetensors",
    ]


def test_weights_have_the_permissions_of_other_files(saved: tuple[CLIP, Path]) -> None:
    config, weights = (saved[1] / name for name in ("clip_config.json", "model.safetensors"))
    assert weights.stat().st_mode == config.stat().st_mode


def test_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a model directory: it has no clip_config"):
        load_model(tmp_path)


def test_missing_weights(saved: tuple[CLIP, Path]) -> None:
    (saved[1] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_model(saved[1])


@pytest.mark.parametrize("keep", [0, 5, 200])
def test_truncated_weights(saved: tuple[CLIP, Path], keep: int) -> None:
    file = saved[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_model(saved[1])


def test_a_pickle_is_refused_unread(tmp_path: Path, saved: tuple[CLIP, Path]) -> None:
    torch.save({"weights": torch.zeros(1)}, saved[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_tensors(saved[1] / "model.safetensors")


def test_damaged_config(saved: tuple[CLIP, Path]) -> None:
    file = saved[1] / "clip_config.json"
    values = json.loads(file.read_text())
    values["model"]["text"]["widths"] = values["model"]["text"].pop("width")
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"unknown key 'model\.text\.widths'"):
        load_model(saved[1])
    file.write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(saved[1])


def test_a_later_format_is_refused(saved: tuple[CLIP, Path]) -> None:
    file = saved[1] / "clip_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 2}))
    with pytest.raises(CheckpointError, match="format_version must be 1, got 2"):
        load_model(saved[1])


def test_integers_are_no_weights(saved: tuple[CLIP, Path]) -> None:
    model, directory = saved
    state = {**model.state_dict(), "text_projection": torch.zeros(8, 8, dtype=torch.int64)}
    save_tensors(directory / "model.safetensors", state)
    with pytest.raises(CheckpointError, match=r"text_projection holds torch\.int64, expected fl"):
        load_model(directory)


def test_what_does_not_fit_is_named() -> None:
    model = CLIP(CONFIG)
    state = dict(model.state_dict())
    state["extra"] = state.pop("ln_final.weight")
    state["text_projection"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError) as caught:
        load_state(model, state, source="here")
    for words in (
        "here does not fit the model",
        "missing ln_final.weight",
        "unexpected extra",
        "text_projection is (3, 3), expected (8, 8)",
    ):
        assert words in str(caught.value)
