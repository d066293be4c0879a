"""A trained model from its directory, with all that an evaluation needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from clip_models import CLIP, CheckpointError, ConfigError, Preprocess, load_model
from clip_tokenizer import Tokenizer, TokenizerError

from clip_eval.faults import EvaluationError
from clip_eval.prompts import find_templates

WEIGHTS_FILE = "model.safetensors"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and what turns images and texts into its input.

    Attributes:
        model: In evaluation mode, on the device asked for.
        tokenizer: Texts → token ids.
        preprocess: Image → pixels.
        templates: Caption templates saved with the model, ``{c}`` for the class name.
        name: What to call it in a table.
        path: Its directory.
    """

    model: CLIP
    tokenizer: Tokenizer
    preprocess: Preprocess
    templates: tuple[str, ...] | None
    name: str
    path: Path

    def weights_sha256(self) -> str:
        """Hash of the weights file."""
        with (self.path / WEIGHTS_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def load_for_evaluation(path: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """The model of a run directory, or of one of its checkpoints.

    A directory holds ``model.safetensors``, ``clip_config.json``, the tokenizer's files and, if
    the run had any, ``zeroshot_classification_templates.txt``.  What a checkpoint lacks is taken
    from the run it belongs to.

    Raises:
        EvaluationError: Something is missing or damaged; the message says what to do.
    """
    directory = Path(path)
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "does not exist"
        raise EvaluationError(
            f"model directory {directory} {found}; give the directory that a training run wrote"
        )
    if not (directory / WEIGHTS_FILE).is_file():
        raise EvaluationError(_what_is_missing(directory))
    places = [directory]
    if directory.resolve().parent.name == CHECKPOINTS:
        places.append(directory.resolve().parents[1])
    try:
        model, preprocess = load_model(directory, device=device)
        tokenizer = _load_tokenizer(places)
    except (CheckpointError, ConfigError, TokenizerError, OSError) as error:
        raise EvaluationError(str(error)) from error
    _check_fit(model, tokenizer, directory)
    saved = [templates for templates in map(find_templates, places) if templates]
    run = [] if len(places) == 1 else [places[1].name]
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        preprocess=Preprocess(preprocess),
        templates=saved[0] if saved else None,
        name="/".join([*run, directory.resolve().name]),
        path=directory,
    )


def _what_is_missing(directory: Path) -> str:
    checkpoints = sorted((directory / CHECKPOINTS).glob("step-*"))
    if checkpoints:
        return (
            f"{directory}: no {WEIGHTS_FILE}, so its training has not ended; resume it, or give "
            f"its last checkpoint {checkpoints[-1]}"
        )
    return (
        f"{directory}: no {WEIGHTS_FILE} in it; give a directory that a training run wrote "
        "(with model.safetensors, clip_config.json and the tokenizer's files)"
    )


def _load_tokenizer(places: list[Path]) -> Tokenizer:
    for place in places[:-1]:
        try:
            return Tokenizer.from_pretrained(place)
        except TokenizerError:
            continue
    return Tokenizer.from_pretrained(places[-1])


def _check_fit(model: CLIP, tokenizer: Tokenizer, directory: Path) -> None:
    text = model.config.text
    if tokenizer.vocab_size > text.vocab_size:
        raise EvaluationError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} ids and the model only "
            f"{text.vocab_size}; they do not belong together"
        )
    if tokenizer.context_length > text.context_length:
        raise EvaluationError(
            f"{directory}: the tokenizer makes {tokenizer.context_length} tokens and the model "
            f"reads {text.context_length}; they do not belong together"
        )
