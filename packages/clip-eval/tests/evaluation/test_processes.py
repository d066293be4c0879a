"""Two processes and one: the same result, to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def evaluate(data: Path, model: Path, out: Path, *, processes: int, more: tuple[str, ...]) -> int:
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"]
    command += ["clip_eval", "run", "--model", str(model), "--data", str(data), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--quiet", "--no-cache", "--batch-size", "5", *more],
        env=environment,
        capture_output=True,
        timeout=300,
    ).returncode


@pytest.mark.parametrize(
    "task",
    [
        "classify",
        pytest.param("retrieval", marks=pytest.mark.slow),
        pytest.param("knn", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_result_of_one(
    task: str,
    color_folder: Path,
    trained_directory: Path,
    tmp_path: Path,
    encode: Callable[..., bytes],
) -> None:
    (color_folder / "green" / "broken.png").write_bytes(b"")
    for number in range(4, 9):
        (color_folder / "red" / f"{number}.png").write_bytes(encode((200, 90, 90), seed=number))
    more = ("--task", task)
    data = color_folder
    if task == "retrieval":
        data = tmp_path / "captions.csv"
        paths = sorted(path.relative_to(tmp_path) for path in color_folder.rglob("*.png"))
        rows = [f"{path},a {path.parent.name} thing {n}" for n, path in enumerate(paths)]
        data.write_text("\n".join(["path,caption", *rows]))
    more += ("--train", str(color_folder)) if task == "knn" else ()
    records = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        code = evaluate(data, trained_directory, out, processes=processes, more=more)
        assert code == 0
        records.append(json.loads((out / "result.json").read_text()))
        records[-1]["predictions"] = (out / "predictions.jsonl").read_text()
    one, two = records
    assert (one["n"], one["n_skipped"]) == (17, 1)
    assert two["settings"]["processes"] == 2
    for record in records:
        for key in ("seconds", "images_per_second", "settings"):
            record.pop(key)
    assert one == two


@pytest.mark.slow
def test_a_failure_in_one_process_ends_all(
    color_folder: Path, trained_directory: Path, tmp_path: Path
) -> None:
    table = tmp_path / "data.csv"
    rows = [f"colors/red/{n % 4}.png,{0 if n < 9 else 7}" for n in range(10)]
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    code = evaluate(
        table, trained_directory, tmp_path / "out", processes=2, more=("--classnames", str(names))
    )
    assert code != 0
    assert not (tmp_path / "out" / "result.json").exists()
