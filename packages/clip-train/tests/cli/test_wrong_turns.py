"""What newcomers type: each ends in one line that says what to type instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_train import load_config
from clip_train.cli.main import main
from clip_train.config.keys import apply_flags


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that must end as a user's mistake, and writes nothing."""
    before = set(Path().iterdir())
    assert main([*words]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1), printed.err
    assert set(Path().iterdir()) == before
    return printed.err


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("run").mkdir()
    Path("run", "config.toml").touch()


FINETUNE = ("run", "finetune", "--data.train", "photos", "--out", "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (FINETUNE, "this recipe needs model.pretrained, which is not set: --model.pretrained DIR"),
        ((*FINETUNE, "--dry-run"), "this recipe needs model.pretrained"),
        (("run", "clipa-v2-h14-336", "--out", "out"), "this recipe needs model.pretrained"),
        (
            (*FINETUNE, "--pretrained", "nope"),
            "model.pretrained 'nope': there is no such file or directory; expected a model "
            "directory or hf-hub:ORG/NAME, or with model.name a weight file",
        ),
        ((*FINETUNE, "--pretrained", "org/name"), "the hub is written hf-hub:org/name"),
        (
            (*FINETUNE, "--model", "ViT-B-32", "--pretrained", "laion2b"),
            "for ViT-B-32 a weight file or one of open_clip's tags; did you mean 'laion2b_e16'?",
        ),
        (
            (*FINETUNE, "--model", "run", "--pretrained", "run"),
            "model.name 'run' is a directory; give it as model.pretrained",
        ),
        (
            ("run", "run", "--out", "out"),
            "run is a directory; expected a preset or a TOML file; `clip-train resume run` "
            "continues a run, and --model.pretrained run starts from its weights",
        ),
        (("run", "photos", "--out", "out"), "data is named by --data.train"),
        (
            ("run", "shapes", "--eval.every_steps", "0", "--out", "out"),
            "got 0; --eval.every_steps None leaves it to the end of the run",
        ),
        (
            ("run", "shapes", "--optim", "adamw", "--out", "out"),
            "'optim' is a section of keys, such as optim.name",
        ),
        (
            ("run", "shapes", "--data.holdout", "0.1", "--out", "out"),
            "set data.holdout to 0, or data.val to '' and data.order to 'exact'",
        ),
        (
            ("run", "shapes", "--device", "gpu", "--out", "out"),
            "train.device 'gpu' cannot be used: expected cpu, cuda, cuda:N, mps or auto",
        ),
    ],
)
def test_one_line_says_what_to_type(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refuse(capsys, *words)


def test_what_everybody_types_is_understood() -> None:
    words = ["--model", "ViT-S-16", "--pretrained", "a.pt", "--train-data", "x"]
    words += ["--val-data", "y", "--image-root", "z"]
    config = apply_flags(load_config("shapes"), words)
    assert (config.model.name, config.model.pretrained) == ("ViT-S-16", "a.pt")
    assert (config.data.train, config.data.val, config.data.image_root) == ("x", ("y",), "z")
    assert apply_flags(config, ["--data", "csv:t.csv"]).data.train == "csv:t.csv"


def test_a_need_can_be_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert "photos" in refuse(capsys, *FINETUNE, "--needs")  # which is empty
