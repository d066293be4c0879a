"""Training on two processes equals training on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from dtp_pooling.command_line import Launch, LaunchError, read_launch
from dtp_pooling.training.processes import join_processes, rows_of_rank
from safetensors.torch import load_file

TEXT = "one two three four five six seven eight nine ten eleven twelve " * 40
VALUES = {
    "preset": "cpu-gumbel",
    "model.width": 16,
    "model.num_heads": 2,
    "model.head_dim": 8,
    "model.feedforward": 16,
    "model.shortened_layers": 1,
    "steps": 4,
    "context": 64,
    "batch_size": 3,
    "evaluate_every": 2,
    "log_every": 1,
    "evaluation_window": 64,
    "evaluation_stride": 32,
    "device": "cpu",
}
FLAGS = [f"--{key}={value}" for key, value in VALUES.items()]


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [sys.executable, *launcher, "-m", "dtp_pooling", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, check=False
    )


def records(run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_the_weights_of_one(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    two, one = tmp_path / "two", tmp_path / "one"
    done = torchrun("train", text, "--out", two, *FLAGS)
    assert done.returncode == 0, done.stderr
    alone = [sys.executable, "-m", "dtp_pooling", "train", text, "--out", one, *FLAGS]
    subprocess.run(alone, check=True, capture_output=True)
    name = "checkpoints/step-0000004/model.safetensors"
    for key, value in load_file(one / name).items():
        torch.testing.assert_close(load_file(two / name)[key], value, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(records(two), records(one), strict=True):
        for key in set(ours) - {"seconds"}:
            assert ours[key] == (theirs[key] if key == "kind" else pytest.approx(theirs[key], 1e-4))
    again = torchrun("train", text, "--out", two, *FLAGS)
    assert again.returncode != 0
    assert again.stderr.count("dtp-lm: error: ") == 1
    assert "holds a run" in again.stderr


def test_rows_are_shared_out_whole(monkeypatch):
    def rows(rank: int, world_size: int, batch: int) -> range:
        monkeypatch.setattr(
            "dtp_pooling.training.processes.rank_and_world_size", lambda: (rank, world_size)
        )
        return range(batch)[rows_of_rank(batch)]

    parts = [rows(rank, 3, 8) for rank in range(3)]
    assert [row for part in parts for row in part] == list(range(8))
    assert [len(part) for part in parts] == [3, 3, 2]
    with pytest.raises(ValueError, match="at least 3, the number of processes, got 2"):
        rows(0, 3, 2)


@pytest.mark.parametrize(
    "name",
    ["WORLD_SIZE", "RANK", "LOCAL_RANK"],
)
@pytest.mark.parametrize("value", ["x", "", " 1", "-1", "1.5", "1e0", "²", "٣", "2", "9" * 5000])
def test_wrong_variables_of_the_launcher_are_named(monkeypatch, name, value):
    for other, number in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(other, number)
    if (name, value) == ("WORLD_SIZE", "2"):
        assert read_launch() == Launch(0, 2, 0)
        return
    monkeypatch.setenv(name, value)
    message = rf"variable {name} must be a number from .* as torchrun sets it, got '{value[:30]}"
    with pytest.raises(LaunchError, match=message), join_processes("cpu"):
        pass


def test_without_torchrun_a_process_is_the_only_one(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert read_launch() == Launch()
    monkeypatch.setenv("RANK", "7")  # of another program: nobody says how many there are
    assert read_launch().is_first
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert read_launch() == Launch(rank=7, world_size=8, local_rank=0)
    assert not read_launch().is_first


@pytest.mark.parametrize("port", ["x", "99999999", "-1"])
def test_a_port_that_is_none_is_one_line(monkeypatch, port):
    group = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in group.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match="process 0 of 2 cannot join"), join_processes("cpu"):
        pass
