"""Every long command is killed at random moments, and its disk fills at random points.

Whatever happens, the same command, or `resume`, ends in the results of an uninterrupted run.
`KILLS` in the environment is the number of kills, and of full disks, of each command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "20"))
LIMIT_SECONDS = 300
WORKER = Path(__file__).parent / "workers" / "command_process.py"
FACTORIES = """
import torch
from torch import nn
from osf_supernet.training import Classification

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 64), nn.GELU(), nn.Linear(64, 3)), torch.randn(2, 6)

def data(batch_size):
    def batch_of(step):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(batch_size, 6, generator=generator)
        return x, (x.sum(1) > 0).long()

    task = Classification()
    return task, batch_of, lambda model: task.evaluate(model, [batch_of(-1)]), []
"""
TRAIN = [
    *("--data.train", "wds:shapes/train", "--data.workers", "1"),
    *("--model.name", "Compact-48", "--tokenizer.kind", "bytes", "--train.batch-size", "8"),
    *("--log.every-steps", "1", "--checkpoint.every-steps", "3", "--quiet"),
]
SMALL_LM = {
    "model.width": 16,
    "model.num_heads": 2,
    "model.head_dim": 8,
    "model.feedforward": 16,
    "model.shortened_layers": 1,
    "steps": 200,
    "context": 64,
    "batch_size": 2,
    "evaluate_every": 10,
    "log_every": 5,
    "evaluation_window": 64,
    "evaluation_stride": 32,
}
OSF = ["--data", "osf_factories:data", "--batch-size", "16"]


@dataclass(frozen=True)
class Command:
    """A long command, in words for the folder that holds its data.

    Attributes:
        module: Where its `main` is.
        words: With `{out}` for what is written.
        again: What continues it, where `marker` is in the run directory; by default the same.
        marker: File by which a run directory is known.
        results: From what was written to what must be equal.
    """

    module: str
    words: list[str]
    results: Callable[[Path], Any]
    again: list[str] | None = None
    marker: str = ""

    def next_words(self, out: Path) -> list[str]:
        """What a user types, given what is there."""
        has_begun = self.again is not None and (out / self.marker).is_file()
        words = self.again if has_begun else self.words
        assert words is not None
        return [word.format(out=out) for word in words]


def digests(out: Path, *patterns: str) -> dict[str, str]:
    found = sorted(file for pattern in patterns for file in out.glob(pattern))
    assert found
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


def rows(out: Path, *keys: str) -> list[Any]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [
        [row[key] for key in ("kind", "step", *keys) if key in row]
        for row in map(json.loads, lines)
    ]


def training(out: Path) -> Any:
    return digests(out, "*.safetensors", "subnets/*/*.safetensors"), rows(out, "loss", "acc1")


def embeddings(out: Path) -> Any:
    with np.load(out) as arrays:
        return {name: arrays[name].tobytes() for name in arrays}


def evaluations(out: Path) -> Any:
    found = []
    for file in sorted(out.rglob("result.json")):
        result = json.loads(file.read_text())
        found.append([result[key] for key in ("metrics", "n", "n_skipped")])
    assert found
    return found


def front(out: Path) -> Any:
    return json.loads((out / "front.json").read_text())


COMMANDS = {
    "clip-train run": Command(
        "clip_train.cli.main",
        ["run", "shapes-tiny", *TRAIN, "--data.val", "", "--train.steps", "40", "--out", "{out}"],
        training,
        ["resume", "{out}", "--quiet"],
        "config.toml",
    ),
    "clip-train supernet": Command(
        "clip_train.cli.main",
        [
            *("supernet", "model", "--train.steps", "8", "--checkpoint.every-steps", "2"),
            *("--log.every-steps", "1", "--data.workers", "0", "--data.val", ""),
            *("--keep", "0.9", "--population", "4", "--out", "{out}", "--quiet"),
        ],
        training,
        ["resume", "{out}", "--quiet"],
        "config.toml",
    ),
    "clip-train data convert": Command(
        "clip_train.cli.main",
        ["data", "convert", "wds:shapes/train", "--shard-size", "8", "--quiet", "--out", "{out}"],
        lambda out: digests(out, "*.tar", "*.json"),
    ),
    "clip-eval embed": Command(
        "clip_eval.cli.main",
        [
            *("embed", "--model", "model", "--data", "shapes/val", "--batch-size", "8"),
            *("--out", "{out}.npz", "--quiet"),
        ],
        lambda out: embeddings(out.with_name(f"{out.name}.npz")),
    ),
    "clip-eval run": Command(
        "clip_eval.cli.main",
        [
            *("run", "--model", "model", "--data", "shapes/val", "--batch-size", "8"),
            *("--out", "{out}", "--cache", "{out}-cache", "--quiet", "--workers", "2"),
        ],
        evaluations,
    ),
    "dtp-lm train": Command(
        "dtp_pooling.cli",
        [
            *("train", "text.txt", "--out", "{out}", "--preset", "cpu-gumbel", "--device", "cpu"),
            *(word for key, value in SMALL_LM.items() for word in (f"--{key}", str(value))),
            "--quiet",
        ],
        lambda out: (digests(out, "checkpoints/*/*.safetensors"), rows(out, "bits")),
        ["resume", "{out}", "--quiet", "--device", "cpu"],
        "run.json",
    ),
    "osf train": Command(
        "osf_supernet.cli",
        [
            *("train", "osf_factories:make", *OSF, "--steps", "300", "--save-interval", "10"),
            *("--out", "{out}", "--quiet"),
        ],
        lambda out: digests(out, "*.safetensors"),
        ["resume", "{out}", "--model", "osf_factories:make", *OSF, "--quiet"],
        "run.json",
    ),
    "osf search": Command(
        "osf_supernet.cli",
        [
            *("search", "osf_factories:make", *OSF, "--population", "24", "--generations", "12"),
            *("--out", "{out}"),
        ],
        front,
        ["resume", "{out}", "--model", "osf_factories:make", *OSF],
        "run.json",
    ),
}


@pytest.fixture(scope="module")
def server() -> Any:
    """Forks processes in which the packages are imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("clip_train.cli.training", "clip_train.cli.data", "clip_train.cli.main"),
            *("clip_eval.cli.main", "dtp_pooling.commands.training", "osf_supernet.commands.runs"),
        ]
    )
    return context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: Any) -> Path:
    """Data and a small trained model."""
    path = tmp_path_factory.mktemp("data")
    (path / "osf_factories.py").write_text(FACTORIES)
    (path / "text.txt").write_text("one two three four five six seven eight nine ten " * 60)
    words = ["data", "shapes", "--out", "shapes", "--train", "96", "--val-per-class", "1"]
    run_or_fail(server, path, "clip_train.cli.main", [*words, "--image-size", "48", "--quiet"])
    words = ["run", "shapes-tiny", *TRAIN, "--train.steps", "6", "--data.val", "", "--out", "model"]
    run_or_fail(server, path, "clip_train.cli.main", words)
    return path


def start(server: Any, folder: Path, module: str, words: list[str]) -> BaseProcess:
    log = str(folder / "log.txt")
    arguments = (module, words, str(folder), log)
    code = f"import runpy; runpy.run_path({str(WORKER)!r})['call'](*{arguments!r})"
    process: BaseProcess = server.Process(target=exec, args=(code,))
    process.start()
    return process


def run(server: Any, folder: Path, module: str, words: list[str]) -> tuple[int, str]:
    """Exit code and output of a command that must end in time."""
    process = start(server, folder, module, words)
    process.join(LIMIT_SECONDS)
    output = (folder / "log.txt").read_text()
    assert process.exitcode is not None, f"no end: {output}"
    return process.exitcode, output


def run_or_fail(server: Any, folder: Path, module: str, words: list[str]) -> None:
    code, output = run(server, folder, module, words)
    assert code == 0, output


def finish(server: Any, folder: Path, command: Command, out: Path) -> None:
    code, output = run(server, folder, command.module, command.next_words(out))
    assert code == 0 or is_done(output), output


def is_done(output: str) -> bool:
    """Whether a command refuses because the one that was killed had written all."""
    return "is finished; there is nothing to resume" in output or "exists already;" in output


def clear(out: Path) -> None:
    for path in (out, out.with_name(f"{out.name}-cache")):
        shutil.rmtree(path, ignore_errors=True)
    out.with_name(f"{out.name}.npz").unlink(missing_ok=True)


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> Command:
    return COMMANDS[request.param]


def test_kills_at_random_moments_change_no_bit(
    server: Any, folder: Path, command: Command, tmp_path: Path
) -> None:
    finish(server, folder, command, tmp_path / "warm")  # what is imported only now is so no more
    before = time.monotonic()
    finish(server, folder, command, tmp_path / "whole")
    duration = time.monotonic() - before
    expected = command.results(tmp_path / "whole")
    rng, out = random.Random(f"{command.words}"), tmp_path / "killed"
    kills = finished = 0
    while kills < KILLS:
        process = start(server, folder, command.module, command.next_words(out))
        process.join(rng.uniform(0, duration))
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()
            kills += 1
            continue
        output = (folder / "log.txt").read_text()
        assert process.exitcode == 0 or is_done(output), output
        assert command.results(out) == expected
        finished += 1
        clear(out)
    finish(server, folder, command, out)
    assert command.results(out) == expected
    print(f"{kills} kills within {duration:.1f} s, {finished + 1} results, all equal")


@contextlib.contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    options = f"size={size}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_full_disks_end_in_one_line_and_lose_nothing(
    server: Any, folder: Path, command: Command, tmp_path: Path
) -> None:
    disk, rng = tmp_path / "disk", random.Random(f"{command.words}")
    with small_disk(disk, 1 << 30):
        finish(server, folder, command, disk / "out")
        expected = command.results(disk / "out")
        used = sum(file.stat().st_blocks * 512 for file in disk.rglob("*"))
    full = 0
    for _ in range(KILLS):
        with small_disk(disk, max(4096, int(rng.uniform(0.02, 1) * used))):
            words = command.next_words(disk / "out")
            code, output = run(server, folder, command.module, words)
            lines = [line for line in output.splitlines() if ": error: " in line]
            if code:
                full += 1
                assert code == 2, output
                assert "Traceback" not in output
                assert len(lines) == 1, output
                assert str(disk) in lines[0], output
                assert "No space left on device" in lines[0], output
            grow = ["mount", "-o", f"remount,size={1 << 30}", str(disk)]
            subprocess.run(grow, check=True)
            finish(server, folder, command, disk / "out")
            assert command.results(disk / "out") == expected
    print(f"{full} of {KILLS} disks were full, all results equal")
