"""Whole runs on several processes: the same training as on one, and what happens when one dies."""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_models.files import load_tensors

processes = runpy.run_path(str(Path(__file__).parents[1] / "workers" / "processes.py"))

# A transformer that drops patches: bits must not depend on who computes what.
SMALL = """
[data]
train = "wds:{shapes}/train"
val = "{shapes}/val"
workers = 0
[augment]
kind = "shift"
flip = true
[model]
name = "Compact-48"
[model.vision]
kind = "vit"
image_size = 48
patch_size = 16
width = 16
num_layers = 2
num_heads = 2
patch_reduction = {{kind = "random", keep_ratio = 0.5}}
[model.text]
width = 16
num_layers = 1
num_heads = 2
[tokenizer]
kind = "bytes"
[train]
steps = 16
batch_size = 8
timeout_s = 120.0
[optim]
lr = 1e-3
warmup_steps = 2
clip_norm = 1.0
[checkpoint]
every_steps = 3
[log]
every_steps = 1
"""


NATIVE = """
[augment]
kind = "random_resized_crop"
flip = true
[model.vision]
kind = "vit"
native = true
image_size = 48
patch_size = 8
width = 16
num_layers = 2
num_heads = 2
patch_reduction = {kind = "random", keep_ratio = 0.5}
"""


@pytest.fixture
def native_recipe(recipe: Path) -> Path:
    """The same with images of their own shape and steps of a number of tokens."""
    shared = recipe.read_text().split("[augment]")[0].replace("workers = 0", NATIVE_DATA)
    rest = "[model.text]" + recipe.read_text().split("[model.text]")[1]
    file = recipe.with_name("native.toml")
    file.write_text(f'{shared}{NATIVE}{rest}[model]\nname = "Compact-48"\n')
    return file


NATIVE_DATA = """workers = 0
token_budget = 400
sequence_lengths = [12, 36]
sequence_shares = [1.0, 2.0]
caption_weight = 0.5"""


@pytest.fixture
def recipe(shapes: Path, tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(SMALL.format(shapes=shapes))
    return file


def launch(world: int, *arguments: object) -> tuple[list[Any], str]:
    words = [str(argument) for argument in arguments]
    output = f"{words[words.index('--out') + 1] if '--out' in words else words[1]}.output"
    started = processes["start_processes"](world, "command.py", arguments=words, output=output)
    return started, output


def statuses(started: list[Any], timeout: float = 300) -> list[Any]:
    """Exit status of the command on every rank; None for one that was killed."""
    found: list[Any] = []
    deadline = time.monotonic() + timeout
    for process, receiver in started:
        assert receiver.poll(max(0.0, deadline - time.monotonic())), "it did not end in time"
        try:
            good, value = receiver.recv()
            assert good, value
            found.append(value)
        except EOFError:
            found.append(None)
        process.join()
        receiver.close()
    return found


def run(world: int, *arguments: object) -> None:
    started, output = launch(world, *arguments)
    found = statuses(started)
    assert found == [0] * world, [Path(f"{output}.{rank}").read_text() for rank in range(world)]


def rows(path: Path, kind: str = "train") -> list[dict[str, Any]]:
    try:
        lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in found if row["kind"] == kind]


def wait_for_step(path: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while not any(row["step"] >= step for row in rows(path)):
        assert time.monotonic() < deadline, f"no step {step} in {path}"
        time.sleep(0.002)


def kill(started: list[Any]) -> None:
    for process, _ in started:
        os.kill(process.pid, signal.SIGKILL)


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = (load_tensors(path / "model.safetensors") for path in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    losses = [{row["step"]: row["loss"] for row in rows(path)} for path in (one, other)]
    assert losses[0] == losses[1]


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    """The same training but for the order of sums.  AdamW turns rounding of tiny gradients into
    steps of the size of the learning rate, so weights are compared as a whole."""
    first, second = ([row["loss"] for row in rows(path)] for path in (one, other))
    assert first == pytest.approx(second, rel=tolerance)
    a, b = (load_tensors(path / "model.safetensors") for path in (one, other))
    difference = torch.cat([(a[name] - b[name]).flatten() for name in a]).norm()
    assert (
        difference <= 10 * tolerance * torch.cat([value.flatten() for value in a.values()]).norm()
    )


@pytest.mark.parametrize("world", [1, 2])
def test_a_killed_run_goes_on_bit_for_bit(world: int, recipe: Path, tmp_path: Path) -> None:
    run(world, "run", recipe, "--out", tmp_path / "whole")
    started, _ = launch(world, "run", recipe, "--out", tmp_path / "killed")
    wait_for_step(tmp_path / "killed", 4)
    kill(started)
    assert statuses(started) == [None] * world
    started, _ = launch(world, "resume", tmp_path / "killed")
    wait_for_step(tmp_path / "killed", 10)
    kill(started)
    statuses(started)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    run(world, "resume", tmp_path / "killed")
    assert_same_bits(tmp_path / "whole", tmp_path / "killed")
    assert [row["step"] for row in rows(tmp_path / "killed")] == list(range(1, 17))
    assert [row["n"] for row in rows(tmp_path / "killed", "eval")] == [144]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recipe", "native_recipe"])
@pytest.mark.parametrize("world", [1, 2])
def test_twenty_kills_at_random_instants(
    world: int, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Killed while starting, in steps, in the middle of checkpoints: not one bit differs."""
    recipe: Path = request.getfixturevalue(kind)
    flags = ["--train.steps", "150", "--optim.ema-decay", "0.9", "--checkpoint.every-steps", "2"]
    run(world, "run", recipe, "--out", tmp_path / "whole", *flags)
    rng, killed = random.Random(world), tmp_path / "killed"
    landed = []
    for _ in range(20):
        begun = (killed / "config.toml").exists()
        words = ["resume", killed] if begun else ["run", recipe, "--out", killed, *flags]
        started, _ = launch(world, *words)
        before = len(rows(killed))
        if rng.random() < 0.8:  # most of them after some steps, the rest while it starts
            wait_for_step(killed, min(before + rng.randrange(1, 8), 140))
        time.sleep(rng.uniform(0, 0.3))
        kill(started)
        statuses(started)
        landed.append(len(rows(killed)))
    assert landed[-1] < 150
    run(world, "resume", killed)
    assert_same_bits(tmp_path / "whole", killed)
    print(f"steps at the kills: {landed}")


def test_processes_train_as_one(recipe: Path, tmp_path: Path) -> None:
    run(1, "run", recipe, "--out", tmp_path / "one")
    for backend, extra in (
        ("ddp", ["--train.grad_accum_steps", "2"]),
        ("fsdp2", ["--loss.tile", "3", "--optim.ema-decay", "1e-9"]),
    ):
        flags = ["--train.backend", backend, *extra]
        run(2, "run", recipe, "--out", tmp_path / backend, *flags)
        assert_close(tmp_path / "one", tmp_path / backend, 2e-4)
        evaluated = [rows(tmp_path / name, "eval")[-1] for name in ("one", backend)]
        assert evaluated[0]["n"] == evaluated[1]["n"] == 144


@pytest.mark.slow
def test_torchrun_starts_the_processes(recipe: Path, tmp_path: Path) -> None:
    words = ["run", str(recipe), "--train.steps", "4", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "clip_train", *words]
    done = subprocess.run(
        [*command, str(tmp_path / "torchrun")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run directory:") == 1
    run(2, *words, tmp_path / "forked")
    assert_same_bits(tmp_path / "torchrun", tmp_path / "forked")


def test_batch_norms_agree_across_processes(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text()
    start, stop = text.index("[model.vision]"), text.index("[model.text]")
    recipe.write_text(text[:start] + text[stop:])
    flags = ["--train.steps", "6"]
    run(1, "run", recipe, "--out", tmp_path / "one", *flags)
    run(2, "run", recipe, "--out", tmp_path / "two", *flags)
    assert_close(tmp_path / "one", tmp_path / "two", 1e-3)
    a, b = (load_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    means = [name for name in a if name.endswith("running_mean")]
    assert means
    for name in means:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("parity", [False, True])
def test_learned_augmentation_goes_with_batch_norms_whatever_is_drawn(
    recipe: Path, tmp_path: Path, parity: bool
) -> None:
    """One image a rank: often no image of a rank takes part in an operation."""
    text = recipe.read_text()
    start, stop = text.index("[model.vision]"), text.index("[model.text]")
    recipe.write_text(text[:start] + text[stop:])
    flags = ["--train.steps", "12", "--train.batch-size", "2", "--augment.range.enabled", "true"]
    flags += ["--augment.range.parity", str(parity).lower(), "--augment.kind", "none"]
    run(2, "run", recipe, "--out", tmp_path / "two", *flags, "--augment.flip", "false")
    assert len(rows(tmp_path / "two")) == 12
    if not parity:  # which draws by the first image of a rank
        run(1, "run", recipe, "--out", tmp_path / "one", *flags, "--augment.flip", "false")
        assert_close(tmp_path / "one", tmp_path / "two", 2e-3)


def test_a_signal_to_one_process_stops_all_and_fewer_continue(recipe: Path, tmp_path: Path) -> None:
    run(1, "run", recipe, "--out", tmp_path / "one")
    started, output = launch(2, "run", recipe, "--out", tmp_path / "stopped")
    wait_for_step(tmp_path / "stopped", 3)
    os.kill(started[1][0].pid, signal.SIGTERM)
    assert statuses(started) == [130, 130]
    assert "continue with `clip-train resume" in Path(f"{output}.0").read_text()
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    run(1, "resume", tmp_path / "stopped")
    assert_close(tmp_path / "one", tmp_path / "stopped", 2e-4)


def test_the_others_stop_when_one_is_gone(recipe: Path, tmp_path: Path) -> None:
    words = ["run", recipe, "--out", tmp_path / "run", "--train.timeout-s", "20"]
    started, output = launch(2, *words)
    wait_for_step(tmp_path / "run", 5)
    os.kill(started[1][0].pid, signal.SIGKILL)
    before = time.monotonic()
    assert statuses(started) == [2, None]
    assert time.monotonic() - before < 40
    assert "process 0 of 2 lost the others" in Path(f"{output}.0").read_text()
    run(2, "resume", tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 17))


def test_an_error_of_the_first_is_an_error_of_all(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("")
    started, output = launch(2, "run", recipe, "--out", tmp_path / "run")
    assert statuses(started) == [2, 2]
    assert "already exists and is not empty" in Path(f"{output}.0").read_text()
    assert "on the first process" in Path(f"{output}.1").read_text()
    started, output = launch(2, "run", recipe, "--out", tmp_path / "odd", "--train.batch-size", "9")
    assert statuses(started) == [2, 2]
    assert "must be a multiple of the number of processes" in Path(f"{output}.1").read_text()
