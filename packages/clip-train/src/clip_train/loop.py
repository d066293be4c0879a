"""The training loop."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from clip_eval import Result, evaluate
from clip_models import CheckpointError, save_model
from torch import Tensor
from tqdm import tqdm

from clip_train.augment import shift_and_flip
from clip_train.build import Parts
from clip_train.checkpoint import Progress, list_checkpoints, load_checkpoint, save_checkpoint
from clip_train.config import Config
from clip_train.loading import Batch, BatchReader
from clip_train.meter import Meter
from clip_train.objectives import contrastive_loss, merged_candidates, separate_candidates
from clip_train.optimizer import learning_rate, make_optimizer
from clip_train.progress import progress_bar
from clip_train.run_directory import RunDirectory
from clip_train.stop_signals import stop_signals

MAX_LOG_LOGIT_SCALE = 4.605170185988092  # ln 100, as in Radford et al. 2021


class TrainingError(RuntimeError):
    """A run that cannot go on; its last checkpoint stays."""


class Interrupted(Exception):
    """The run was asked to stop and has saved a checkpoint."""

    def __init__(self, step: int, total_steps: int, path: Path) -> None:
        super().__init__(
            f"stopped at step {step} of {total_steps}; go on with `clip-train resume {path}`"
        )


class Trainer:
    """One run: `Trainer(config, directory, parts).run()`."""

    def __init__(
        self, config: Config, directory: RunDirectory, parts: Parts, *, progress: bool = True
    ) -> None:
        self.config = config
        self.directory = directory
        self.parts = parts
        self.progress = progress
        self.model = parts.model
        self.optimizer = make_optimizer(self.model, config.optim)
        self.steps_done = 0
        self.bad_samples: set[str] = set()
        self.last_result: Result | None = None
        self._evaluated_step = -1
        self._saved_step = -1
        self._meter = Meter()

    def run(self) -> Result | None:
        """Train to the end; the last evaluation, if there is data for one.

        Raises:
            Interrupted: SIGINT or SIGTERM came; a checkpoint was saved.
            TrainingError: The loss is not finite, or too many samples cannot be read.
        """
        reader = BatchReader(
            self.parts.source,
            self.parts.plan,
            self.config,
            self.parts.preprocess,
            self.parts.tokenizer,
            progress=self.progress,
        )
        try:
            with stop_signals() as stop:
                with self._bar() as bar:
                    for batch in self._batches(reader):
                        self._count_faults(batch)
                        self.step(batch)
                        bar.update()
                        if self._due(self.config.log.every_steps):
                            self._log(bar)
                        if stop.is_set():
                            self._stop()
                        if self._due(self.config.eval.every_steps):
                            self.evaluate()
                        if self._due(self.config.checkpoint.every_steps):
                            self.save_checkpoint()
                return self.finish()
        finally:
            self.directory.close()

    def step(self, batch: Batch) -> None:
        """Forward, loss, backward, clip, update."""
        config, device = self.config, self.parts.device
        rate = learning_rate(config.optim, self.steps_done, self.parts.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        images = self._augment(batch)
        tokens = batch.tokens.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            output = self.model(images, tokens)
        merge = config.loss.kind == "multi_positive"
        candidates = (
            merged_candidates(batch.tokens, batch.caption_of)
            if merge
            else separate_candidates(batch.caption_of)
        )
        loss = contrastive_loss(
            output.image_features.float(),
            output.text_features.float(),
            output.logit_scale,
            candidates.to(device),
            label_smoothing=config.loss.label_smoothing,
        )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        limit = config.optim.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), torch.inf if limit is None else limit
        )
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=MAX_LOG_LOGIT_SCALE)
        self.steps_done += 1
        self._meter.add(loss.detach(), norm, batch.keys)

    def evaluate(self) -> None:
        """Zero-shot accuracy on `data.val`, into the metrics; nothing without `data.val`."""
        source = self.parts.val_source
        if source is None or self._evaluated_step == self.steps_done:
            return
        with self._meter.paused():
            result = evaluate(
                self.model,
                source,
                tokenizer=self.parts.tokenizer,
                preprocess=self.parts.preprocess,
                templates=self.parts.templates or None,
                batch_size=self.config.eval.batch_size,
                device=str(self.parts.device),
            )
        row = {
            "acc1": result.metrics["acc1"],
            "n": result.n,
            "n_skipped": result.n_skipped,
            "chance": result.chance,
        }
        self.directory.log("eval", self.steps_done, row)
        self.last_result, self._evaluated_step = result, self.steps_done

    def save_checkpoint(self) -> None:
        """The whole state at this step, unless it is on disk already.

        Raises:
            TrainingError: The loss or its gradient is not finite; older checkpoints stay.
        """
        self._check_finite()
        if self._saved_step == self.steps_done:
            return
        with self._meter.paused():
            save_checkpoint(
                self.directory.checkpoints,
                self._progress(),
                self.model,
                self.parts.preprocess.config,
                self.optimizer,
                keep_last=self.config.checkpoint.keep_last,
            )
        self._saved_step = self.steps_done

    def finish(self) -> Result | None:
        """Evaluate, and write the model, its tokenizer and the curves into the run directory."""
        self.save_checkpoint()  # first of all: whatever happens next, the training is not lost
        self.evaluate()
        save_model(self.directory.path, self.model, self.parts.preprocess.config)
        self.directory.draw_curves()
        if self.bad_samples:
            warnings.warn(
                f"{len(self.bad_samples)} training samples could not be read and were replaced, "
                f"such as {sorted(self.bad_samples)[0]}; metrics.jsonl names all of them",
                stacklevel=2,
            )
        return self.last_result

    def resume(self) -> None:
        """Go on from the newest checkpoint; from the beginning if there is none.

        Raises:
            CheckpointError: The checkpoint is damaged, or belongs to another model or other data.
        """
        found = list_checkpoints(self.directory.checkpoints)
        if found:
            progress = load_checkpoint(found[-1], self.model, self.optimizer)
            self.steps_done = self._saved_step = progress.step
            if progress != self._progress():
                raise CheckpointError(
                    f"the run has {progress.num_samples} training samples and "
                    f"{progress.total_steps} steps, but its data and config now give "
                    f"{self._progress().num_samples} and {self._progress().total_steps}; "
                    "put the data back as it was, or start a new run"
                )
        self.directory.rewind(self.steps_done)
        for row in self.directory.metrics("fault"):
            self.bad_samples.update(row["samples"])
        evaluated = {row["step"] for row in self.directory.metrics("eval")}
        if found and self._due(self.config.eval.every_steps) and self.steps_done not in evaluated:
            self.evaluate()

    def _progress(self) -> Progress:
        return Progress(
            step=self.steps_done,
            num_samples=len(self.parts.source),
            total_steps=self.parts.total_steps,
        )

    def _stop(self) -> None:
        """Save, and end the run as the signal asked."""
        self.save_checkpoint()
        self.directory.draw_curves()
        raise Interrupted(self.steps_done, self.parts.total_steps, self.directory.path)

    def _check_finite(self) -> None:
        keys = self._meter.first_not_finite()
        if keys is not None:
            raise TrainingError(
                f"the loss or its gradient is not finite by step {self.steps_done}; the batch that "
                f"did it began with {', '.join(keys[:8])}. Lower optim.lr, or set optim.clip_norm; "
                f"older checkpoints are in {self.directory.checkpoints}"
            )

    def _batches(self, reader: BatchReader) -> Iterator[Batch]:
        batches = reader.batches(
            self.steps_done, self.parts.total_steps, pin_memory=self.parts.device.type == "cuda"
        )
        while True:
            with self._meter.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _augment(self, batch: Batch) -> Tensor:
        """Normalised float images on the device, (B, 3, S, S)."""
        config, device = self.config.augment, self.parts.device
        images = batch.images.to(device, non_blocking=True)
        pad = config.pad if config.kind == "shift" else 0
        if pad or config.flip:
            uniform = batch.uniform.to(device, non_blocking=True)
            images = shift_and_flip(images, uniform, pad=pad, flip=config.flip)
        images = self.parts.preprocess.normalize(images)
        return images.contiguous(memory_format=torch.channels_last)

    def _count_faults(self, batch: Batch) -> None:
        """Log each bad sample once, and stop when there are too many of them."""
        new = [fault for fault in batch.faults if fault.detail not in self.bad_samples]
        if not new:
            return
        self.bad_samples.update(fault.detail for fault in new)
        counts = Counter(fault.reason for fault in new)
        row = {"counts": counts, "samples": [fault.detail for fault in new]}
        self.directory.log("fault", self.steps_done + 1, row)
        limit = self.config.data.max_faults
        if len(self.bad_samples) > limit:
            raise TrainingError(
                f"{len(self.bad_samples)} samples could not be read, more than data.max_faults = "
                f"{limit}; the last: {new[-1].detail}"
            )

    def _log(self, bar: tqdm[Any]) -> None:
        self._check_finite()
        loss, norm = self._meter.means()
        row = {
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "logit_scale": self.model.logit_scale.exp().item(),
            "grad_norm": norm,
            "samples": self.steps_done * self.config.train.batch_size,
            **self._meter.speed(self.config.train.batch_size),
        }
        self.directory.log("train", self.steps_done, row)
        shown = {"loss": f"{loss:.3f}", "img/s": f"{row['samples_per_s']:.0f}"}
        accuracy = self.last_result.metrics["acc1"] if self.last_result else None
        if accuracy is not None:
            shown["acc1"] = f"{100 * accuracy:.1f}%"
        bar.set_postfix(shown)
        self._meter = Meter()

    def _due(self, every: int | None) -> bool:
        last = self.steps_done == self.parts.total_steps
        return every is not None and (self.steps_done % every == 0 or last)

    def _bar(self) -> tqdm[Any]:
        return progress_bar(
            total=self.parts.total_steps,
            initial=self.steps_done,
            desc="train",
            unit="step",
            show=self.progress,
        )
