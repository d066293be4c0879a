"""Commands are never run: the usual copies are read as the URL that they copy, others refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from clip_eval.data import DataError, absolute_source, open_source
from clip_eval.data.commands import translate_command


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("aws s3 cp s3://b/{000..012}.tar -", "s3://b/{000..012}.tar"),
        ("aws s3 cp --quiet s3://b/a.tar - --region eu-west-1", "s3://b/a.tar"),
        ("s5cmd cat s3://b/a.tar", "s3://b/a.tar"),
        ("gsutil cat gs://b/{0..3}.tar", "gs://b/{0..3}.tar"),
        ("gsutil -m cp 'gs://b/a.tar' -", "gs://b/a.tar"),
        ("gcloud storage cat gs://b/a.tar", "gs://b/a.tar"),
        ("curl -s -L https://host/{00..11}.tar", "https://host/{00..11}.tar"),
        ("curl -sfL --retry 3 https://host/a.tar || true", "https://host/a.tar"),
        ("wget -qO- http://host/a.tar", "http://host/a.tar"),
        ("wget -q -O - http://host/a.tar", "http://host/a.tar"),
    ],
)
def test_the_usual_copies_are_the_url_that_they_copy(command: str, url: str) -> None:
    assert translate_command(f"pipe:{command}") == url
    assert absolute_source(f"wds:pipe:{command}") == f"wds:{url}"


@pytest.mark.parametrize(
    "command",
    [
        *("cat x", "", "touch x", "aws s3 cp", "'", "hadoop fs -cat hdfs://b/a.tar"),
        "aws s3 cp s3://b/a.tar - ; touch x",
        "aws s3 cp s3://b/a.tar - | gunzip",
        "aws s3 cp s3://b/$(touch x).tar -",
        "aws s3 cp s3://b/a.tar s3://b/b.tar",
        "aws s3 cp s3://b/a.tar - --endpoint-url https://host",
        "aws s3 cp s3://b/a.tar - --profile me",
        "curl -H Authorization:x https://host/a.tar",
        "curl -k https://host/a.tar",
        "curl file:///etc/passwd",
        "gsutil cat s3://b/a.tar",
    ],
)
@pytest.mark.parametrize("prefix", ["pipe:", " PIPE:"])
def test_other_commands_are_refused(command: str, prefix: str) -> None:
    with pytest.raises(DataError, match="got a command, which is never run; name the object"):
        translate_command(f"{prefix}{command}")
    for spec in (f"{prefix}{command}", f"wds:{prefix}{command}"):
        with pytest.raises(DataError, match="got a command, which is never run"):
            open_source(spec)


def test_the_source_says_that_no_command_is_run(
    color_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/b/0.tar", (color_shards / "test" / "0.tar").read_bytes())
    for module in ("urls", "shards.cache"):
        monkeypatch.setattr(
            f"clip_eval.data.{module}.open_location",
            lambda url: memory.open(url.replace("s3://", "memory://")),
        )
    source = open_source("wds:pipe:aws s3 cp s3://b/0.tar -")
    assert len(source) == 6
    assert source.warnings == (
        "the command in wds:pipe:aws s3 cp s3://b/0.tar - is not run; s3://b/0.tar is read",
    )
    memory.rm("/b/0.tar")


def test_the_home_directory_is_found_behind_a_prefix(
    color_shards: Path, color_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(color_shards.parent))
    (color_shards.parent / "t.csv").write_text("path,caption\nred/0.png,red\n")
    for spec, count in (
        ("wds:~/wds", 12),
        ("wds:~/wds/test/{0..1}.tar", 12),
        ("imagefolder:~/colors", 12),
        ("~/wds", 12),
    ):
        assert len(open_source(spec)) == count
        assert absolute_source(spec) == spec.replace("~", str(color_shards.parent))
    table = open_source("csv:~/t.csv", image_root="~/colors")
    assert table.read(0).captions == ("red",)
    with pytest.raises(DataError, match=f"{color_shards.parent}/absent: no such file or directory"):
        open_source("wds:~/absent")


@pytest.mark.parametrize("spec", ["", " ", "wds:", "imagefolder: ", "csv:", "cifar10:"])
def test_an_empty_path_is_not_the_current_directory(
    spec: str, color_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(color_folder)
    with pytest.raises(DataError, match=r"got an empty text|expected a path after"):
        open_source(spec)
