"""The training loop."""

from __future__ import annotations

import errno
import json
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_eval import Result
from clip_models import CLIP, CheckpointError, save_model
from clip_models.files import WEIGHTS_NAME
from tqdm import tqdm

from clip_train.checkpoints.stores import open_store
from clip_train.checkpoints.training_state import (
    Progress,
    full_model,
    load_checkpoint,
    save_checkpoint,
)
from clip_train.config.run import Config
from clip_train.data.batches import Batch
from clip_train.data.digest import data_digest, same_data
from clip_train.data.sources import describe_data
from clip_train.distributed.errors import report_lost_ranks, run_on_first_rank
from clip_train.engine.components import RunComponents
from clip_train.engine.fault_log import FaultLog
from clip_train.engine.first_batch import check_first_batch
from clip_train.engine.stop_signals import StopNow, StopRequest, stop_signals
from clip_train.engine.upcoming_batch import DATA_ERRORS, UpcomingBatch, describe_error
from clip_train.engine.validation import BestModel, best_step, evaluate_set, write_best
from clip_train.engine.weight_update import clip_gradients, update_weights
from clip_train.errors import Interrupted, RunDirectoryError, TrainingError
from clip_train.logs.meter import Meter
from clip_train.logs.progress import progress_bar, restart_clock
from clip_train.logs.run_directory import RunDirectory
from clip_train.logs.utilization import Utilization
from clip_train.objectives.batch import Objective, StepInputs
from clip_train.objectives.from_config import make_objective
from clip_train.optim.learning_rate import learning_rate, resolve_steps
from clip_train.optim.schedule import describe_extension, in_steps
from clip_train.randomness import keyed_bits


class Trainer:
    """One run on every rank: `Trainer(directory, components).run()`.

    Attributes:
        directory: What the run leaves behind.
        components: What it works with.
        config: The run's.
        backend: Device and processes.
        model: The model in training.
        state: Everything that a checkpoint holds.
        steps_done: Optimizer steps since the beginning of the run.
        samples_done: Images of all ranks that they took.
        faults: Training samples that could not be used.
        last_result: The last evaluation, on the first set.
        best: Which evaluation was the best, if `eval.metric` says what decides.
    """

    def __init__(
        self, directory: RunDirectory, components: RunComponents, *, progress: bool = True
    ) -> None:
        self.directory = directory
        self.components = components
        self.config = components.data.config
        self.backend = components.backend
        self.model = components.model
        self.state = components.state
        self.steps_done = 0
        self.samples_done = 0
        self.last_result: Result | None = None
        watched = components.data.watched
        self.best = None if watched is None else BestModel(watched, self.config.eval.patience)
        self._progress = progress and self.backend.rank == 0
        self._store = open_store(self.config.checkpoint.directory, directory.checkpoints)
        self._data_digest = data_digest(components.data.source)
        self.faults = FaultLog(directory, max_faults=self.config.data.max_faults)
        self._utilization = Utilization(self.config, self.model.config, self.backend)
        self._meter = Meter(self.backend)
        self._evaluated_step = -1
        self._logged_evaluations: set[tuple[int, str]] = set()  # by an earlier process
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._is_stopping = self._is_overdue = False
        self._stop_request = StopRequest()
        self._upcoming = UpcomingBatch(self._read_batches())  # which begins when it is asked
        self._has_begun = False

    def write_beginning(self, path: Path) -> None:
        """Write into `path` what the run directory holds before the first step."""
        beginning, data = RunDirectory(path), self.components.data
        beginning.write_config(self.config)
        data.save_prompts(path)
        beginning.log("data", 0, describe_data(data.source, [one.source for one in data.val_sets]))
        faults = data.source.faults
        if faults:
            counts = Counter(fault.reason for fault in faults)
            samples = [str(fault) for fault in faults]
            beginning.log("fault", 0, {"counts": counts, "samples": samples})

    def run(self) -> Result | None:
        """Train to the end; the last evaluation, if there is data for one.

        Raises:
            Interrupted: SIGINT or SIGTERM came to some rank; a checkpoint was saved.
            TrainingError: The loss is not finite, the data cannot be read on, too many samples
                cannot be used, or another rank does not answer.
            OSError: A file cannot be written; the error names it, and what is saved.
        """
        try:
            with stop_signals() as self._stop_request, report_lost_ranks(self.backend):
                self.begin()
                total, done = self.components.data.total_steps, self.steps_done
                with progress_bar(
                    total=total, initial=done, desc="train", unit="step", show=self._progress
                ) as bar:
                    while (batch := self._upcoming.batch) is not None:
                        if self.steps_done == 0:
                            found = check_first_batch(batch, self.components.data, self.backend)
                            if self.config.train.overfit_batch is not None:
                                self.directory.log("overfit", 0, found)
                        self.step(batch)
                        with self._meter.waiting():
                            self._upcoming.read(self._stopping_at_once())
                        self._agree_on_events(batch, self._stop_request.is_set())
                        bar.update()
                        if self.steps_done == done + 1:
                            restart_clock(bar)
                        if self._is_due("log"):
                            self.log(bar)
                        if self._is_stopping:
                            self._stop()
                        if self._is_due("eval"):
                            with self._stopping():
                                self.evaluate()
                            if self.best is not None and self.best.is_exhausted:
                                break
                        if self._is_due("checkpoint") or self._is_overdue:
                            self.save_checkpoint()
                return self.finish()
        except OSError as error:
            reason = f"{error.strerror or error}; {self._describe_saved()}"
            place = error.filename or str(self.directory.path)
            raise OSError(error.errno or errno.EIO, reason, place) from error
        finally:
            self.close()

    def begin(self) -> None:
        """Decode what is kept decoded, start the data workers and read the first batch.

        Raises:
            DataError, OSError: The data cannot be used.
            TrainingError: They cannot on another rank.
        """
        if self._has_begun:
            return
        self._has_begun = True
        with report_lost_ranks(self.backend):
            if self.best is None or not self.best.is_exhausted:  # as a resumed run may be
                self._upcoming.read(self._stopping_at_once())
            self._meter = Meter(self.backend)
            if self.backend.any_rank([self._upcoming.error is not None])[0]:
                self._upcoming.raise_error()
        if self._stop_request.is_set():
            self._stop()

    def close(self) -> None:
        """End the data workers, and flush what is written in the background."""
        self._upcoming.close()
        self.directory.close()

    def step(self, batch: Batch) -> None:
        """Forward, loss, backward, clip, update."""
        components, state = self.components, self.state
        self._begin_step(batch)
        inputs = components.make_inputs(batch)
        objective = self._make_objective(batch, inputs)
        loss_scale = state.loss_scale.value if state.loss_scale else 1.0
        state.optimizers.zero_grad()
        losses = components.gradient.compute(inputs, objective, loss_scale=loss_scale)
        norm = clip_gradients(state, max_norm=self.config.optim.clip_norm)
        update_weights(state, norm)
        self.backend.end_step()
        samples, records = inputs.candidates.num_images, components.gradient.records
        self.steps_done += 1
        self.samples_done += samples
        self._meter.add(losses, norm, batch.keys, samples=samples, records=records)
        self._utilization.add(inputs, batch.tokens, samples)

    def log(self, bar: tqdm[Any]) -> None:
        """Means and speed since the last call, into the metrics and beside the progress bar.

        Raises:
            TrainingError: The loss or its gradient is not finite.
        """
        self._check_finite()
        row = {
            **self._meter.means(),
            "lr": self.state.optimizers.rate,
            "logit_scale": self.model.logit_scale.exp().item(),
            "samples": self.samples_done,
            **self._meter.speed(),
            **self._utilization.read(),
        }
        if self.state.augmentation is not None:
            row |= self.state.augmentation.log_row()
        if self.state.loss_scale is not None:
            row["loss_scale"] = self.state.loss_scale.value
        self.directory.log("train", self.steps_done, row)
        shown = {"loss": f"{row['loss']:.3f}", "img/s": f"{row['samples_per_s']:.0f}"}
        if self.last_result is not None:
            name = self.last_result.main_metric
            value = self.last_result.metrics.get(name)
            shown |= {} if value is None else {name: f"{100 * value:.1f}%"}
        bar.set_postfix(shown)
        self._meter = Meter(self.backend)

    def evaluate(self) -> None:
        """Evaluate on every set of `data.val`, into the metrics, and keep the best model."""
        data = self.components.data
        overfits = self.config.train.overfit_batch is not None
        if not data.val_sets or overfits or self._evaluated_step == self.steps_done:
            return
        with self._meter.paused():
            model = full_model(self.state)
            with self._stopping_at_once():
                found = {
                    one.name: evaluate_set(model, one, data, self.backend) for one in data.val_sets
                }
            for name, evaluation in found.items():
                group = name if len(found) > 1 else ""
                if (self.steps_done, name) not in self._logged_evaluations:
                    self.directory.log("eval", self.steps_done, evaluation.row(name), group=group)
            self.last_result = next(iter(found.values())).result
            self._evaluated_step = self.steps_done
            best = self.best
            if best is not None:
                name, metric = best.watched
                if best.seen < self.steps_done:
                    best.update(self.steps_done, found[name].metrics[metric])
                if best.step == self.steps_done:
                    self._write_best(model, best)

    def save_checkpoint(self) -> None:
        """The whole state at this step, unless it is on disk already.

        Raises:
            TrainingError: The loss or its gradient is not finite; older checkpoints stay.
        """
        self._check_finite()
        self._saved_at, self._is_overdue = time.monotonic(), False
        if self._saved_step == self.steps_done:
            return
        with self._meter.paused():
            save_checkpoint(
                self._store,
                self._run_progress(),
                self.state,
                keep_last=self.config.checkpoint.keep_last,
                keep_every=self.config.checkpoint.keep_every_steps,
            )
        self._saved_step = self.steps_done

    def finish(self) -> Result | None:
        """Evaluate, and write the model, its tokenizer and the curves into the run directory."""
        self.save_checkpoint()  # first: an error in the rest then loses no training
        with self._stopping():
            self.evaluate()
        self._note_early_end()
        self.directory.draw_curves()
        model, preprocess = full_model(self.state), self.state.preprocess
        # last: a directory with weights is one of a finished run
        run_on_first_rank(self.backend, lambda: save_model(self.directory.path, model, preprocess))
        self.faults.warn()
        return self.last_result

    def resume(self, *, extended_from: Config | None = None) -> None:
        """Continue from the newest checkpoint; from the beginning if there is none.

        Args:
            extended_from: The config that the run had until now, where it has another one since.

        Raises:
            CheckpointError: The checkpoint is damaged, or belongs to another model or other data.
            RunDirectoryError: The run is extended, and not beyond the steps that it has.
        """
        steps = self._store.steps()
        if steps:
            progress = load_checkpoint(self._store, steps[-1], self.state)
            self.steps_done = self._saved_step = progress.step
            self.samples_done = progress.samples
            self._check_same_run(progress, extends=extended_from is not None)
        run_on_first_rank(self.backend, lambda: self.directory.rewind(self.steps_done))
        self.faults.restore()
        evaluations = self.directory.metrics("eval")
        if self.best is not None and steps:
            self.best.load(progress.best)
            self.best.catch_up(self.directory.metrics(), self.steps_done)
        if extended_from is not None:
            self._extend(extended_from, progress.total_steps if steps else None)
        names = [one.name for one in self.components.data.val_sets]
        first = next(iter(names), "")  # the set of rows that older releases wrote without a name
        self._logged_evaluations = {(row["step"], row.get("data", first)) for row in evaluations}
        logged = {name for at, name in self._logged_evaluations if at == self.steps_done}
        is_missing = not logged.issuperset(names) or self._lacks_best()
        if steps and self._is_due("eval") and is_missing:
            self.evaluate()

    def _extend(self, old: Config, planned: int | None) -> None:
        """Note that the run has another config from here on, with patience anew."""
        data, step = self.components.data, self.steps_done
        total_steps, batch_size = data.total_steps, self.config.train.batch_size
        if self.best is not None:
            self.best.stale = 0
        if planned is None:  # it begins again
            return
        is_finished = (self.directory.path / WEIGHTS_NAME).is_file()
        if step >= total_steps and (is_finished or planned != total_steps):
            raise RunDirectoryError(
                f"the run in {self.directory.path} has {step} steps already, and its new length is "
                f"{total_steps}; give more, as in --train.steps {2 * step}"
            )
        old_optim = in_steps(old.optim, batch_size, data.plan.steps_in_epochs, planned)
        is_as_planned = (old_optim, planned) == (data.optim, total_steps)
        text = (
            ""
            if is_as_planned
            else describe_extension(data.optim, step, (old_optim, planned), total_steps, batch_size)
        )
        if not text and self.best is None:
            return
        self.directory.log("extension", step, {"from": planned, "to": total_steps, "text": text})
        if text and self.backend.rank == 0:
            warnings.warn(text, stacklevel=3)

    def _lacks_best(self) -> bool:
        """Whether the model of this step is the best and a kill came before it was written."""
        best = self.best
        if best is None or best.step != self.steps_done:
            return False
        return best_step(self.directory.path) != self.steps_done

    def _write_best(self, model: CLIP, best: BestModel) -> None:
        """Write the model that was evaluated into `best`."""
        preprocess, record = self.state.preprocess, json.dumps(best.state()) + "\n"

        def write(path: Path) -> None:
            save_model(path, model, preprocess)
            self.components.data.save_prompts(path)

        run_on_first_rank(self.backend, lambda: write_best(self.directory.path, write, record))

    def _note_early_end(self) -> None:
        """Say in the metrics that patience has ended the run."""
        best, total_steps = self.best, self.components.data.total_steps
        if best is None or not best.is_exhausted or self.steps_done >= total_steps:
            return
        if any(row["step"] == self.steps_done for row in self.directory.metrics("early_end")):
            return  # noted by a run that was killed after that
        row = {"total_steps": total_steps, "patience": best.patience, "best": best.state()}
        self.directory.log("early_end", self.steps_done, row)

    def _begin_step(self, batch: Batch) -> None:
        """Make everything that depends on the number of the step ready for it."""
        self._seed_step(batch)
        total_steps, batch_size = self.components.data.total_steps, self.config.train.batch_size
        optim = self.components.data.optim
        rate = learning_rate(optim, self.steps_done, total_steps, batch_size)
        self.state.optimizers.set_rate(rate)
        self.components.gradient.set_step(self.steps_done)
        if self.state.augmentation is not None:
            self.state.augmentation.set_step(self.steps_done)
        self.model.train()

    def _seed_step(self, batch: Batch) -> None:
        """Make torch's global generator, which modules may use, a function of step and rank."""
        place = np.array([batch.step])
        purpose = f"torch/{self.backend.rank}"
        bits = keyed_bits(self.config.train.seed, batch.epoch, place, purpose)[0, 0]
        torch.manual_seed(int(bits >> np.uint64(1)))

    def _make_objective(self, batch: Batch, inputs: StepInputs) -> Objective:
        """The losses of a step, with what the teacher makes of its batch."""
        teacher = self.components.teacher
        embeddings = None if teacher is None else teacher.embed(batch, inputs)
        return make_objective(self.config.loss, self.backend, embeddings)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """What a request to stop may end at once; the rest of it is for the resumed run."""
        try:
            yield
        except StopNow:
            self._stop()

    def _stopping_at_once(self) -> AbstractContextManager[None]:
        """Where nothing of the state changes, a single process needs no other to stop."""
        alone = self.backend.world_size == 1
        return self._stop_request.acting_at_once() if alone else nullcontext()

    def _agree_on_events(self, batch: Batch, stop_requested: bool) -> None:
        """Share among ranks: a signal to stop, faulty samples, a checkpoint due, no next batch.

        Raises:
            TrainingError: The data cannot be read on; a checkpoint was saved.
        """
        minutes = self.config.checkpoint.every_minutes
        age = (time.monotonic() - self._saved_at) / 60
        late = minutes is not None and age >= minutes and self.backend.rank == 0
        new = self.faults.select_new(batch.faults)
        events = [stop_requested, late, bool(new), self._upcoming.error is not None]
        flags = self.backend.any_rank(events)
        self._is_stopping, self._is_overdue, has_faults, is_over = flags
        try:
            if has_faults:
                found = self.backend.all_gather_object(new)
                read = min(self.samples_done, len(self.components.data.source))
                self.faults.add(
                    self.steps_done, [fault for part in found for fault in part], read=read
                )
            if is_over:
                self._upcoming.raise_error()
        except (TrainingError, *DATA_ERRORS) as error:
            self.save_checkpoint()
            raise TrainingError(f"{describe_error(error)}; {self._describe_saved()}") from error

    def _describe_saved(self) -> str:
        """What is kept of the run, and how it goes on."""
        step = self._saved_step
        saved = "no checkpoint is there yet" if step < 0 else f"step {step} is saved"
        return f"{saved}: continue with `clip-train resume {self.directory.path}`"

    def _run_progress(self) -> Progress:
        return Progress(
            step=self.steps_done,
            samples=self.samples_done,
            num_samples=len(self.components.data.source),
            total_steps=self.components.data.total_steps,
            data=self._data_digest,
            best=None if self.best is None else self.best.state(),
        )

    def _check_same_run(self, progress: Progress, *, extends: bool) -> None:
        now = self._run_progress()
        earlier = {row["from"] for row in self.directory.metrics("extension")}
        is_same_length = extends or progress.total_steps in {now.total_steps, *earlier}
        if progress.num_samples != now.num_samples or not is_same_length:
            raise CheckpointError(
                f"the run has {progress.num_samples} training samples and "
                f"{progress.total_steps} steps, but its data and config now give "
                f"{now.num_samples} and {now.total_steps}; "
                "put the data back as it was, or start a new run"
            )
        if not same_data(progress.data, self.components.data.source, now.data):
            raise CheckpointError(
                f"{self.components.data.source.name} holds other samples than when the run began; "
                "put the data back as it was, or start a new run"
            )

    def _stop(self) -> None:
        """Save, and end the run as the signal asked."""
        self.save_checkpoint()
        self.directory.draw_curves()
        total_steps = self.components.data.total_steps
        raise Interrupted(self.steps_done, total_steps, self.directory.path)

    def _check_finite(self) -> None:
        scale = self.state.loss_scale  # with one, gradients may overflow: those steps are skipped
        keys = self._meter.first_not_finite(norms=scale is None)
        if scale is not None and scale.is_exhausted:
            keys = keys or ["(the gradient overflows at every loss scale)"]
        if keys is None:
            return
        self.directory.log("not_finite", self.steps_done, {"keys": keys})
        more = f" and {len(keys) - 8} more, all named in metrics.jsonl" if len(keys) > 8 else ""
        raise TrainingError(
            f"the loss or its gradient is not finite by step {self.steps_done}; the batch that "
            f"did it began with {', '.join(keys[:8])}{more}. Lower optim.lr, or set "
            f"optim.clip_norm; older checkpoints are in {self.directory.checkpoints}"
        )

    def _read_batches(self) -> Generator[Batch]:
        """The batches from the next step to the last; with `overfit_batch` always the first one."""
        backend, total_steps = self.backend, self.components.data.total_steps
        reader = self.components.data.make_reader(
            rank=backend.rank, world_size=backend.world_size, progress=self._progress
        )
        if self.config.train.overfit_batch is not None:
            same = reader[0]._replace(faults=[])
            yield from (same for _ in range(self.steps_done, total_steps))
            return
        pin_memory = backend.device.type == "cuda"
        batches = reader.batches(self.steps_done, total_steps, pin_memory=pin_memory)
        yield from batches

    def _is_due(self, section_name: str) -> bool:
        """Whether a section's `every_samples` or `every_steps` is reached, or the run's end."""
        section = getattr(self.config, section_name)
        every = resolve_steps(
            section.every_steps or 0, section.every_samples, self.config.train.batch_size
        )
        is_last = self.steps_done == self.components.data.total_steps
        return every > 0 and (self.steps_done % every == 0 or is_last)
