"""Nothing that a config, a flag or a file name says is ever run as a command."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from clip_eval.cli.main import main as clip_eval
from clip_eval.data import BadImage, Source, decode_image, open_source
from clip_models import CLIP, get_config, save_model
from clip_models.config import PreprocessConfig, to_dict
from clip_tokenizer import Tokenizer
from clip_train import Config, train
from clip_train.cli.main import main as clip_train

KINDS = (
    *("", "wds:", "imagefolder:", "csv:", "parquet:", "coco:", "tfrecord:", "corenet:"),
    *("cifar10:", "cifar100:"),
)
COMMANDS = (
    "pipe:touch {mark}",
    "pipe:touch {mark}; cat x://a.tar",
    "PIPE:touch {mark}",
    " pipe:touch {mark}",
    "pipe:touch {mark} #{{0..1}}.tar",
    "$(touch {mark}).tar",
    "`touch {mark}`.tar",
    "| touch {mark}",
    "simplecache::pipe://touch {mark}",
    "ssh://-oProxyCommand=touch {mark}/x.tar",
    "file://x.tar; touch {mark}",
)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once a command has run, in an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    # Downloads of torchvision's sets fail at once.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "ran"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an untrained model and its tokenizer."""
    directory = tmp_path_factory.mktemp("model")
    config = get_config("Compact-48")
    save_model(directory, CLIP(config), PreprocessConfig(size=48))
    Tokenizer.from_bytes().save(directory)
    return directory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_in_a_source(
    kind: str,
    command: str,
    mark: Path,
    model: Path,
    tiny_config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = kind + command.format(mark=mark)
    for order in ("exact", "stream"):
        config = to_dict(tiny_config)
        config["data"] |= {"train": spec, "order": order}
        config["data"] |= {"epoch_samples": 96} if order == "stream" else {}
        Path("config.toml").write_text(tomli_w.dumps(config))
        flags = [word for key in ("train", "val") for word in (f"--data.{key}", spec)]
        flags += ["--data.cache-images", "false", "--data.order", order]
        flags += ["--data.epoch-samples", "8"] if order == "stream" else []
        for more in ([], ["--dry-run"]):
            assert clip_train(["run", "config.toml", "--out", "run", *more]) == 2
            assert clip_train(["run", "shapes-tiny", "--out", "run", *flags, *more]) == 2
    assert clip_train(["data", "inspect", spec]) == 2
    assert clip_train(["data", "convert", spec, "--out", "converted"]) == 2
    assert clip_eval(["inspect", spec]) == 2
    assert clip_eval(["run", "--model", "none", "--data", spec, "--out", "results"]) == 2
    assert clip_eval(["embed", "--model", str(model), "--data", spec, "--out", "e.npz"]) == 2
    # Each was refused for the sake of its source, not of another mistake before that is opened.
    for line in capsys.readouterr().err.splitlines():
        assert not re.search(r"model directory|can neither|--help", line), line
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["", "wds:"])
def test_a_command_is_refused_with_what_to_name_instead(kind: str, mark: Path) -> None:
    with pytest.raises(Exception, match=r"got a command, which is never run; name the\s+object"):
        open_source(f"{kind}pipe:touch {mark}")


@pytest.mark.parametrize("spec", ["wds:*.tar", "wds:.", ".", "*.tar"])
@pytest.mark.parametrize("order", ["exact", "stream"])
def test_in_the_name_of_a_file(
    spec: str, order: str, mark: Path, shapes: Path, tiny_config: Config
) -> None:
    shard = (shapes / "train" / "shapes-000000.tar").read_bytes()
    Path("pipe:touch ran #.tar").write_bytes(shard)
    Path("$(touch ran).tar").write_bytes(shard)
    changes = {"train": spec, "val": "", "order": order}
    data = dataclasses.replace(
        tiny_config.data, **changes, epoch_samples=16 if order == "stream" else None
    )
    config = dataclasses.replace(tiny_config, data=data)
    train(config, Path("run"), progress=False)
    assert Path("run/model.safetensors").is_file()
    assert len(open_source(spec)) > 2
    assert not Path("ran").exists()
    assert not mark.exists()


def test_in_a_run_directory_that_is_resumed(
    mark: Path, shapes: Path, tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataclasses.replace(
        tiny_config.data, train=f"wds:{shapes}/train", val="", order="stream", epoch_samples=16
    )
    train(dataclasses.replace(tiny_config, data=data), Path("run"), progress=False)
    config = Path("run/config.toml")
    text = config.read_text()
    assert f"wds:{shapes}/train" in text
    for command in COMMANDS[:2]:
        config.write_text(text.replace(f"wds:{shapes}/train", f"wds:{command.format(mark=mark)}"))
        shutil.rmtree("run/checkpoints/step-0000014", ignore_errors=True)
        assert clip_train(["resume", "run"]) == 2
        assert not mark.exists()
    assert capsys.readouterr().err


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    b"0 0 8 8 rectfill showpage\n%%EOF\n"
)


def folder_of(directory: Path) -> str:
    (directory / "a").mkdir(parents=True)
    for number in range(2):
        (directory / "a" / f"{number}.jpg").write_bytes(POSTSCRIPT)
    return f"imagefolder:{directory}"


def shard_of(directory: Path) -> str:
    folder_of(directory / "files")
    with tarfile.open(directory / "0.tar", "w") as tar:
        tar.add(directory / "files" / "a" / "0.jpg", "0.jpg")
    return f"wds:{directory}/0.tar"


def table_of(directory: Path) -> str:
    folder_of(directory)
    (directory / "t.csv").write_text("path,caption\na/0.jpg,a square\n")
    return f"csv:{directory}/t.csv"


@pytest.mark.parametrize("make", [folder_of, shard_of, table_of])
def test_no_image_starts_a_program(
    make: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", refuse)
    source: Source = open_source(make(tmp_path))
    with pytest.raises(BadImage, match="expected one of JPEG"):
        decode_image(source.read(0).image)
