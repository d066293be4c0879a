"""Train the language model on a text; every step is a function of the seed and its number.

B batch, L context.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dtp_pooling.language_model.bits_per_character import bits_per_character
from dtp_pooling.language_model.calibration import calibrate_threshold, explain_rate
from dtp_pooling.language_model.model import DynamicPoolingLM, LanguageModelOutput
from dtp_pooling.language_model.pruning import prune
from dtp_pooling.language_model.quantization import quantize
from dtp_pooling.pooling.noise import sample_generators
from dtp_pooling.training.alphabet import Alphabet
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.processes import (
    call_on_first_rank,
    is_any,
    rank_and_world_size,
    rows_of_rank,
    sum_gradients,
    sum_over_ranks,
)
from dtp_pooling.training.run_directory import (
    UNIGRAM_NAME,
    append_metrics,
    find_checkpoint,
    read_model,
    read_run,
    rewind_metrics,
)
from dtp_pooling.training.text import chunk_index, digest
from dtp_pooling.training.training_state import load_training_state, save_training_state
from dtp_pooling.training.unigram import train_unigram, unigram_boundaries


class Trainer:
    """Trains a run, from the start or from its newest checkpoint.

    In a process group every rank takes its rows of each batch, and gradients are summed; the first
    rank evaluates, logs and saves. Without dropout the weights are those of one process up to
    rounding.

    Args:
        directory: Holds `run.json`; a checkpoint in it is resumed.
        train_text: Text to train on.
        valid_text: Text to evaluate on, whole.
        device: Where to train.
        quiet: Whether metrics are written to the run alone, and not printed.
    """

    def __init__(
        self,
        directory: Path,
        train_text: str,
        valid_text: str,
        device: torch.device,
        *,
        quiet: bool = False,
    ) -> None:
        self.directory, self.device = directory, device
        self.rank = rank_and_world_size()[0]
        self.quiet = quiet or self.rank > 0
        run = read_run(directory)
        self.config = run.config
        _check_text(directory, "training", train_text, run.text_sha256)
        _check_text(directory, "validation", valid_text, run.valid_sha256)
        self.train_ids = run.alphabet.encode(train_text).to(torch.int32)
        self.valid_ids = run.alphabet.encode(valid_text)
        if not len(self.valid_ids):
            raise ValueError("the validation text is empty; pass a longer text or a --valid text")
        self._chunks(0)  # raises early when the text is too short
        self.targets = self._unigram_targets(train_text)
        torch.manual_seed(self.config.seed)
        self.model = self._initial_model(run.alphabet).to(device)
        self.teacher: DynamicPoolingLM | None = None
        if self.config.teacher is not None:
            self.teacher = read_model(Path(self.config.teacher), run.alphabet).to(device)
        self.optimizer = torch.optim.Adam(
            parameter_groups(self.model, self.config.part_rates),
            lr=self.config.learning_rate,
            betas=(0.9, 0.999),
        )
        self.steps_done = load_training_state(directory, self.model, self.optimizer)
        call_on_first_rank(lambda: rewind_metrics(directory, self.steps_done))
        self.evaluate(self.valid_ids[: self.config.evaluation_window])  # raises early

    def run(self, until: int | None = None, stop: threading.Event | None = None) -> None:
        """Train to the last step, or up to step `until`; evaluate and save on the way.

        Args:
            until: Step to return at; None for the last.
            stop: Once set, the step under way is finished and saved, and `run` returns.
        """
        last = self.config.steps if until is None else min(until, self.config.steps)
        began, started = self.steps_done, time.perf_counter()
        hidden = self.quiet or not sys.stderr.isatty()
        bar = tqdm(total=last, initial=self.steps_done, unit="step", disable=hidden)
        while self.steps_done < last:
            record = self.step()
            bar.update()
            is_last = self.steps_done == self.config.steps
            is_evaluated = is_last or self.steps_done % self.config.evaluate_every == 0
            record["seconds"] = time.perf_counter() - started
            if is_last or self.steps_done % self.config.log_every == 0:
                self._log("train", record)
            elif self.steps_done == began + 1:
                self._print("train", record)  # a sign of life, and of the pace
            if is_evaluated:
                self._evaluate_and_log()
            is_stopped = is_any(stop is not None and stop.is_set(), self.device)
            if is_evaluated or is_stopped:
                self._save()
            if is_stopped:
                break
        bar.close()

    def step(self) -> dict[str, Any]:
        """One optimizer step: forward, loss, backward, clip, update."""
        config, step = self.config, self.steps_done
        seed = config.seed * 1_000_003 + step
        torch.manual_seed(seed + self.rank * 2**40)  # dropout of this step
        rate = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)  # not in earlier checkpoints
        out, loss, distance = self._forward(step)
        objective = loss if distance is None else (loss + distance) / 2
        share = len(out.logits) / config.batch_size  # 1 in one process
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward((objective + out.boundary_loss) * share)
        sum_gradients(list(self.model.parameters()))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.steps_done += 1
        means = {"bits": loss / math.log(2), "boundary_loss": out.boundary_loss}
        if distance is not None:
            means["teacher_bits"] = distance / math.log(2)
        return {
            **{name: sum_over_ranks(value.detach() * share) for name, value in means.items()},
            "shortening": _shortening_factor(out),
            "gradient_norm": norm.detach(),
            "learning_rate": rate,
        }

    def evaluate(self, text: Tensor | None = None) -> dict[str, Any]:
        """Bits per character of ids (N,), by default of the whole validation text."""
        model, window = self.model.eval(), self.config.evaluation_window
        boundaries = model.config.boundaries
        if boundaries.kind == "gumbel" and boundaries.evaluation == "calibrated":
            calibrate_threshold(model, self.train_ids, window=window)
        return bits_per_character(
            quantize(model, self.config.quantize),
            self.valid_ids if text is None else text,
            window=window,
            stride=self.config.evaluation_stride,
        )._asdict()

    def _evaluate_and_log(self) -> None:
        if self.rank > 0:
            return
        result = self.evaluate()
        self._log("valid", result)
        doubt = explain_rate(self.config.model.boundaries, result["shortening"])
        if doubt and not self.quiet:
            print(f"dtp-lm: warning: {doubt}", file=sys.stderr)

    def _save(self) -> None:
        if self.rank == 0:
            keep = self.config.keep_last
            save_training_state(self.directory, self.steps_done, self.model, self.optimizer, keep)

    def _chunks(self, step: int) -> Tensor:
        """(B, L + 1) positions in the text of a step's batch."""
        config, size = self.config, len(self.train_ids)
        return chunk_index(size, config.context, config.batch_size, config.seed, step)

    def _forward(self, step: int) -> tuple[LanguageModelOutput, Tensor, Tensor | None]:
        """Output, cross-entropy, and divergence from the teacher, if there is one."""
        config, batch = self.config, self.config.batch_size
        rows = rows_of_rank(batch)
        index = self._chunks(step)[rows]
        chunks = self.train_ids[index].long().to(self.device)  # (B, L + 1)
        targets = None if self.targets is None else self.targets[index[:, :-1]].to(self.device)
        positions = range(step * batch, (step + 1) * batch)[rows]
        self.model.train()
        generators = sample_generators(config.seed, positions)
        is_narrow = config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_narrow):
            out = self.model(chunks[:, :-1], targets=targets, generators=generators)
        logits = out.logits.float().flatten(0, 1)
        loss = F.cross_entropy(logits, chunks[:, 1:].flatten())
        if self.teacher is None:
            return out, loss, None
        with torch.no_grad():
            wanted = self.teacher(chunks[:, :-1]).logits.float().flatten(0, 1).log_softmax(-1)
        distance = F.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean", log_target=True)
        return out, loss, distance

    def _initial_model(self, alphabet: Alphabet) -> DynamicPoolingLM:
        """A new model, or the largest units of a trained one."""
        config = self.config
        if config.pruned_from is not None and not find_checkpoint(self.directory):
            return prune(read_model(Path(config.pruned_from), alphabet), config.model)
        model = DynamicPoolingLM(config.model)
        if config.init_from is not None and not find_checkpoint(self.directory):
            try:
                model.load_state_dict(read_model(Path(config.init_from), alphabet).state_dict())
            except RuntimeError as error:
                raise ValueError(
                    f"the weights of {config.init_from} do not fit the model: {error}; leave its "
                    "sizes as they are in that run"
                ) from error
        return model

    def _unigram_targets(self, train_text: str) -> Tensor | None:
        if self.config.model.boundaries.kind != "unigram":
            return None
        if len(train_text) != len(self.train_ids):
            raise ValueError(
                "kind='unigram' marks characters; use alphabet='characters', not bytes"
            )
        path = self.directory / UNIGRAM_NAME

        def train_once() -> None:
            if not path.exists():
                train_unigram(train_text, path, self.config.unigram_vocabulary)

        call_on_first_rank(train_once)
        return unigram_boundaries(train_text, path)

    def _log(self, kind: str, values: Mapping[str, Any]) -> None:
        plain = {name: float(value) for name, value in values.items()}
        if not math.isfinite(plain["bits"]):
            raise ValueError(
                f"{plain['bits']} bits per character at step {self.steps_done}, expected a finite "
                "loss; the last checkpoint is from before; train again with a lower learning_rate"
            )
        if self.rank == 0:
            append_metrics(self.directory, {"step": self.steps_done, "kind": kind, **plain})
        self._print(kind, plain)

    def _print(self, kind: str, values: Mapping[str, Any]) -> None:
        if self.quiet:
            return
        plain = {name: float(value) for name, value in values.items()}
        tqdm.write(json.dumps({"step": self.steps_done, "kind": kind, **plain}), file=sys.stdout)
        sys.stdout.flush()


def parameter_groups(
    model: DynamicPoolingLM, factors: tuple[float, float, float]
) -> list[dict[str, Any]]:
    """Parameters of the layers on tokens, on segments and on segments of segments.

    One group for all of them when the factors are the same. What cuts a sequence and leads back to
    it belongs to the layers on that sequence.

    Args:
        model: The language model.
        factors: Factor of the learning rate of each group.
    """
    if len(set(factors)) == 1:
        return [{"params": list(model.parameters()), "factor": factors[0]}]
    groups: list[dict[str, Any]] = [{"params": [], "factor": factor} for factor in factors]
    for name, parameter in model.named_parameters():
        depth = name.count("nested.") + ("shortened." in name)
        groups[depth]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up to the peak, then a cosine to zero at the last step."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _check_text(directory: Path, name: str, text: str, known: str) -> None:
    if digest(text) != known:
        raise ValueError(
            f"{directory} was started on another {name} text; pass the text that it was started on"
        )


def _shortening_factor(out: LanguageModelOutput) -> Tensor | float:
    """Characters per segment, over all ranks."""
    if out.boundaries is None:
        return 1.0
    closed = out.boundaries.detach().sum()
    counts = sum_over_ranks(torch.stack([closed.new_tensor(out.boundaries.numel()), closed]))
    return counts[0] / counts[1].clamp(min=1)
