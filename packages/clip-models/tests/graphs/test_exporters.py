"""Exported models: files, checks and refusals; the features are the towers'."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_models import CLIP, CheckpointError, CLIPConfig, save_model
from clip_models.cli import main
from clip_models.config import CompactResNetConfig, PreprocessConfig, TextConfig, ViTConfig
from clip_models.graphs import TextEncoder, check_graph, export_model, load_graph
from clip_models.graphs import checking as module

SMALL: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2}
CONFIG = CLIPConfig(
    embed_dim=8,
    vision=ViTConfig(image_size=16, patch_size=8, **SMALL),
    text=TextConfig(context_length=8, vocab_size=20, **SMALL),
)
PREPROCESS = PreprocessConfig(size=16)


def small(config: CLIPConfig = CONFIG) -> CLIP:
    torch.manual_seed(0)
    return CLIP(config)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", small(), PREPROCESS)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    return tmp_path / "model"


def test_the_command_writes_graphs_and_their_description(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(directory), "--to", "torchscript", "--out", str(tmp_path / "out")]
    assert main([*command, "--check", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    names = [
        *("clip_config.json", "description.json"),
        *("image.pt", "merges.txt", "text.pt", "vocab.json"),
    ]
    assert sorted(Path(file).name for file in files) == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    described = json.loads((tmp_path / "out" / "description.json").read_text())
    assert described["image"]["preprocess"]["size"] == 16
    assert described["image"]["output"]["shape"] == ["batch", 8]
    assert described["text"]["tokenizer"] == {
        "name": "clip",
        "options": {},
        "context_length": 8,
        "vocab_size": 20,
        "readout": "end_token",
        "end_token_id": None,
        "files": ["vocab.json", "merges.txt"],
    }
    assert described["logits"]["scale"] == pytest.approx(1 / 0.07)
    model = small().eval()
    images = torch.randn(5, 3, 24, 40)
    run = load_graph(tmp_path / "out" / described["image"]["graph"])
    assert torch.allclose(run(images), model.encode_image(images, normalize=True), atol=1e-5)

    assert main(command) == 2
    assert "already has image.pt" in capsys.readouterr().err
    command[3] = "pt2"
    assert main([*command, "--overwrite"]) == 0
    assert not (tmp_path / "out" / "image.pt").exists()  # of the model that was replaced
    assert (tmp_path / "out" / "image.pt2").exists()


@pytest.mark.parametrize("description", [None, "{}", "[", '{"image": {"graph": "../mine.onnx"}}'])
def test_files_that_no_export_wrote_stay(tmp_path: Path, description: str | None) -> None:
    for name in ("image.onnx", "text.pt2"):
        (tmp_path / name).write_text("mine")
    if description is not None:
        (tmp_path / "description.json").write_text(description)
    is_there = description is not None
    export_model(tmp_path, small(), PREPROCESS, to="torchscript", overwrite=is_there)
    assert (tmp_path / "image.onnx").read_text() == (tmp_path / "text.pt2").read_text() == "mine"


def test_a_model_in_half_precision_and_training_is_exported_in_single(tmp_path: Path) -> None:
    model = small().train().bfloat16()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_model(tmp_path, model, PREPROCESS, to="torchscript", check=True)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert load_graph(tmp_path / "text.pt")(torch.tensor([[1, 19]])).dtype == torch.float32


def test_a_tower_of_one_image_size_is_checked_at_it(tmp_path: Path) -> None:
    vision = CompactResNetConfig(image_size=16, widths=(4, 8), pooling="flatten")
    model = small(CLIPConfig(embed_dim=8, vision=vision, text=CONFIG.text))
    export_model(tmp_path, model, PREPROCESS, to="torchscript", check=True)
    run = load_graph(tmp_path / "image.pt")
    assert run(torch.zeros(3, 3, 16, 16)).shape == (3, 8)


def test_a_graph_of_other_features_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(tmp_path / "out", small(), PREPROCESS, to="torchscript")
    with torch.no_grad():
        other = small()
        other.text_projection[0, 0] += 0.1
    with pytest.raises(CheckpointError, match=r"text\.pt differs from the tower by .* at an input"):
        check_graph(TextEncoder(other.eval()), tmp_path / "out" / "text.pt")
    assert check_graph(TextEncoder(small().eval()), tmp_path / "out" / "text.pt") < 1e-5
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match="nothing was written"):
        export_model(tmp_path / "new", small(), PREPROCESS, to="torchscript", check=True)
    assert not list((tmp_path / "new").iterdir())


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"to must be one of onnx, .*got 'tflite'"):
        export_model(tmp_path, small(), PREPROCESS, to="tflite")  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx and onnxscript; pip install 'clip-models\[onnx"):
        export_model(tmp_path, small(), PREPROCESS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["onnx", "torchscript", "pt2"])
def test_a_graph_that_cannot_be_written_is_named(to: Any, tmp_path: Path) -> None:
    model, before = small(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large; there is no part of it") as caught:
            export_model(tmp_path, model, PREPROCESS, to=to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Path(caught.value.filename).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
