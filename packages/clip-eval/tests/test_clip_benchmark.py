"""A whole evaluation beside CLIP_benchmark's: the same predictions, whatever the data lie in."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier
from clip_eval.cli.main import main
from clip_eval.prompts.prompt_sets import get_prompt_set
from PIL import Image
from torchvision.datasets import ImageFolder

MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 16},
    "text_cfg": {"width": 64, "layers": 2, "heads": 4},
}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MARGIN = 1e-4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth random pictures in ten classes, JPEG and PNG of several sizes and kinds."""
    place = tmp_path_factory.mktemp("side")
    draw = np.random.default_rng(0)
    for number in range(120):
        rough = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        size = (int(draw.integers(20, 90)), int(draw.integers(20, 90)))
        image = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
        image = image.convert("L") if number % 7 == 0 else image
        folder = place / "val" / NAMES[number % 10]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:04d}.{'png' if number % 3 else 'jpg'}")
    return place


@pytest.fixture(scope="module")
def weights(root: Path) -> Path:
    """Random weights, saved once, of an open_clip model."""
    (root / "configs").mkdir()
    (root / "configs" / "ViT-side-test.json").write_text(json.dumps(MODEL))
    open_clip.add_model_config(root / "configs")
    torch.manual_seed(0)
    state = open_clip.create_model("ViT-side-test").state_dict()
    for name, value in state.items():  # else every image and every text looks the same to it
        if value.ndim > 1 and "projection" not in name and "positional" not in name:
            value *= 10
    path = root / "weights.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def peer(root: Path, weights: Path) -> tuple[list[str], list[float]]:
    """CLIP_benchmark's predictions, and by how much each won."""
    model, _, transform = open_clip.create_model_and_transforms(
        "ViT-side-test", pretrained=str(weights)
    )
    model.eval()
    data = ImageFolder(str(root / "val"), transform=transform)
    templates = list(get_prompt_set("cifar10").templates or ())
    assert len(templates) == 18
    tokenizer = open_clip.get_tokenizer("ViT-side-test")
    classifier = zero_shot_classifier(model, tokenizer, data.classes, templates, "cpu", amp=False)
    loader = torch.utils.data.DataLoader(data, batch_size=17)
    logits, _ = run_classification(model, classifier, loader, "cpu", amp=False)
    best = logits.topk(2)
    margin = best.values[:, 0] - best.values[:, 1]
    return [data.classes[c] for c in best.indices[:, 0].tolist()], margin.tolist()


def as_shards(root: Path, write_tar: Callable[..., Path]) -> str:
    files: dict[str, bytes] = {}
    for number, path in enumerate(sorted((root / "val").rglob("*.*"))):
        files[f"s{number:07d}{path.suffix}"] = path.read_bytes()
        files[f"s{number:07d}.cls"] = str(NAMES.index(path.parent.name)).encode()
    write_tar(root / "wds" / "test" / "0.tar", files)
    (root / "wds" / "test" / "nshards.txt").write_text("1\n")
    (root / "wds" / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    return f"wds:{root / 'wds'}"


def as_table(root: Path) -> str:
    with (root / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for path in sorted((root / "val").rglob("*.*")):
            writer.writerow([path.relative_to(root), path.parent.name])
    return f"csv:{root / 'data.csv'}"


@pytest.mark.parametrize("form", ["imagefolder", "wds", "csv"])
def test_predictions_are_clip_benchmarks(
    form: str,
    root: Path,
    weights: Path,
    peer: tuple[list[str], list[float]],
    tmp_path: Path,
    write_tar: Callable[..., Path],
    read_json: Callable[[Path], Any],
) -> None:
    data = f"imagefolder:{root / 'val'}"
    if form != "imagefolder":
        data = as_shards(root, write_tar) if form == "wds" else as_table(root)
    command = ["run", "--model", f"open_clip:ViT-side-test:{weights}", "--data", data, "--quiet"]
    assert main([*command, "--templates", "cifar10", "--out", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    guesses = [json.loads(line)["guesses"][0] for line in lines]
    expected, margins = peer
    assert len(guesses) == len(expected) == 120
    clear = [n for n, margin in enumerate(margins) if margin > MARGIN]
    assert len(clear) > 110
    assert len(set(expected)) > 2
    assert [guesses[n] for n in clear] == [expected[n] for n in clear]
    record = read_json(tmp_path / "out" / "result.json")
    assert record["settings"]["templates_from"] == "--templates cifar10"
