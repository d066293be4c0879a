"""What newcomers type: each ends in one line that says what to type instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_eval.cli.main import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "run --model ViT-B-32 --data data --out out",
            "ViT-B-32 is a model's name, without weights; give open_clip:ViT-B-32:TAG",
        ),
        (
            "run --model openclip:ViT-B-32:openai --data data --out out",
            "unknown kind 'openclip'; did you mean open_clip:ViT-B-32:openai?",
        ),
        (
            "run --model open_clip:ViT-B32 --data data --out out",
            "unknown model 'ViT-B32'; did you mean 'ViT-B-32'?",
        ),
        (
            "run --model open_clip:ViT-B-32:laion2b --data data --out out",
            "'laion2b' is no file, and no tag of ViT-B-32; did you mean 'laion2b_e16'?",
        ),
        ("run --model data --data model --out out", "model: a model directory, not data"),
        ("embed broken.jpg --model model --out e.npz", "broken.jpg: not-an-image"),
        ("predict broken.jpg --model model --labels a,b", "broken.jpg: not-an-image"),
        ("run --model model --data hold:model --out out", "unknown kind 'hold'"),
    ],
)
def test_one_line_says_what_to_type(
    words: str,
    message: str,
    trained_directory: Path,
    color_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(trained_directory)
    Path("data").symlink_to(color_folder)
    Path("broken.jpg").write_text("no image")
    quiet = [] if words.startswith("predict") else ["--quiet"]
    assert main([*words.split(), *quiet]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert message in errors
