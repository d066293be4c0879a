"""Checks that train: resuming, several processes, reading from disk, CIFAR-10."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from clip_models.config import from_dict
from PIL import Image

from clip_train.config.presets import list_presets
from clip_train.config.run import Config
from clip_train.engine.data_components import build_data_components
from clip_train.engine.runs import resume, train
from clip_train.gpu_check.figures import Figure
from clip_train.gpu_check.setting import Setting

STEPS = 4
WEIGHTS = "model.safetensors"
SECONDS_PER_RUN = 120


def _run_values(setting: Setting) -> dict[str, Any]:
    """A config of a few steps on drawn shapes."""
    return {
        "data": {"train": "shapes:64@32"},
        "model": {"name": "Compact-48"},
        "tokenizer": {"kind": "train", "vocab_size": 600},
        "train": {"steps": STEPS, "batch_size": 16, "device": str(setting.device)},
        "optim": {"warmup_steps": 1},
        "checkpoint": {"every_steps": STEPS // 2},
        "log": {"every_steps": 1},
    }


def check_resume(setting: Setting) -> Iterator[Figure]:
    """A run that is interrupted half-way ends with the weights of one that is not."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    whole, cut = setting.folder / "whole", setting.folder / "cut"
    shutil.rmtree(cut, ignore_errors=True)
    config = from_dict(Config, _run_values(setting))
    train(config, whole, overwrite=True, progress=False)
    shutil.copytree(whole, cut)
    (cut / WEIGHTS).unlink()
    *_, newest = sorted((cut / "checkpoints").glob("step-*"))
    shutil.rmtree(newest)
    resume(cut, progress=False)
    differing = int((whole / WEIGHTS).read_bytes() != (cut / WEIGHTS).read_bytes())
    yield Figure(what="weight files that differ after resuming", value=differing, limit=0)


def check_processes(setting: Setting) -> Iterator[Figure]:
    """The same run on one and on two processes, a device each (NCCL on GPUs, gloo on CPUs)."""
    losses: dict[int, list[float]] = {}
    devices = torch.cuda.device_count() if setting.on_gpu else 2
    for processes in (1, 2):
        if processes > devices:
            yield Figure(
                what=f"{processes} processes", value=None, note=f"only {devices} GPU is here"
            )
            continue
        losses[processes] = _losses_under_torchrun(setting, processes)
        if processes > 1:
            pairs = zip(losses[1], losses[processes], strict=True)
            difference = max(abs(one - other) / one for one, other in pairs)
            yield Figure(
                what=f"losses of {processes} processes against one", value=difference, limit=1e-3
            )
        else:
            yield Figure(what="steps under torchrun", value=len(losses[1]), peer=STEPS)


def _losses_under_torchrun(setting: Setting, processes: int) -> list[float]:
    values = _run_values(setting)
    values["train"] |= {"device": setting.device.type, "backend": "ddp"}
    config, out = setting.folder / "run.toml", setting.folder / f"run-{processes}"
    config.write_text(tomli_w.dumps(values), encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, "-m", "clip_train", "run", str(config), "--out", str(out), "--overwrite"]
    _call([sys.executable, *command])
    rows = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


def _call(command: list[str], seconds: float = SECONDS_PER_RUN) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=environment, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error: " in line.lower()]
        raise RuntimeError(lines[0] if lines else f"exit code {done.returncode}")


def check_decoding(setting: Setting) -> Iterator[Figure]:
    """Photographs decoded, cropped and tokenized a second, by the number of workers."""
    count, batch = (32, 8) if setting.is_small else (2048, 128)
    table = _write_photographs(setting.folder / "photographs", count)
    speeds: dict[int, float] = {}
    for workers in (1, 2) if setting.is_small else (1, 4, 8, 16):
        if workers > (os.cpu_count() or 1):
            continue
        values = {
            "data": {"train": f"csv:{table}", "workers": workers},
            "augment": {"kind": "random_resized_crop"},
            "model": {"name": "ViT-B-32"},
            "train": {"steps": count // batch, "batch_size": batch, "device": "cpu"},
            "optim": {"warmup_steps": 1},
        }
        reader = build_data_components(from_dict(Config, values)).make_reader()
        batches = reader.batches(0, count // batch, pin_memory=setting.on_gpu)
        next(batches)  # the workers have started
        began = time.perf_counter()
        read = sum(len(found.images) for found in batches)
        speeds[workers] = read / (time.perf_counter() - began)
        yield Figure(
            what=f"decoding, {workers} workers",
            value=speeds[workers],
            unit="images/s",
            peer=speeds[1] if workers > 1 else None,
            peer_name="1 worker" if workers > 1 else "",
        )


def _write_photographs(folder: Path, count: int) -> Path:
    """A table of JPEGs of 500 by 375 pixels with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["filepath,caption"]
    for number in range(count):
        file = folder / f"{number:05d}.jpg"
        if not file.is_file():
            coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(file)
        lines.append(f"{file.name},a photograph with the number {number}")
    table = folder / "photographs.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    return table


def check_cifar(setting: Setting) -> Iterator[Figure]:
    """Seconds of `cifar10-94`, and the accuracy that it reaches."""
    if setting.cifar is None or "cifar10-94" not in list_presets():
        yield Figure(what="cifar10-94", value=None, note="pass --cifar DIR to train on it")
        return
    values = {
        "data.train": f"imagefolder:{setting.cifar / 'train'}",
        "data.val": f"imagefolder:{setting.cifar / 'val'}",
        "train.device": setting.device.type,
    }
    flags = [f"--{key}={value}" for key, value in values.items()]
    if setting.is_small:
        flags += ["--train.steps=1", "--train.batch_size=8"]
    out = setting.folder / "cifar10-94"
    command = ["-m", "clip_train", "run", "cifar10-94", "--out", str(out), "--overwrite", *flags]
    began = time.perf_counter()
    _call([sys.executable, *command], seconds=600)
    yield Figure(what="cifar10-94", value=time.perf_counter() - began, unit="s", note="whole run")
    rows = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    last = [row for row in rows if row["kind"] == "eval"][-1]
    accuracy = next(value for key, value in last.items() if key.endswith("acc1"))
    yield Figure(what="cifar10-94: accuracy on val", value=100 * accuracy, unit="%", peer=94.0)
