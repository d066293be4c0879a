"""Models without torch: the table of exporters, and the page that uses an exported model."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from clip_models import CLIP, CLIPConfig, create_model_and_transforms, save_model
from clip_models.cli import main
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig
from clip_tokenizer import get_tokenizer
from PIL import Image

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "packages" / "clip-models"
PAGE = MODELS / "docs" / "export.md"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_export_table", MODELS / "scripts" / "make_export_table.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def read_table() -> dict[tuple[str, str], str]:
    """What the page says of each tower and exporter."""
    text = PAGE.read_text(encoding="utf-8").split(script.BEGIN)[1].split(script.END)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {
        (row[0], exporter): cell
        for row in rows[2:]
        for exporter, cell in zip(rows[0][1:], row[1:], strict=True)
    }


def is_quick(tower: str, exporter: str) -> bool:
    """Whether a cell takes no more than a few seconds."""
    if exporter in ("`torch.jit.trace`", "ONNX, older exporter"):
        return True
    return (tower, exporter) in (("ViT", "ONNX"), ("text of CLIP", "`torch.export`"))


CELLS = [
    pytest.param(tower, exporter, marks=() if is_quick(tower, exporter) else pytest.mark.slow)
    for tower in script.TOWERS
    for exporter in script.EXPORTERS
]


@pytest.mark.parametrize(("tower", "exporter"), CELLS)
def test_the_table_is_true(tower: str, exporter: str) -> None:
    assert script.make_cell(tower, exporter) == read_table()[tower, exporter]


def test_every_size_that_is_not_open_has_a_reason() -> None:
    table = read_table()
    assert table.keys() == {(t, e) for t in script.TOWERS for e in script.EXPORTERS}
    text = PAGE.read_text(encoding="utf-8")
    for (tower, _), cell in table.items():
        numbers = re.findall(r"\[(\d+)\]", cell)
        assert bool(numbers) == (cell != ", ".join(script.axes(tower)))
        assert all(f"\n{number}. {script.REASONS[int(number)][2]}" in text for number in numbers)


def test_the_page_runs_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small = {"width": 32, "num_layers": 2, "num_heads": 2}
    vision, text = ViTConfig(image_size=32, patch_size=8, **small), TextConfig(**small)
    save_model(
        tmp_path / "vit-b-32",
        CLIP(CLIPConfig(embed_dim=16, vision=vision, text=text)),
        PreprocessConfig(size=32),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (57, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "vit-b-32", "--to", "onnx", "--out", "exported", "--check"]) == 0
    without, from_python = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    code = f"{without}\nimport sys\nassert 'torch' not in sys.modules\nprint(chances.tolist())\n"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shape, chances = ran.stdout.splitlines()
    assert shape == "(1, 2)"

    model, _, transform = create_model_and_transforms("vit-b-32")
    tokens = get_tokenizer("vit-b-32")(["a photo of a cat", "a photo of a dog"])
    with torch.no_grad():
        output = model(transform(Image.open("photo.jpg"))[None], tokens)
    logits = output.logit_scale * output.image_features @ output.text_features.T
    assert torch.allclose(torch.tensor(eval(chances)), logits.softmax(1), atol=1e-4)

    exec(from_python.replace('"exported"', '"again"').replace("onnx", "torchscript"), {})
    names = sorted(path.name for path in Path("again").iterdir())
    assert names == ["clip_config.json", "description.json", "image.pt", "text.pt"]
