"""The summary before a run shows what would otherwise cost days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clip_train.cli.main import main
from PIL import Image

TINY = ("--model.name", "Compact-32", "--tokenizer.kind", "bytes", "--data.workers", "0")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "c.toml").write_text(
        "[model]\nname = 'Compact-32'\n[tokenizer]\nkind = 'bytes'\n[data]\nworkers = 0\n"
        "[train]\nsteps = 10\nbatch_size = 4\n"
    )
    return tmp_path / "c.toml"


def summary(capsys: pytest.CaptureFixture[str], recipe: Path, *words: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["run", str(recipe), "--dry-run", *map(str, words)]) == code
    captured = capsys.readouterr()
    return " ".join((captured.err if code else captured.out).split())


def folder(root: Path, names: tuple[str, ...], count: int = 3) -> Path:
    generator = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def table(tmp_path: Path, rows: list[tuple[int, str]]) -> Path:
    folder(tmp_path, ("im",), 8)
    lines = [f"im/{image}.png,{caption}" for image, caption in rows]
    (tmp_path / "t.csv").write_text("\n".join(["filepath,title", *lines]) + "\n")
    return tmp_path / "t.csv"


def test_splits_and_counts(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    for split in ("train", "val", "test"):
        folder(tmp_path / "set" / split, ("cat", "dog"))
    spec = f"imagefolder:{tmp_path}/set"
    text = summary(
        *(capsys, recipe, "--data.train", spec, "--data.val", spec, "--data.templates", "a {c}")
    )
    assert "data set/train: 6 samples, split train (not read: test, val)" in text
    assert "set/test: classify, set/test: 6 samples, split test (not read: train, val)" in text
    assert "labels 0 to 1 in all samples: 2 of 2 names" in text
    assert "names: 0 cat, 1 dog" in text
    assert "1 template (saved with the model), such as 'a cat'" in text
    assert "nothing was written; a run needs --out DIR" in text


def test_captions_repeats_and_their_lengths(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    rows = [(0, "short"), (0, "a caption " * 9), (1, "short"), (2, "other")]
    spec = f"csv:{table(tmp_path, rows)}"
    text = summary(capsys, recipe, "--data.train", spec, "--data.val", spec)
    assert "captions of 4 samples looked at: 7 to 74 tokens, median 7, context 32; 1 of 4" in text
    assert "repeats of 4 samples looked at: 1 images, 1 captions" in text
    assert "1 images and 1 captions of 4 pairs are repeats" in text
    assert "1 of 4 captions are cut to 32 tokens (truncate)" in text
    assert "least possible loss of this batch: " in text
    assert "val t: retrieval, t: 4 samples" in text
    text = summary(capsys, recipe, "--data.train", spec, "--loss.kind", "infonce")
    assert "warning: 1 images and 1 captions of 4 pairs are repeats, which loss.kind" in text


def test_the_schedule_in_steps(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    spec = f"csv:{table(tmp_path, [(n, f'caption {n}') for n in range(8)])}"
    words = ("--data.train", spec, "--optim.warmup-epochs", "0.5", "--train.epochs", "3")
    text = summary(capsys, recipe, *words)
    assert "length 6 steps, 2 per epoch" in text
    assert (
        "schedule 1 step of warmup from 0 to 0.0005, cosine from 0.0005 to 0 until step 6" in text
    )
    assert "no repeats" in text
    assert "warning" not in text
    text = summary(capsys, recipe, "--data.train", spec, "--optim.warmup-steps", "500")
    assert "warning: warmup of 500 steps, and the run has 10 steps" in text


@pytest.mark.filterwarnings("always:numbers:")
def test_names_that_are_numbers_and_samples_that_are_broken(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    root = folder(tmp_path / "numbers", ("0", "1", "10"))
    (root / "1" / "2.png").unlink()
    (root / "1" / "2.png").symlink_to(tmp_path / "nowhere")
    capsys.readouterr()
    words = ["--data.train", f"imagefolder:{root}", "--data.templates", "a photo of a {c}."]
    assert main(["run", str(recipe), "--dry-run", *words]) == 0
    captured = capsys.readouterr()
    assert "names: 0 0, 1 1, 2 10" in captured.out
    assert "all 3 class names are bare numbers" in captured.err


def test_several_classes_of_an_image(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    """Everything-positive marks would show as two of two classes for each image."""
    import io
    import tarfile

    folder(tmp_path, ("im",), 4)
    (tmp_path / "multi").mkdir()
    with tarfile.open(tmp_path / "multi" / "0.tar", "w") as tar:
        for number in range(4):
            image = (tmp_path / "im" / f"{number}.png").read_bytes()
            marks = io.BytesIO()
            np.save(marks, np.array([1, number % 2], dtype=np.int64))
            for suffix, content in (("png", image), ("npy", marks.getvalue())):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (tmp_path / "multi" / "classnames.txt").write_text("cat\ndog\n")
    train = f"csv:{table(tmp_path / 'x', [(n, f'caption {n}') for n in range(8)])}"
    words = ("--data.train", train, "--data.val", f"wds:{tmp_path}/multi")
    text = summary(capsys, recipe, *words)
    assert "multilabel" in text
    assert "classes of an image: 1.5 on average, 1 to 2 of 2" in text


def test_out_is_looked_at_and_not_written(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    spec = f"csv:{table(tmp_path, [(n, f'caption {n}') for n in range(8)])}"
    words = ("--data.train", spec, "--out", tmp_path / "run")
    assert f"without --dry-run the run is written to {tmp_path}/run" in summary(
        capsys, recipe, *words
    )
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    assert "already exists and is not empty" in summary(capsys, recipe, *words, code=2)
    summary(capsys, recipe, *words, "--overwrite")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_half_empty_column_of_labels(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    folder(tmp_path, ("im",), 4)
    path = tmp_path / "t.csv"
    path.write_text(
        "filepath,title,label\nim/0.png,one,1\nim/1.png,two,\nim/2.png,three,2\nim/3.png,four,\n"
    )
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nbird\nfish\n")
    words = (capsys, recipe, "--data.train", f"csv:{path}", "--data.classnames", names)
    words = (*words, "--data.templates", "a {c}")
    text = summary(*words)
    assert "labels 1 to 2 in all samples: 2 of 4 names" in text
    assert "captions of 4 samples looked at" in text
    path.write_text("filepath,title,label\nim/0.png,one,\nim/1.png,two,\n")
    text = summary(*words, "--train.batch_size", "2")  # none has a label
    assert "labels" not in text
    assert "names: 0 cat, 1 dog, 2 bird, 3 fish" in text
    path.write_text("filepath,title,label\nim/0.png,one,0\nim/1.png,,\nim/2.png,three,\n")
    text = summary(*words, "--train.batch_size", "2")  # a row with neither
    assert "labels 0 to 0 in all samples: 1 of 4 names" in text
    assert "warning: 1 of 3 samples looked at have no caption" in text
