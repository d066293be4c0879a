"""Loading a model, with its tokenizer and preprocessing, from a directory or a library."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from clip_models import (
    CheckpointError,
    ConfigError,
    Preprocess,
    list_models,
    list_pretrained,
    load_model,
)
from clip_tokenizer import HFTokenizer, Tokenizer, TokenizerError, get_tokenizer

from clip_eval.data.templates import find_templates
from clip_eval.errors import EvaluationError
from clip_eval.models.libraries import (
    download_from_hub,
    load_object,
    load_open_clip,
    load_transformers,
)
from clip_eval.models.protocols import LoadedModel
from clip_eval.models.tower_fit import require_fit

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "clip_config.json"
TOKENIZER_FILES = ("tokenizer.json", "merges.txt", "vocab.txt", "*.txt.gz")
CHECKPOINTS = "checkpoints"
OTHERS = {"open_clip_config.json": "open_clip:local-dir:", "config.json": "hf:"}
"""Files that mark the directories of other libraries, and the prefix of such a directory."""
OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_for_evaluation(model: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model for evaluation.

    Args:
        model: A run directory or one of its checkpoints; `open_clip:NAME[:TAG-OR-FILE]`;
            `hf:ID-OR-DIRECTORY` of transformers; `hf-hub:REPOSITORY` with our files or
            open_clip's; `module:factory` for a function that returns
            `(model, tokenizer, preprocess)`.
        device: Device of the model.

    Raises:
        EvaluationError: A file is missing or damaged; the message names the remedy.
    """
    spec = str(model)
    kind, colon, rest = spec.partition(":")
    if colon and kind in ("open_clip", "hf"):
        load = load_open_clip if kind == "open_clip" else load_transformers
        return replace(load(rest, device), name=_short_name(rest))
    if spec.startswith("hf-hub:"):
        directory = download_from_hub(rest)
        if (directory / CONFIG_FILE).is_file():
            return replace(_load_directory(directory, device), name=rest)
        return replace(load_open_clip(f"local-dir:{directory}", device), name=rest)
    if OBJECT.fullmatch(spec) and not Path(spec).exists():
        return load_object(spec, device)
    return _load_directory(Path(model), device)


def _short_name(spec: str) -> str:
    """Shorten existing paths in a description to their last part."""
    name, colon, weights = spec.partition(":")
    shorten = [Path(part).name if Path(part).exists() else part for part in (name, weights)]
    return f"{shorten[0]}{colon}{shorten[1]}"


def _load_directory(directory: Path, device: str | torch.device) -> LoadedModel:
    """Load the model of a run directory, or of one of its checkpoints.

    A directory holds `model.safetensors`, `clip_config.json`, the tokenizer's files and, if the run
    has templates, `zeroshot_classification_templates.txt`. Files that a checkpoint lacks are taken
    from its run.
    """

    _check_directory(directory)
    places = [directory]
    if directory.resolve().parent.name == CHECKPOINTS:
        places.append(directory.resolve().parents[1])
    try:
        model, preprocess = load_model(directory, device=device)
        tokenizer = _load_tokenizer(places)
    except (CheckpointError, ConfigError, TokenizerError, OSError) as error:
        raise EvaluationError(str(error)) from error
    require_fit(model, tokenizer, str(directory))
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


def _check_directory(directory: Path) -> None:
    """Raise an error that names the remedy, unless the directory holds a model."""
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "does not exist"
        kind, _, rest = str(directory).partition(":")
        if kind.replace("-", "").replace("_", "").lower() == "openclip" and rest:
            raise EvaluationError(f"unknown kind {kind!r}; did you mean open_clip:{rest}?")
        if str(directory) in list_models():
            raise EvaluationError(
                f"{directory} is a model's name, without weights; give open_clip:{directory}:TAG "
                "with one of its tags, such as "
                f"{', '.join(tag for _, tag in list_pretrained(str(directory))[:3]) or 'openai'}"
            )
        raise EvaluationError(
            f"model directory {directory} {found}; give the directory that a training run wrote, "
            "open_clip:NAME[:TAG-OR-FILE], hf:ID, hf-hub:REPOSITORY or module:factory"
        )
    if not (directory / CONFIG_FILE).is_file():
        for other, prefix in OTHERS.items():
            if (directory / other).is_file():
                raise EvaluationError(
                    f"{directory} holds {other} and no {CONFIG_FILE}; give {prefix}{directory}"
                )
    if not (directory / WEIGHTS_FILE).is_file():
        raise EvaluationError(_describe_missing(directory))


def _describe_missing(directory: Path) -> str:
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


def _load_tokenizer(places: list[Path]) -> Tokenizer | HFTokenizer:
    """Load the tokenizer of the first place that has one, else the one that the config names."""
    for place in places:
        if any(any(place.glob(pattern)) for pattern in TOKENIZER_FILES):
            return get_tokenizer(place)
    return get_tokenizer(places[0])
