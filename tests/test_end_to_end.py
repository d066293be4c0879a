"""The main job through the console scripts, and its numbers computed again by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clip_models import Preprocess, load_model
from clip_tokenizer import Tokenizer
from PIL import Image


def command(*words: str | Path) -> str:
    script = Path(sys.executable).with_name(str(words[0]))
    done = subprocess.run(
        [script, *map(str, words[1:])], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes drawn, a short training, an evaluation of the result in both layouts."""
    root = tmp_path_factory.mktemp("work")
    shapes = root / "shapes"
    size = ("--train", "3000", "--val-per-class", "2")
    command("clip-train", "data", "shapes", "--out", shapes, *size)
    sources = ("--data.train", f"wds:{shapes}/train", "--data.val", shapes / "val")
    command("clip-train", "run", "shapes-tiny", *sources, "--out", root / "run")
    for layout in ("val", "val-wds"):
        out = root / f"evaluation-{layout}"
        command(
            "clip-eval", "run", "--model", root / "run", "--data", shapes / layout, "--out", out
        )
    return root


def predict_by_hand(work: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Scores (N, C), labels (N,) and class names, from files and embeddings alone."""
    model, preprocess_config = load_model(work / "run")
    preprocess, tokenizer = Preprocess(preprocess_config), Tokenizer.from_pretrained(work / "run")
    templates = (work / "run" / "zeroshot_classification_templates.txt").read_text().splitlines()
    val = work / "shapes" / "val"
    names = sorted(path.name for path in val.iterdir() if path.is_dir())
    with torch.no_grad():
        classifier = []
        for name in names:
            prompts = [template.replace("{c}", name) for template in templates]
            embeddings = model.encode_text(tokenizer(prompts))
            mean = torch.nn.functional.normalize(embeddings, dim=1).mean(dim=0)
            classifier.append(mean / mean.norm())
        features, labels = [], []
        for label, name in enumerate(names):
            for file in sorted((val / name).glob("*.jpg")):
                pixels = preprocess(Image.open(file).convert("RGB"))
                features.append(model.encode_image(preprocess.normalize(pixels[None]))[0])
                labels.append(label)
    scores = torch.nn.functional.normalize(torch.stack(features), dim=1) @ torch.stack(classifier).T
    return scores, torch.tensor(labels), names


def test_accuracy_is_well_above_chance_and_equal_by_hand(work: Path) -> None:
    result = json.loads((work / "evaluation-val" / "result.json").read_text())
    scores, labels, names = predict_by_hand(work)
    guesses = scores.argsort(dim=1, descending=True)
    right = guesses[:, 0] == labels
    assert result["n"] == len(labels) == 2 * len(names)
    assert result["n_classes"] == len(names) >= 64
    assert result["metrics"]["acc1"] == pytest.approx(right.double().mean().item(), abs=1e-12)
    top5 = (guesses[:, :5] == labels[:, None]).any(dim=1).float().mean().item()
    assert result["metrics"]["acc5"] == pytest.approx(top5, abs=1e-7)
    recalls = [right[labels == label].float().mean().item() for label in range(len(names))]
    expected = sum(recalls) / len(recalls)
    assert result["metrics"]["mean_per_class_recall"] == pytest.approx(expected, abs=1e-7)
    assert result["metrics"]["acc1"] > 10 * result["chance"]


def test_the_same_images_as_shards_give_the_same_numbers(work: Path) -> None:
    one, other = (
        json.loads((work / f"evaluation-{layout}" / "result.json").read_text())
        for layout in ("val", "val-wds")
    )
    assert one["metrics"] == other["metrics"]
    assert one["n"] == other["n"]


def test_evaluation_inside_training_is_the_same(work: Path) -> None:
    rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "eval"][-1]
    result = json.loads((work / "evaluation-val" / "result.json").read_text())
    assert last["acc1"] == pytest.approx(result["metrics"]["acc1"], abs=2 / result["n"])
    assert last["n"] == result["n"]


def test_a_checkpoint_can_be_evaluated_too(work: Path) -> None:
    newest = sorted((work / "run" / "checkpoints").iterdir())[-1]
    out = work / "evaluation-checkpoint"
    command("clip-eval", "run", "--model", newest, "--data", work / "shapes" / "val", "--out", out)
    ours = json.loads((out / "result.json").read_text())["metrics"]
    theirs = json.loads((work / "evaluation-val" / "result.json").read_text())["metrics"]
    assert ours == theirs
