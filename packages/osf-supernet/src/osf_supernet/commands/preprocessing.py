"""How a library's models want their inputs: pixels normalized, prompts and texts as tokens."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osf_supernet.training.experiment import MEAN, STD, Normalization

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"),
    "tokenizer_config.json",
)


def normalization_of(name: str, model: nn.Module) -> Normalization:
    """Mean and standard deviation of a model's images; those of ImageNet where nothing says them.

    Args:
        name: MODEL of the command line.
        model: what it stands for.
    """
    library, _, rest = name.partition(":")
    known: Any = model
    if library == "timm":
        settings = known.default_cfg
        return settings.get("mean", MEAN), settings.get("std", STD)
    if library == "open_clip":
        settings = importlib.import_module("open_clip").get_model_preprocess_cfg(model)
        return settings.get("mean", MEAN), settings.get("std", STD)
    if library == "clip-models":
        made = importlib.import_module("clip_models").create_model_and_transforms(rest)
        return made.evaluate.config.mean, made.evaluate.config.std
    if library == "transformers":
        processors: Any = importlib.import_module("transformers").AutoImageProcessor
        try:
            found = processors.from_pretrained(rest)
        except (OSError, ValueError):  # a folder without a processor
            return MEAN, STD
        return getattr(found, "image_mean", MEAN), getattr(found, "image_std", STD)
    return MEAN, STD


def tokenize_prompts(name: str, model: nn.Module, prompts: Sequence[str]) -> Tensor:
    """Tokens (C, T) of class prompts, by the tokenizer of a model's library.

    Raises:
        ValueError: no tokenizer is known for the model.
        ImportError: the library's tokenizer is not installed.
    """
    library, _, rest = name.partition(":")
    known: Any = model
    if library == "open_clip":
        package: Any = importlib.import_module("open_clip")
        rows = package.get_tokenizer(rest, context_length=known.context_length)(list(prompts))
    elif library == "clip-models":
        rows = _tokenize_for_clip_models(rest, known, prompts)
    elif library == "transformers":
        length = known.config.text_config.max_position_embeddings
        found = _tokenizer_of(rest)(
            list(prompts), padding="max_length", truncation=True, max_length=length
        )
        rows = found["input_ids"]
    else:
        raise ValueError(
            f"the tokenizer of {name} is not known: use --data, which brings its own tokens"
        )
    tokens = torch.as_tensor(rows, dtype=torch.long)
    return tokens.reshape(len(prompts), -1)


def encoder_of(name: str, model: nn.Module) -> Callable[[str], list[int]]:
    """Text → token ids: by the tokenizer of a transformers folder.

    Without one, the UTF-8 bytes of the text, where the model knows at least 256 ids.

    Raises:
        ValueError: there is no tokenizer, and the model has fewer ids than there are bytes.
    """
    library, _, rest = name.partition(":")
    known: Any = model
    if library != "transformers":
        raise ValueError(f"--texts needs a model of transformers, got {name}: use --data")
    try:
        tokenizer = _tokenizer_of(rest)
    except ValueError:
        if known.config.vocab_size < 256:
            raise
        return lambda text: list(text.encode())
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _tokenize_for_clip_models(rest: str, model: Any, prompts: Sequence[str]) -> Any:
    try:
        package: Any = importlib.import_module("clip_tokenizer")
    except ModuleNotFoundError as error:
        raise ImportError("prompts need clip-tokenizer: pip install clip-tokenizer") from error
    config = model.config.text
    try:
        tokenizer = package.get_tokenizer(rest)
        package.check_text_tower(tokenizer, {"vocab_size": config.vocab_size})
        return tokenizer(list(prompts), context_length=config.context_length)
    except package.TokenizerError as error:
        raise ValueError(str(error)) from error


def _tokenizer_of(rest: str) -> Any:
    """The tokenizer of a transformers folder or repository.

    Raises:
        ValueError: there is none; transformers itself makes an empty one for some folders.
    """
    package: Any = importlib.import_module("transformers")
    folder = Path(rest)
    try:
        if folder.is_dir() and not any(f.name in _TOKENIZER_FILES for f in folder.iterdir()):
            raise OSError("none of its files")
        return package.AutoTokenizer.from_pretrained(rest)
    except (OSError, ValueError, ImportError, KeyError) as error:
        where = "folder" if Path(rest).is_dir() else "repository"
        raise ValueError(
            f"the {where} {rest} has no tokenizer that transformers can read: save one there"
        ) from error
