"""The command line: what a newcomer gets wrong is one clear line and a non-zero exit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from clip_eval.data import DataError
from clip_train.cli.main import main
from clip_train.config.keys import config_keys
from PIL import Image


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_one_line(err: str, *words: str) -> None:
    lines = [line for line in err.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith("clip-train: error: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (40, 40), (40 * index, 200 * label, 0)).save(
                root / name / f"{index}.jpg"
            )
    return root


SHORT = ("--train.steps", "2", "--train.batch-size", "4", "--log.every-steps", "1")


def test_presets_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "presets")
    assert code == 0
    assert "cifar10-cpu  " in out
    code, out, _ = run(capsys, "presets", "shapes")
    assert code == 0
    assert tomllib.loads(out)["model"]["name"] == "Compact-48"


def test_plan_prints_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "cifar10-compact", "--num-samples", "50000")
    assert code == 0
    assert "cifar10-compact" in out.splitlines()[2]
    code, out, _ = run(capsys, "plan", "cifar10-compact", "--num-samples", "50000", "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert (found["name"], round(found["pairs"])) == ("cifar10-compact", 300_000)
    assert found["training_flops"] == pytest.approx(3e5 * found["pair"]["training_flops"])
    code, _, err = run(capsys, "plan", "cifar10-compact")
    assert code == 2
    assert_one_line(err, "6 epochs", "--num-samples N")
    code, _, err = run(capsys, "plan", "cifar10-cpu", "--accelerators", "0")
    assert code == 2
    assert_one_line(err, "number of accelerators must be positive, got 0")


def test_dry_run_builds_everything_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    code, out, _ = run(
        *(capsys, "run", "cifar10-cpu", "--dry-run", *SHORT),
        *("--data.train", f"imagefolder:{image_folder}", "--data.val", image_folder),
    )
    assert code == 0
    assert "12 samples" in out
    assert "images (4, 3, 32, 32)" in out
    assert list((tmp_path / "cwd").iterdir()) == []


def test_dry_run_finds_the_errors_of_the_run(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints" / "step-0000003").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-0000003" / "state.json").touch()
    for flags, words in (
        (("--loss.teacher", "nowhere"), "nowhere"),
        (("--model.lock-image", "True", "--model.lock-text", "True"), "nothing is left to train"),
        (("--checkpoint.directory", "foo://x"), "checkpoint.directory must be"),
        (("--checkpoint.directory", tmp_path / "checkpoints"), "no checkpoints of another run"),
    ):
        data = ("--data.train", f"imagefolder:{image_folder}", "--data.val", "")
        code, _, err = run(capsys, "run", "cifar10-cpu", "--dry-run", *SHORT, *data, *flags)
        assert code == 2
        assert_one_line(err, words)


@pytest.mark.filterwarnings("always:1 training samples could not be read")
def test_a_path_is_recognized_and_a_corrupt_jpeg_is_named(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    broken = image_folder / "dog" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    code, out, err = run(
        *(capsys, "run", "cifar10-cpu", "--train.steps", "6", "--train.batch-size", "4"),
        *("--data.train", image_folder, "--data.val", image_folder, "--out", tmp_path / "run"),
    )
    assert code == 0, err
    assert "of n = 11 (1 skipped)" in out
    assert "3.jpg" in (tmp_path / "run" / "metrics.jsonl").read_text()
    (line,) = [line for line in err.splitlines() if "1 training samples could not" in line]
    assert line.startswith("clip-train: warning: ")
    assert "3.jpg" in line


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_folder_of_broken_images_is_one_error_line(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path, workers: str
) -> None:
    for file in image_folder.rglob("*.jpg"):
        file.write_bytes(b"not a jpeg")
    code, _, err = run(
        *(capsys, "run", "cifar10-cpu", *SHORT, "--out", tmp_path / "run", "--data.val", ""),
        *("--data.train", image_folder, "--data.workers", workers),
        *("--data.cache-images", "False"),
    )
    assert code == 2
    assert_one_line(err, "100 samples in a row could not be used", ".jpg")


def test_validation_without_a_usable_image_keeps_the_run(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_folder, tmp_path / "val")
    for file in (tmp_path / "val").rglob("*.jpg"):
        file.write_bytes(b"")
    data = ("--data.train", image_folder, "--data.val", tmp_path / "val")
    code, _, err = run(capsys, "run", "cifar10-cpu", *data, *SHORT, "--out", tmp_path / "run")
    assert code == 0, err
    assert "warning: evaluation: no sample could be used" in err
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "curves.png").is_file()


def test_validation_without_labels_is_found_before_training(
    capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path
) -> None:
    shutil.copytree(shapes / "train", tmp_path / "val")
    (tmp_path / "val" / "classnames.txt").write_text("one\ntwo\n")
    code, _, err = run(
        *(capsys, "run", "shapes-tiny", "--out", tmp_path / "run", *SHORT),
        *("--data.train", f"wds:{shapes}/train", "--data.val", f"wds:{tmp_path}/val"),
    )
    assert code == 2
    assert_one_line(err, "has no label")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "cifar"), ("unknown preset 'cifar'", "did you mean 'cifar10'")),
        (("run", "shapes", "--trian.steps", "3"), ("'trian.steps'", "'train.steps'")),
        (("run", "shapes", "--train.steps", "many"), ("steps", "many")),
        (("run", "cifar10-cpu", "--model.name", "RN-50"), ("unknown model 'RN-50'", "'RN50'")),
        (("run", "shapes"), ("--out DIR is missing",)),
        (("run", "no.toml"), ("no.toml cannot be read",)),
        (("run", "shapes", "--train.steps", "3", "4"), ("unexpected argument '4'",)),
        (("resume", "nowhere"), ("nowhere is not a run directory",)),
        (("presets", "shape"), ("did you mean 'shapes'",)),
        (("presets", "zzzzzz"), ("`clip-train presets` lists the",)),
        (("run", "configs/mine"), ("configs/mine cannot be read: No such file",)),
        (("run", "mine.tml"), ("mine.tml cannot be read: No such file",)),
        (("run", "shapes", "--lr", "fast"), ("optim.lr", "'fast'")),
        (("run", "shapes", "--batch-sise", "3"), ("unknown key 'batch_sise'",)),
        (("supernet", "run", "--out", "run"), ("run: no run directory, TOML file or preset",)),
        (("supernet", "mine.tml", "--out", "run"), ("mine.tml cannot be read",)),
        (("run", "cifar10-cpu", "--model.name", "zzzzzz"), ("`clip-models list` lists the",)),
        (
            ("run", "shapes-tiny", "--data.train", "wds:gone", "--out", "run"),
            ("wds:", "gone: no such file or directory", "clip-train data shapes"),
        ),
    ],
)
def test_user_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    image_folder: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    data: tuple[str | Path, ...] = ()
    if "--model.name" in arguments:
        data = ("--data.train", image_folder, "--data.val", "", "--out", tmp_path / "run")
    code, _, err = run(capsys, *arguments, *data)
    assert code == 2
    assert_one_line(err, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [(), ("fly",), ("resume", "x", "--fast"), ("data",)])
def test_wrong_commands_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(capsys, *arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clip-train")
    assert ": error: " in line


def test_help_of_run_shows_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(capsys, "run", "shapes", "--help")
    assert stop.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--overwrite" in out
    assert "--optim.lr NUMBER Peak learning rate (default: 0.002)" in out
    for key in config_keys():
        assert f"--{key}" in out


HELP = (
    ["--help"],
    ["run", "--help"],
    ["run", "shapes", "--help"],
    ["supernet", "--help"],
    ["resume", "--help"],
    ["plan", "--help"],
    ["data", "convert", "--help"],
    ["presets"],
    ["translate", "open_clip", "--", "--lr", "1"],
)


def test_help_needs_no_torch() -> None:
    program = "import sys\nfrom clip_train.cli.main import main\n"
    program += (
        f"for words in {HELP!r}:\n    try:\n        main(words)\n    except SystemExit as stop:\n"
    )
    program += "        assert stop.code == 0\nassert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_flag_without_its_section_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "run", "shapes", "--out", "run", "--clip-norm", "1")
    assert code == 2
    assert_one_line(err, "unknown key 'clip_norm'; did you mean 'optim.clip_norm'?")


def test_empty_and_missing_folders(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("empty", "gone"):
        data = ("--data.train", f"imagefolder:{tmp_path / source}", "--data.val", "")
        code, _, err = run(capsys, "run", "cifar10-cpu", *data, "--out", tmp_path / "run")
        assert code == 2
        assert_one_line(err, str(tmp_path / source))
    data = ("--data.train", image_folder, "--data.val", tmp_path / "empty")
    code, _, err = run(capsys, "run", "cifar10-cpu", *data, "--out", tmp_path / "run")
    assert code == 2
    assert_one_line(err, str(tmp_path / "empty"))
    assert not (tmp_path / "run").exists()


def test_other_classes_in_val_than_in_train_are_allowed(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    """Zero-shot: what is evaluated need not have been trained."""
    shutil.copytree(image_folder, tmp_path / "val")
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "horse")
    data = ("--data.train", image_folder, "--data.val", tmp_path / "val")
    code, out, _ = run(capsys, "run", "cifar10-cpu", *data, *SHORT, "--out", tmp_path / "run")
    assert code == 0
    assert "chance 50.00 %" in out


def test_missing_shard(capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
    code, _, err = run(
        *(capsys, "run", "shapes-tiny", "--out", tmp_path / "run", "--data.val", shapes / "val"),
        *("--data.train", f"wds:{shapes}/train/shapes-{{000000..000009}}.tar"),
    )
    assert code == 2
    assert_one_line(err, "shapes-000003.tar")


@pytest.mark.filterwarnings("always:.*shapes-000001")
def test_a_truncated_shard_is_used_up_to_its_end(
    capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path
) -> None:
    shutil.copytree(shapes / "train", tmp_path / "train")
    cut = tmp_path / "train" / "shapes-000001.tar"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    code, _, err = run(
        *(capsys, "run", "shapes-tiny", "--out", tmp_path / "run", "--data.val", ""),
        *("--data.train", f"wds:{tmp_path}/train", *SHORT),
    )
    assert code == 0, err
    (line,) = [line for line in err.splitlines() if "shapes-000001.tar" in line]
    assert line.startswith("clip-train: warning: ")
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (fault,) = [row for row in rows if row["kind"] == "fault"]
    assert fault["step"] == 0
    assert sum(fault["counts"].values()) == 1
    assert "shapes-000001.tar" in fault["samples"][0]


def test_class_names_from_a_file(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ttabby cat\ndog\tpoodle\n")
    data = ("--data.train", image_folder, "--data.val", image_folder, "--data.classnames", names)
    out = ("--out", tmp_path / "run")
    assert run(capsys, "run", "cifar10-cpu", *data, *SHORT, *out)[0] == 0
    assert "poodle" in (tmp_path / "run" / "vocab.json").read_text()
    names.write_text("cat\nhorse\n")
    code, _, err = run(capsys, "run", "cifar10-cpu", *data, *SHORT, "--out", tmp_path / "two")
    assert code == 2
    assert_one_line(err, "'dog'", "'horse'")


def test_unwritable_output(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    data = ("--data.train", image_folder, "--data.val", "", *SHORT)
    code, _, err = run(capsys, "run", "cifar10-cpu", *data, "--out", tmp_path / "file" / "run")
    assert code == 2
    assert_one_line(err, str(tmp_path / "file"))
    code, _, err = run(capsys, "run", "cifar10-cpu", *data, "--out", tmp_path / "file")
    assert code == 2
    assert_one_line(err, "already exists")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_existing_run_is_refused_without_overwrite(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    arguments = ("run", "cifar10-cpu", "--data.train", image_folder, "--data.val", "", *SHORT)
    out = ("--out", tmp_path / "run")
    assert run(capsys, *arguments, *out)[0] == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    code, _, err = run(capsys, *arguments, *out)
    assert code == 2
    assert_one_line(err, "already exists", "clip-train resume", "--overwrite")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert run(capsys, *arguments, *out, "--overwrite")[0] == 0
    assert (tmp_path / "run.old-1" / "model.safetensors").read_bytes() == before


def test_too_few_samples_for_a_batch(
    capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path
) -> None:
    data = ("--data.train", image_folder, "--data.val", "", "--out", tmp_path / "run")
    code, _, err = run(capsys, "run", "cifar10-cpu", "--train.batch-size", "13", *data)
    assert code == 2
    assert_one_line(err, "12 samples", "train.batch_size = 13")


def test_data_shapes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sizes = ("--train", "10", "--val-per-class", "1", "--image-size", "32")
    code, out, _ = run(capsys, "data", "shapes", "--out", tmp_path / "shapes", *sizes)
    assert code == 0
    assert "10 training images" in out
    assert "144 images of 144 held-out classes" in out
    code, _, err = run(capsys, "data", "shapes", "--out", tmp_path / "shapes", *sizes)
    assert code == 2
    assert_one_line(err, str(tmp_path / "shapes"), "--overwrite")


@pytest.mark.parametrize("command", ["shapes", "convert"])
def test_overwriting_renames_the_existing_directory(
    capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    words: list[str | Path] = ["--train", "2", "--val-per-class", "1", "--image-size", "32"]
    if command == "convert":
        words = [f"wds:{shapes}/train"]
    words += ["--out", tmp_path / "out", "--quiet"]
    code, _, err = run(capsys, "data", command, *words)
    assert code == 2
    assert_one_line(err, str(tmp_path / "out"), "--overwrite")
    code, _, err = run(capsys, "data", command, *words, "--overwrite")
    assert (code, err) == (0, "")
    assert (tmp_path / "out.old-1" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_a_conversion_does_not_set_its_own_source_aside(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(shapes / "train", tmp_path / "data" / "train")
    before = sorted(tmp_path.rglob("*"))
    for out in (place, place.parent):
        words = (f"wds:{place}", "--out", out, "--overwrite")
        code, _, err = run(capsys, "data", "convert", *words)
        assert code == 2
        assert_one_line(err, f"{out} holds the source itself")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_named_data_set_is_downloaded_into_a_new_directory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def open_data(spec: str, *, default_split: str, **options: object) -> None:
        asked.append((spec, default_split))
        raise DataError("no network")

    monkeypatch.setattr("clip_train.data.sources.open_data", open_data)
    data = ("--data.train", f"cifar10:{tmp_path / 'new'}")
    code, _, err = run(capsys, "run", "cifar10-cpu", *data, "--out", tmp_path / "run")
    assert code == 2
    assert_one_line(err, "no network")
    assert asked == [(f"cifar10:{tmp_path / 'new'}", "train")]
