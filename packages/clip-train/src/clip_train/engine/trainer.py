"""The training loop."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from clip_eval import EvaluationConfig, Result, evaluate
from clip_models import CheckpointError, save_model
from torch import nn
from tqdm import tqdm

from clip_train.checkpoints.full_model import full_model
from clip_train.checkpoints.state import Progress, load_checkpoint, save_checkpoint
from clip_train.checkpoints.stores import open_store
from clip_train.config.run import Config
from clip_train.data.batches import Batch, BatchReader
from clip_train.data.digest import data_digest
from clip_train.distributed.errors import report_lost_ranks, run_on_first_rank
from clip_train.distributed.protocol import Backend
from clip_train.engine.components import Parts
from clip_train.engine.gradients import WholeBatchGradient
from clip_train.engine.setup import make_augmentation, make_towers, make_training_state
from clip_train.engine.step_inputs import InputMaker
from clip_train.engine.stop_signals import stop_signals
from clip_train.engine.teacher import open_teacher
from clip_train.logs.meter import Meter
from clip_train.logs.progress import progress_bar
from clip_train.logs.run_directory import RunDirectory
from clip_train.logs.utilization import Utilization
from clip_train.model.towers import Towers
from clip_train.objectives.from_config import make_objective
from clip_train.optim.optimizer import learning_rate, steps_of
from clip_train.randomness import keyed_bits
from clip_train.training_error import Interrupted, TrainingError

MAX_LOG_LOGIT_SCALE = 4.605170185988092  # ln 100, as in Radford et al. 2021
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """One run: `Trainer(config, directory, parts, backend).run()`, on every rank."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        parts: Parts,
        backend: Backend,
        *,
        progress: bool = True,
    ) -> None:
        self.config = config
        self.directory = directory
        self.parts = parts
        self.backend = backend
        self.progress = progress and backend.rank == 0
        self.model = parts.model
        self.augmentation = make_augmentation(config, parts, backend)
        self.gradient = self.make_gradient(
            make_towers(self.model, self.augmentation, config, backend),
            parts=config.train.accumulation,
            autocast=PRECISIONS[config.train.precision],
        )
        self.inputs = InputMaker(config, backend, parts.preprocess, self.model)
        self.teacher = open_teacher(config, parts, backend)
        self.state = make_training_state(self.model, self.augmentation, config, parts, backend)
        self.store = open_store(config.checkpoint.directory, directory.checkpoints)
        self.utilization = Utilization(config, self.model.config, backend)
        self.steps_done = 0
        self.samples_done = 0
        self.bad_samples: set[str] = set()
        self.last_result: Result | None = None
        self._data = data_digest(parts.source)
        self._evaluated_step = -1
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._stopping = self._overdue = False
        self._meter = Meter(backend)

    def make_gradient(
        self, towers: Towers, *, parts: int, autocast: torch.dtype | None
    ) -> WholeBatchGradient:
        """What computes a step's gradients; parameters may be other objects afterwards."""
        wrapped = self.backend.wrap(towers)
        return WholeBatchGradient(wrapped, self.backend, parts=parts, autocast=autocast)

    def run(self) -> Result | None:
        """Train to the end; the last evaluation, if there is data for one.

        Raises:
            Interrupted: SIGINT or SIGTERM came to some rank; a checkpoint was saved.
            TrainingError: The loss is not finite, too many samples cannot be read, or another
                process is gone.
        """
        try:
            with stop_signals() as stop, report_lost_ranks(self.backend):
                with self._bar() as bar:
                    for batch in self._batches():
                        self.step(batch)
                        self._agree(batch, stop.is_set())
                        bar.update()
                        if self._due("log"):
                            self._log(bar)
                        if self._stopping:
                            self._stop()
                        if self._due("eval"):
                            self.evaluate()
                        if self._due("checkpoint") or self._overdue:
                            self.save_checkpoint()
                return self.finish()
        finally:
            self.directory.close()

    def step(self, batch: Batch) -> None:
        """Forward, loss, backward, clip, update."""
        config, state = self.config, self.state
        self._seed_step(batch)
        rate = learning_rate(
            config.optim, self.steps_done, self.parts.total_steps, config.train.batch_size
        )
        state.optimizers.set_rate(rate)
        if self.augmentation is not None:
            self.augmentation.set_step(self.steps_done)
        self.model.train()
        inputs = self.inputs(batch)
        teacher = self.teacher.embed(batch, inputs) if self.teacher else None
        objective = make_objective(config.loss, self.backend, teacher)
        state.optimizers.zero_grad()
        scale = state.loss_scale.value if state.loss_scale else 1.0
        losses = self.gradient.compute(inputs, objective, loss_scale=scale)
        norm = self._clip(scale)
        self._update(norm)
        self.backend.end_step()
        samples = inputs.candidates.num_images
        self.steps_done += 1
        self.samples_done += samples
        self._meter.add(losses, norm, batch.keys, samples=samples, records=self.gradient.records)
        self.utilization.add(inputs, batch.tokens, samples)

    def evaluate(self) -> None:
        """Zero-shot accuracy on `data.val`, into the metrics; nothing without `data.val`."""
        source = self.parts.val_source
        overfitting = self.config.train.overfit_batch is not None
        if source is None or overfitting or self._evaluated_step == self.steps_done:
            return
        with self._meter.paused():
            model = full_model(self.state)
            result = evaluate(
                model,
                source,
                tokenizer=self.parts.tokenizer,
                preprocess=self.parts.preprocess,
                config=EvaluationConfig(
                    templates=self.parts.templates or None,
                    batch_size=self.config.eval.batch_size,
                    device=next(model.parameters()).device,
                    rank=self.backend.rank,
                    world_size=self.backend.world_size,
                ),
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
        self._saved_at, self._overdue = time.monotonic(), False
        if self._saved_step == self.steps_done:
            return
        with self._meter.paused():
            save_checkpoint(
                self.store,
                self._progress(),
                self.state,
                keep_last=self.config.checkpoint.keep_last,
                keep_every=self.config.checkpoint.keep_every_steps,
            )
        self._saved_step = self.steps_done

    def finish(self) -> Result | None:
        """Evaluate, and write the model, its tokenizer and the curves into the run directory."""
        self.save_checkpoint()  # first of all: whatever happens next, the training is not lost
        self.evaluate()
        model = full_model(self.state)
        preprocess = self.parts.preprocess.config
        run_on_first_rank(self.backend, lambda: save_model(self.directory.path, model, preprocess))
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
        found = self.store.steps()
        if found:
            progress = load_checkpoint(self.store, found[-1], self.state)
            self.steps_done = self._saved_step = progress.step
            self.samples_done = progress.samples
            self._check_same_run(progress)
        run_on_first_rank(self.backend, lambda: self.directory.rewind(self.steps_done))
        for row in self.directory.metrics("fault"):
            if row["step"]:  # those of step 0 were found before training, and never planned
                self.bad_samples.update(row["samples"])
        evaluated = {row["step"] for row in self.directory.metrics("eval")}
        if found and self._due("eval") and self.steps_done not in evaluated:
            self.evaluate()

    def _clip(self, scale: float) -> torch.Tensor:
        """Undo the loss scale, shorten the gradient to `optim.clip_norm`; its norm () before.

        Norm and shortening are of the model alone; where a learned augmentation's gradient is not
        finite, the norm is not either.
        """
        gradients = _gradients(self.model)
        norm = self.backend.squared_norm(gradients).sqrt() / scale
        if self.augmentation is not None:
            others = _gradients(self.augmentation)
            for gradient in others:
                gradient.div_(scale)
            norm = norm + 0 * self.backend.squared_norm(others)
        limit = self.config.optim.clip_norm
        if limit is not None or scale != 1:
            shorten = 1.0 if limit is None else (limit / (norm + 1e-6)).clamp(max=1.0)
            factor = torch.as_tensor(shorten / scale, device=norm.device)
            torch._foreach_mul_(
                [self.backend.local_tensor(gradient) for gradient in gradients], factor
            )
        return norm

    def _update(self, norm: torch.Tensor) -> None:
        """Change the weights; with a loss scale, only if the gradient is finite."""
        state = self.state
        if state.loss_scale is not None:
            finite = bool(norm.isfinite())
            state.loss_scale.update(finite=finite)
            if not finite:
                return
        state.optimizers.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=MAX_LOG_LOGIT_SCALE)
        if state.average is not None:
            state.average.update()

    def _seed_step(self, batch: Batch) -> None:
        """Make torch's own generator, which modules may use, a function of the step and rank."""
        place = np.array([batch.step])
        purpose = f"torch/{self.backend.rank}"
        bits = keyed_bits(self.config.train.seed, batch.epoch, place, purpose)[0, 0]
        torch.manual_seed(int(bits >> np.uint64(1)))

    def _agree(self, batch: Batch, stop: bool) -> None:
        """What any rank saw is known to all: a signal, bad samples, that a checkpoint is due."""
        minutes = self.config.checkpoint.every_minutes
        age = (time.monotonic() - self._saved_at) / 60
        late = minutes is not None and age >= minutes and self.backend.rank == 0
        new = [list(f) for f in batch.faults if f.detail not in self.bad_samples]
        self._stopping, self._overdue, faults = self.backend.any_rank([stop, late, bool(new)])
        if faults:
            self._count_faults(
                [fault for part in self.backend.all_gather_object(new) for fault in part]
            )

    def _count_faults(self, faults: list[list[str]]) -> None:
        """Log each bad sample once, and stop when there are too many of them."""
        new = dict(reversed([(detail, reason) for reason, detail in faults]))
        new = {detail: new[detail] for detail in new if detail not in self.bad_samples}
        self.bad_samples.update(new)
        row = {"counts": Counter(new.values()), "samples": list(new)}
        self.directory.log("fault", self.steps_done, row)
        limit = self.config.data.max_faults
        if len(self.bad_samples) > limit:
            raise TrainingError(
                f"{len(self.bad_samples)} samples could not be read, more than data.max_faults = "
                f"{limit}; the last: {faults[-1][1]}"
            )

    def _progress(self) -> Progress:
        return Progress(
            step=self.steps_done,
            samples=self.samples_done,
            num_samples=len(self.parts.source),
            total_steps=self.parts.total_steps,
            data=self._data,
        )

    def _check_same_run(self, progress: Progress) -> None:
        now = self._progress()
        if (progress.num_samples, progress.total_steps) != (now.num_samples, now.total_steps):
            raise CheckpointError(
                f"the run has {progress.num_samples} training samples and "
                f"{progress.total_steps} steps, but its data and config now give "
                f"{now.num_samples} and {now.total_steps}; "
                "put the data back as it was, or start a new run"
            )
        if progress.data != now.data:
            raise CheckpointError(
                f"{self.parts.source.name} holds other samples than when the run began; "
                "put the data back as it was, or start a new run"
            )

    def _stop(self) -> None:
        """Save, and end the run as the signal asked."""
        self.save_checkpoint()
        self.directory.draw_curves()
        raise Interrupted(self.steps_done, self.parts.total_steps, self.directory.path)

    def _check_finite(self) -> None:
        scale = self.state.loss_scale  # with one, gradients may overflow: those steps are skipped
        keys = self._meter.first_not_finite(norms=scale is None)
        if scale is not None and scale.exhausted:
            keys = keys or ["(the gradient overflows whatever the loss scale)"]
        if keys is None:
            return
        self.directory.log("not_finite", self.steps_done, {"keys": keys})
        more = f" and {len(keys) - 8} more, all named in metrics.jsonl" if len(keys) > 8 else ""
        raise TrainingError(
            f"the loss or its gradient is not finite by step {self.steps_done}; the batch that "
            f"did it began with {', '.join(keys[:8])}{more}. Lower optim.lr, or set "
            f"optim.clip_norm; older checkpoints are in {self.directory.checkpoints}"
        )

    def _batches(self) -> Iterator[Batch]:
        reader = BatchReader(
            self.parts.source,
            self.parts.plan,
            self.config,
            self.parts.preprocess,
            self.parts.tokenizer,
            rank=self.backend.rank,
            world_size=self.backend.world_size,
            progress=self.progress,
        )
        if self.config.train.overfit_batch is not None:
            same = reader[0]._replace(faults=[])
            yield from (same for _ in range(self.steps_done, self.parts.total_steps))
            return
        batches = reader.batches(
            self.steps_done,
            self.parts.total_steps,
            pin_memory=self.backend.device.type == "cuda",
        )
        while True:
            with self._meter.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _log(self, bar: tqdm[Any]) -> None:
        self._check_finite()
        speed = self._meter.speed()
        row = {
            **self._meter.means(),
            "lr": self.state.optimizers.rate,
            "logit_scale": self.model.logit_scale.exp().item(),
            "samples": self.samples_done,
            **speed,
            **self.utilization.read(),
        }
        if self.augmentation is not None:
            row |= self.augmentation.log_row()
        if self.state.loss_scale is not None:
            row["loss_scale"] = self.state.loss_scale.value
        self.directory.log("train", self.steps_done, row)
        shown = {"loss": f"{row['loss']:.3f}", "img/s": f"{row['samples_per_s']:.0f}"}
        accuracy = self.last_result.metrics["acc1"] if self.last_result else None
        if accuracy is not None:
            shown["acc1"] = f"{100 * accuracy:.1f}%"
        bar.set_postfix(shown)
        self._meter = Meter(self.backend)

    def _due(self, what: str) -> bool:
        """Whether a section's `every_samples` or `every_steps` is reached, or the run's end."""
        section = getattr(self.config, what)
        every = steps_of(
            section.every_steps or 0, section.every_samples, self.config.train.batch_size
        )
        last = self.steps_done == self.parts.total_steps
        return every > 0 and (self.steps_done % every == 0 or last)

    def _bar(self) -> tqdm[Any]:
        return progress_bar(
            total=self.parts.total_steps,
            initial=self.steps_done,
            desc="train",
            unit="step",
            show=self.progress,
        )


def _gradients(module: nn.Module) -> list[torch.Tensor]:
    """Those of a module's parameters that have one."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
