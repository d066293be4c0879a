"""What goes wrong with real data and real machines, end to end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval.cli.main import main
from clip_eval.encoding import batches
from clip_eval.encoding import cache as embedding_cache


@pytest.fixture
def run(trained_directory: Path, tmp_path: Path) -> Callable[..., int]:
    def call(data: object, *more: object, out: str = "out") -> int:
        model = ["--model", str(trained_directory), "--quiet"]
        return main(
            ["run", *model, "--data", str(data), "--out", str(tmp_path / out), *map(str, more)]
        )

    return call


def result(tmp_path: Path, out: str = "out") -> dict[str, Any]:
    return json.loads((tmp_path / out / "result.json").read_text(encoding="utf-8"))


def test_folders_in_any_order_give_the_same_classes(
    run: Callable[..., int], color_folder: Path, tmp_path: Path
) -> None:
    assert run(color_folder) == 0
    names = tmp_path / "names.txt"
    for number, order in enumerate((["red", "green", "blue"], ["green", "blue", "red"])):
        names.write_text("\n".join(order) + "\n")
        assert run(color_folder, "--classnames", names, out=f"o{number}") == 0
        found = result(tmp_path, f"o{number}")
        assert found["metrics"] == result(tmp_path)["metrics"]
        assert [score["name"] for score in found["per_class"]] == order
        assert all(score["accuracy"] == 1.0 for score in found["per_class"])


def test_an_extra_folder_prints_both_lists(
    run: Callable[..., int], color_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(color_folder / "red", color_folder / "crimson")
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\nmauve\n")
    assert run(color_folder, "--classnames", tmp_path / "names.txt") == 2
    error = capsys.readouterr().err
    assert "'crimson'" in error
    assert "'mauve'" in error


def test_names_of_every_script_and_with_braces(
    run: Callable[..., int], tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    names = ["{c}", "{0} {}", "красный", "赤い", "a\u0301 red", "100% <b>&amp;</b>"]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "ü {x}.png").write_bytes(encode((250, 10, 10)))
    assert run(tmp_path / "data") == 0
    found = result(tmp_path)
    assert found["n"] == 6
    assert "á red" in found["classnames"]  # NFC
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["label"] for line in lines} == set(found["classnames"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<b>&amp;</b>" not in page


def test_two_classes_of_one_name(
    run: Callable[..., int], color_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("red\tred\ngreen\tred\nblue\tblue\n")
    assert run(color_folder, "--classnames", tmp_path / "names.txt") == 0
    found = result(tmp_path)
    assert [score["n"] for score in found["per_class"]] == [4, 4, 4]
    assert any("share a name: red" in warning for warning in found["warnings"])
    lines = [
        json.loads(x) for x in (tmp_path / "out" / "predictions.jsonl").read_text().split("\n") if x
    ]
    assert {(line["label"], line["label_id"]) for line in lines} == {
        ("red", 0),
        ("red", 1),
        ("blue", 2),
    }


def test_a_run_that_broke_off_goes_on_where_it_was(
    run: Callable[..., int], color_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(color_folder, "--no-cache") == 0
    decoded: list[bytes] = []
    decode = batches.decode_image

    def until(limit: int) -> Callable[[bytes], Any]:
        def call(data: bytes) -> Any:
            decoded.append(data)
            if len(decoded) > limit:
                raise KeyboardInterrupt
            return decode(data)

        return call

    monkeypatch.setattr(batches, "decode_image", until(7))
    assert run(color_folder, "--batch-size", 2, out="broken") == 130
    assert not (tmp_path / "broken" / "result.json").exists()
    assert len(decoded) == 8
    monkeypatch.setattr(batches, "decode_image", until(99))
    assert run(color_folder, "--batch-size", 2, out="broken") == 0
    assert len(decoded) == 8 + 12 - 6  # three whole batches were remembered
    whole, resumed = result(tmp_path), result(tmp_path, "broken")
    for key in ("metrics", "per_class", "content", "confusions"):
        assert whole[key] == resumed[key]


WAITS_AFTER_FOUR_FILES = """
import sys, time
from clip_eval.cli.main import main
from clip_eval.encoding import cache

def write(store, write=cache.EmbeddingStore._write):
    write(store)
    while store.directory.parent.name == "images" and len(store._files()) == 4:
        time.sleep(1)

cache.SECONDS_PER_FILE, cache.EmbeddingStore._write = 0.0, write
sys.exit(main())
"""


def test_a_killed_run_leaves_what_it_had_embedded(
    trained_directory: Path, color_folder: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    script = tmp_path / "waits.py"
    script.write_text(WAITS_AFTER_FOUR_FILES)
    command = ["run", "--model", trained_directory, "--data", color_folder, "--out", out]
    command += ["--cache", cache, "--batch-size", "3", "--quiet", "--task", "classify"]
    process = subprocess.Popen([sys.executable, script, *map(str, command)])
    try:
        while len(list((cache / "images").glob("*/*.npy"))) < 4:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "result.json").exists()
    (store,) = (cache / "images").iterdir()
    assert len(embedding_cache.EmbeddingStore(store)) == 12
    assert run(color_folder, "--cache", cache) == 0
    assert result(tmp_path)["metrics"]["acc1"] == 1.0
