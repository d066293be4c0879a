"""Embeddings in many files: cut alike by all processes, whole or absent, each image once."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_eval import EvaluationError, read_embeddings
from clip_eval.cli.main import main
from clip_eval.encoding import embedding_parts
from clip_eval.encoding.embedding_parts import PLAN, choose_task, read_embedding_file
from clip_models.command_line import LaunchError


@pytest.fixture
def embed(trained_directory: Path) -> Callable[..., int]:
    return lambda *more: main(["embed", "--model", str(trained_directory), *map(str, more)])


def command(data: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("--data", data, "--out", out, "--batch-size", 4, "--quiet", "--rows-per-file", 5, *more)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_parts_of_two_processes_are_the_whole(
    embed: Callable[..., int], color_folder: Path, tmp_path: Path, suffix: str
) -> None:
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / "parts"
    assert embed("--data", color_folder, "--out", whole, "--quiet") == 0
    for task in ("2/2", "1/2", "1/3"):  # the last one finds its file made
        assert embed(*command(color_folder, out, "--task", task, "--format", suffix)) == 0
    files = [path.name for path in sorted(out.glob("part-*"))]
    assert files == [f"part-{n:06d}-of-000003.{suffix}" for n in range(3)]
    keys, features = read_embeddings(out)
    expected, rows = read_embeddings(whole)
    assert keys == expected
    np.testing.assert_allclose(features, rows, atol=1e-6)


def test_an_image_of_several_parts_counts_once(
    embed: Callable[..., int], color_folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.csv"
    images = sorted(color_folder.glob("*/*.png"))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "caption"])
        for caption in range(2):  # the second caption of an image is two parts away
            writer.writerows([path.relative_to(tmp_path), f"caption {caption}"] for path in images)
    out = tmp_path / "parts"
    assert embed(*command(Path(f"csv:{table}"), out, "--thumbnails", 16)) == 0
    found = read_embedding_file(out)
    assert len(found.keys) == len(set(found.keys)) == len(found.thumbnails) == 12


def test_a_part_without_a_usable_image_is_a_file(
    embed: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in sorted(color_folder.glob("*/*.png"))[5:10]:
        path.write_bytes(b"")
    assert embed(*command(color_folder, tmp_path / "parts")) == 0
    shown = capsys.readouterr().out
    assert "0 embeddings, 5 skipped" in shown
    assert shown.rstrip().endswith("complete")
    assert len(read_embeddings(tmp_path / "parts")[0]) == 7


def test_what_does_not_fit_is_refused(
    embed: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "parts"
    assert embed(*command(color_folder, out, "--task", "1/2")) == 0
    assert "1 of 3 files are missing" in capsys.readouterr().out
    with pytest.raises(EvaluationError, match=r"1 part of 3 missing, the first is part-000001-of"):
        read_embeddings(out)
    assert embed(*command(color_folder, out, "--rows-per-file", 6)) == 2
    assert "holds parts with rows_per_file 5, now it is 6" in capsys.readouterr().err
    shutil.rmtree(color_folder / "red")
    assert embed(*command(color_folder, out)) == 2
    assert "holds parts with samples 12, now it is 8" in capsys.readouterr().err
    assert embed(*command(color_folder, color_folder)) == 2
    assert "holds other files" in capsys.readouterr().err
    assert embed(*command(color_folder, out, "--overwrite")) == 2
    assert "without --overwrite" in capsys.readouterr().err
    assert embed("--data", color_folder, "--out", "x.npz", "--task", "1/2") == 2
    assert "--task and --format are for --rows-per-file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "plan", ["[]", "{}", '{"data": "x", "samples": -1}', "not JSON", '{"samples": 1e99}']
)
def test_a_damaged_plan_is_one_line(tmp_path: Path, plan: str) -> None:
    (tmp_path / PLAN).write_text(plan)
    with pytest.raises(EvaluationError):
        read_embeddings(tmp_path)


def test_types_of_a_plan_are_checked(
    embed: Callable[..., int], color_folder: Path, tmp_path: Path
) -> None:
    assert embed(*command(color_folder, tmp_path / "parts")) == 0
    plan = tmp_path / "parts" / PLAN
    values = json.loads(plan.read_text())
    for name, wrong in (("samples", "12"), ("rows_per_file", 0), ("suffix", "/../x.npz")):
        plan.write_text(json.dumps(values | {name: wrong}))
        with pytest.raises(EvaluationError, match="does not say how embeddings are cut"):
            read_embeddings(tmp_path / "parts")


def test_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert choose_task(None) == (0, 1)
    assert choose_task("3/8") == (2, 8)
    for wrong in ("0/2", "3/2", "2", "a/b", "-1/2", "1/0", ""):
        with pytest.raises(EvaluationError, match="pass --task I/N"):
            choose_task(wrong)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert choose_task(None) == (3, 4)
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(LaunchError):
        choose_task(None)
    for name, value in (("ID", "7"), ("MIN", "5"), ("COUNT", "10")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert choose_task(None) == (2, 10)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "x")
    with pytest.raises(EvaluationError, match="pass --task I/N"):
        choose_task(None)


def test_interrupted_writers_lose_and_double_nothing(
    embed: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, rng, write = tmp_path / "parts", random.Random(0), embedding_parts.write_embeddings
    interrupted = 0

    def sometimes(path: Path, found: embedding_parts.Embeddings) -> None:
        nonlocal interrupted
        if rng.random() < 0.5:
            interrupted += 1
            path.with_name(f".{path.name}.part").write_bytes(b"half")  # what SIGKILL leaves
            raise KeyboardInterrupt
        write(path, found)

    monkeypatch.setattr(embedding_parts, "write_embeddings", sometimes)
    processes = 4
    while any(embed(*command(color_folder, out, "--task", f"{n + 1}/4")) for n in range(processes)):
        pass
    assert interrupted
    assert len(list(out.glob("part-*"))) == 3
    assert sorted(read_embeddings(out)[0]) == sorted(
        str(path.relative_to(color_folder)) for path in color_folder.glob("*/*.png")
    )


@pytest.mark.slow
def test_eight_killed_processes_lose_and_double_nothing(
    embed: Callable[..., int], trained_directory: Path, color_folder: Path, tmp_path: Path
) -> None:
    """SIGKILL at random times; each process is started again until it ends by itself."""
    for number in range(4, 120):
        for name in ("red", "green", "blue"):
            source = color_folder / name / f"{number % 4}.png"
            shutil.copy(source, color_folder / name / f"{number}.png")
    out, rng, kills = tmp_path / "parts", random.Random(0), 0
    base = [sys.executable, "-m", "clip_eval", "embed", "--model", str(trained_directory)]
    tasks = {
        f"{n}/8": rng.uniform(1, 12) for n in range(1, 9)
    }  # seconds until a process is killed; later ones get longer
    while tasks:
        running = []
        for task in tasks:
            words = [*base, *map(str, command(color_folder, out, "--task", task))]
            running.append((task, subprocess.Popen(words, stdout=subprocess.DEVNULL)))
        began = time.monotonic()
        while running:
            for task, process in list(running):
                if process.poll() == 0:
                    del tasks[task]
                elif time.monotonic() - began > tasks[task]:
                    process.send_signal(signal.SIGKILL)
                    kills += process.wait() != 0
                    tasks[task] *= 2
                else:
                    continue
                running.remove((task, process))
            time.sleep(0.02)
    assert kills
    keys, features = read_embeddings(out)
    assert len(keys) == len(set(keys)) == 3 * 120
    whole = tmp_path / "whole.npz"
    assert embed("--data", color_folder, "--out", whole, "--quiet") == 0
    np.testing.assert_allclose(features, read_embeddings(whole)[1], atol=1e-6)
