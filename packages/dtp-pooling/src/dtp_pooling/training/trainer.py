"""Train the language model on a text; every step is a function of the seed and its number.

A run's folder holds `run.json` (the configuration and the alphabet), `metrics.jsonl`,
`checkpoint/` (the newest model and optimizer) and, for `unigram`, `unigram.model`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dtp_pooling.language_model.bits_per_character import bits_per_character
from dtp_pooling.language_model.model import DynamicPoolingLM, LanguageModelOutput
from dtp_pooling.pooling.noise import sample_generators
from dtp_pooling.strict_config import from_dict
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.text import Alphabet, chunk_index, digest, make_alphabet
from dtp_pooling.training.unigram import train_unigram, unigram_boundaries


class Run(NamedTuple):
    """A run as written in its folder."""

    config: TrainingConfig
    alphabet: Alphabet
    text_sha256: str
    valid_sha256: str


def start_run(
    folder: Path, config: TrainingConfig, train_text: str, valid_text: str, test_text: str = ""
) -> Run:
    """Fit the configuration to the alphabet of all texts and write `run.json`.

    A run that a mistake stopped before its first metrics and checkpoint is written over.

    Raises:
        FileExistsError: The folder holds a run that has begun.
        ValueError: The run and the text do not go together.
    """
    metrics = folder / "metrics.jsonl"
    if _newest_checkpoint(folder) or (metrics.exists() and metrics.stat().st_size):
        raise FileExistsError(f"{folder} holds a run; resume it or choose another folder")
    alphabet = make_alphabet(config.alphabet, train_text, valid_text, test_text)
    if config.model.boundaries.kind == "whitespace" and not alphabet.has_space:
        raise ValueError("kind='whitespace' needs a text with spaces; use another kind")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "unigram.model").unlink(missing_ok=True)
    boundaries = dataclasses.replace(config.model.boundaries, space=alphabet.space)
    model = dataclasses.replace(config.model, vocabulary=len(alphabet), boundaries=boundaries)
    config = dataclasses.replace(config, model=model)
    run = Run(config, alphabet, digest(train_text), digest(valid_text))
    values = {
        "config": dataclasses.asdict(config),
        "characters": alphabet.characters,
        "text_sha256": run.text_sha256,
        "valid_sha256": run.valid_sha256,
    }
    (folder / "run.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return run


def read_run(folder: Path) -> Run:
    """The run that `start_run` wrote.

    Raises:
        FileNotFoundError: There is none.
        ValueError: `run.json` is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run: expected {path}; `dtp-lm train` makes one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = from_dict(TrainingConfig, values["config"])
        alphabet = Alphabet(characters=values["characters"])
        return Run(config, alphabet, values["text_sha256"], values["valid_sha256"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} describes no run: {error!r}; `dtp-lm train` makes one") from error


class Trainer:
    """Trains a run, from the start or from its newest checkpoint.

    Args:
        folder: Holds `run.json`; a checkpoint in it is resumed.
        train_text: Text to train on.
        valid_text: Text to evaluate on, whole.
        device: Where to train.
    """

    def __init__(
        self, folder: Path, train_text: str, valid_text: str, device: torch.device
    ) -> None:
        self.folder, self.device = folder, device
        self.config, alphabet, *digests = read_run(folder)
        for name, text, known in zip(
            ("training", "validation"), (train_text, valid_text), digests, strict=True
        ):
            if digest(text) != known:
                raise ValueError(f"{folder} was started on another {name} text; pass that one")
        self.train_ids = alphabet.encode(train_text).to(torch.int32)
        self.valid_ids = alphabet.encode(valid_text)
        if not len(self.valid_ids):
            raise ValueError("the validation text is empty; give a longer text, or one of its own")
        self._chunks(0)  # says early that a text is too short
        self.targets = self._unigram_targets(train_text)
        torch.manual_seed(self.config.seed)
        self.model = self._first_model(alphabet).to(device)
        self.teacher = self._read_teacher(alphabet)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.999)
        )
        self.step_number = 0
        self._load()
        self.evaluate(self.valid_ids[: self.config.evaluation_window])  # says early what it lacks

    def run(self, until: int | None = None, stop: threading.Event | None = None) -> None:
        """Train to the last step, or up to step `until`; evaluate and save on the way.

        Args:
            until: Step to return at; None for the last.
            stop: Once set, the step under way is finished and saved, and `run` returns.
        """
        last = self.config.steps if until is None else min(until, self.config.steps)
        started = time.perf_counter()
        while self.step_number < last:
            record = self.step()
            at = self.step_number
            final = at == self.config.steps
            if at % self.config.log_every == 0 or final:
                record["seconds"] = time.perf_counter() - started
                self._log("train", record)
            if at % self.config.evaluate_every == 0 or final:
                self._log("valid", self.evaluate())
                self._save()
            elif stop is not None and stop.is_set():
                self._save()
            if stop is not None and stop.is_set():
                return

    def step(self) -> dict[str, Any]:
        """One optimizer step: forward, loss, backward, clip, update."""
        config, step = self.config, self.step_number
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout of this step
        rate = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        out, loss, distance = self._forward(step)
        learned = loss if distance is None else (loss + distance) / 2
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(learned + out.boundary_loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.step_number += 1
        from_teacher = {} if distance is None else {"teacher_bits": distance.detach() / math.log(2)}
        return {
            "bits": loss.detach() / math.log(2),
            **from_teacher,
            "boundary_loss": out.boundary_loss.detach(),
            "shortening": _shortening(out),
            "gradient_norm": norm.detach(),
            "learning_rate": rate,
        }

    def _chunks(self, step: int) -> Tensor:
        """(B, L + 1) places in the text of a step's batch."""
        config = self.config
        return chunk_index(
            len(self.train_ids), config.context, config.batch_size, config.seed, step
        )

    def _forward(self, step: int) -> tuple[LanguageModelOutput, Tensor, Tensor | None]:
        """Output, cross-entropy, and divergence from the teacher, if there is one."""
        config, batch = self.config, self.config.batch_size
        index = self._chunks(step)
        chunks = self.train_ids[index].long().to(self.device)  # (B, L + 1)
        targets = None if self.targets is None else self.targets[index[:, :-1]].to(self.device)
        positions = range(step * batch, (step + 1) * batch)
        self.model.train()
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            out = self.model(
                chunks[:, :-1],
                targets=targets,
                generators=sample_generators(config.seed, positions),
            )
        logits = out.logits.float().flatten(0, 1)
        loss = F.cross_entropy(logits, chunks[:, 1:].flatten())
        if self.teacher is None:
            return out, loss, None
        with torch.no_grad():
            taught = self.teacher(chunks[:, :-1]).logits.float().flatten(0, 1).log_softmax(-1)
        distance = F.kl_div(logits.log_softmax(-1), taught, reduction="batchmean", log_target=True)
        return out, loss, distance

    def evaluate(self, text: Tensor | None = None) -> dict[str, Any]:
        """Bits per character of ids (N,), by default of the whole validation text."""
        config = self.config
        result = bits_per_character(
            for_use(self.model.eval(), config.quantize),
            self.valid_ids if text is None else text,
            window=config.evaluation_window,
            stride=config.evaluation_stride,
        )
        return result._asdict()

    def _first_model(self, alphabet: Alphabet) -> DynamicPoolingLM:
        """A new model, or a trained one's part."""
        if self.config.pruned_from is None or _newest_checkpoint(self.folder) is not None:
            return DynamicPoolingLM(self.config.model)
        from dtp_pooling.language_model.pruning import pruned

        source = Path(self.config.pruned_from)
        return pruned(read_model(source, alphabet), self.config.model)

    def _read_teacher(self, alphabet: Alphabet) -> DynamicPoolingLM | None:
        if self.config.teacher is None:
            return None
        return read_model(Path(self.config.teacher), alphabet).to(self.device)

    def _unigram_targets(self, train_text: str) -> Tensor | None:
        if self.config.model.boundaries.kind != "unigram":
            return None
        if len(train_text) != len(self.train_ids):
            raise ValueError(
                "kind='unigram' marks characters; use alphabet='characters', not bytes"
            )
        path = self.folder / "unigram.model"
        if not path.exists():
            train_unigram(train_text, path, self.config.unigram_vocabulary)
        return unigram_boundaries(train_text, path)

    def _log(self, kind: str, record: Mapping[str, Any]) -> None:
        plain = {name: float(value) for name, value in record.items()}
        if not math.isfinite(plain["bits"]):
            raise ValueError(
                f"{plain['bits']} bits per character at step {self.step_number}; the last "
                "checkpoint is from before; a new run with a lower learning_rate may go further"
            )
        line = json.dumps({"step": self.step_number, "kind": kind, **plain})
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def _save(self) -> None:
        """Write the checkpoint beside the old one, which goes only when this one is in place."""
        new, place, old = (self.folder / f"checkpoint{x}" for x in (".new", "", ".old"))
        shutil.rmtree(new, ignore_errors=True)
        self.model.save(new)
        state = {"optimizer": self.optimizer.state_dict(), "step": self.step_number}
        torch.save(state, new / "optimizer.pt")
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
        new.rename(place)
        shutil.rmtree(old, ignore_errors=True)

    def _load(self) -> None:
        """Go back to the newest checkpoint, if there is one."""
        place = _newest_checkpoint(self.folder)
        if place is None:
            self._forget_after(0)
            return
        self.model.load_state_dict(DynamicPoolingLM.load(place).state_dict())
        path = place / "optimizer.pt"
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.optimizer.load_state_dict(state["optimizer"])
            self.step_number = state["step"]
        except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            kind = type(error).__name__
            raise ValueError(
                f"{path} is damaged ({kind}); remove {place} to start from before it"
            ) from error
        self._forget_after(self.step_number)

    def _forget_after(self, step: int) -> None:
        """Drop metrics of steps after the checkpoint, made again, and a line cut short."""
        path, new = self.folder / "metrics.jsonl", self.folder / "metrics.jsonl.new"
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        whole = (x for x in lines if x.endswith("\n"))
        new.write_text("".join(x for x in whole if json.loads(x)["step"] <= step), "utf-8")
        new.replace(path)


def _newest_checkpoint(folder: Path) -> Path | None:
    """A save that was cut short leaves the old one."""
    places = [folder / "checkpoint", folder / "checkpoint.old"]
    return next((place for place in places if place.exists()), None)


def read_model(folder: Path, alphabet: Alphabet) -> DynamicPoolingLM:
    """The newest model of a run in evaluation mode, if it reads the alphabet.

    Raises:
        ValueError: The run's alphabet is another.
        FileNotFoundError: The folder holds no run, or one without a checkpoint.
    """
    if read_run(folder).alphabet != alphabet:
        raise ValueError(f"{folder} has another alphabet; train it on a text with the same one")
    place = _newest_checkpoint(folder)
    if place is None:
        raise FileNotFoundError(f"{folder} has no checkpoint yet; train it to its end first")
    return DynamicPoolingLM.load(place)


def for_use(model: DynamicPoolingLM, quantize: str) -> DynamicPoolingLM:
    """The model, or its int8 copy."""
    if quantize == "none":
        return model
    from dtp_pooling.language_model.quantization import quantized_int8

    return quantized_int8(model)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up to the peak, then a cosine to zero at the last step."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _shortening(out: LanguageModelOutput) -> Tensor | float:
    """Characters per segment."""
    if out.boundaries is None:
        return 1.0
    return out.boundaries.numel() / out.boundaries.detach().sum().clamp(min=1)
