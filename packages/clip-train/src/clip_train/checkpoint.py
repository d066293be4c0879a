"""The whole state of a run on disk: safetensors and JSON, written so that a kill loses nothing.

A checkpoint is a directory `step-NNNNNNN` with the model (loadable by itself),
`optimizer.safetensors` and `state.json`.  It is written under another name, flushed, and renamed
when it is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from clip_models import (
    CLIP,
    WEIGHTS_NAME,
    CheckpointError,
    PreprocessConfig,
    load_state,
    load_tensors,
    save_model,
    save_tensors,
)

OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"


_NAME = re.compile(r"step-(\d{7,})")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, and of what; all else follows from the config."""

    step: int
    num_samples: int
    total_steps: int


def save_checkpoint(
    checkpoints: Path,
    progress: Progress,
    model: CLIP,
    preprocess: PreprocessConfig,
    optimizer: torch.optim.Optimizer,
    *,
    keep_last: int,
) -> Path:
    """Write `checkpoints/step-NNNNNNN` and delete all but the newest `keep_last`."""
    target = checkpoints / f"step-{progress.step:07d}"
    partial = checkpoints / f".{target.name}.partial"
    checkpoints.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_model(partial, model, preprocess)
    save_tensors(partial / OPTIMIZER_NAME, _optimizer_tensors(model, optimizer))
    with open(partial / STATE_NAME, "w", encoding="utf-8") as file:
        json.dump(asdict(progress), file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in list_checkpoints(checkpoints)[:-keep_last]:
        shutil.rmtree(old)
    return target


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Complete checkpoints, oldest first; directories with other names are not ours."""
    found = [path.parent for path in checkpoints.glob(f"step-*/{STATE_NAME}")]
    ours = [(int(match[1]), path) for path in found if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(ours)]


def load_checkpoint(checkpoint: Path, model: CLIP, optimizer: torch.optim.Optimizer) -> Progress:
    """Put the weights and the optimizer's moments in place; how far they are.

    Raises:
        CheckpointError: A file is damaged or does not fit the model.
    """
    try:
        progress = Progress(**json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / STATE_NAME} is damaged: {error}") from None
    weights = checkpoint / WEIGHTS_NAME
    load_state(model, load_tensors(weights), source=weights)
    path = checkpoint / OPTIMIZER_NAME
    tensors = load_tensors(path)
    for name, parameter in model.named_parameters():
        if f"{name}/step" not in tensors:
            raise CheckpointError(f"{path} has no state of the parameter {name}")
        optimizer.state[parameter] = {
            "step": tensors[f"{name}/step"].to(parameter.device),
            **{
                # In the parameter's own memory format: fused AdamW walks all of them in step.
                key: torch.empty_like(parameter).detach().copy_(tensors[f"{name}/{key}"])
                for key in ("exp_avg", "exp_avg_sq")
            },
        }
    return progress


def _optimizer_tensors(model: CLIP, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state as `parameter name/moment`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
