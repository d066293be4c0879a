"""What a user typed where a model or its weights are named: a tag, a repository, a path."""

from __future__ import annotations

import re
from pathlib import Path

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.named_models import list_models
from clip_models.config.pretrained_tags import get_pretrained_repository, read_table
from clip_models.config.strict import nearest
from clip_models.errors import CheckpointError, ConfigError

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".json")


def find_repository(model: str | Path | CLIPConfig, pretrained: str) -> str:
    """The hub repository of `pretrained`, a tag of open_clip for the named model.

    Raises:
        ConfigError: The model is no name, or has no such tag.
        CheckpointError: It looks like a path or a repository, and there is none.
    """
    if _looks_like_path(pretrained):
        raise CheckpointError(
            f"pretrained={pretrained!r} does not exist; it must be a file, a directory or "
            "'hf-hub:org/name'"
        )
    if _REPOSITORY.fullmatch(pretrained):
        raise CheckpointError(
            f"pretrained={pretrained!r} must be a file, a directory or 'hf-hub:org/name', and no "
            f"such path exists; for the hub's repository, write 'hf-hub:{pretrained}'"
        )
    if not isinstance(model, str):
        raise CheckpointError(
            f"pretrained={pretrained!r} must be a file, a directory or 'hf-hub:org/name'; a tag of "
            "open_clip needs the name of a model"
        )
    try:
        return get_pretrained_repository(model, pretrained)
    except ConfigError as error:
        raise CheckpointError(
            f"pretrained={pretrained!r} must be a file, a directory or 'hf-hub:org/name', or a "
            f"tag: {error}"
        ) from None


def find_published(model: str | None, source: str | Path) -> str | None:
    """The hub repository of a source that is a tag of the named model; None for anything else.

    Raises:
        CheckpointError: The source is a repository's name without `hf-hub:`.
    """
    text = str(source)
    if Path(source).exists():
        return None
    if model is not None and text in read_table().get(model, {}):
        return read_table()[model][text]
    if _REPOSITORY.fullmatch(text) and not _looks_like_path(text):
        raise CheckpointError(
            f"there is no file or directory {text!r}; for the hub's repository, write "
            f"'hf-hub:{text}'"
        )
    return None


def describe_unknown(model: str) -> str:
    """What to say of a model that is neither a registered name nor a directory."""
    if _looks_like_path(model):
        return f"{model} does not exist; name a registered model or the directory of a saved one"
    plain = model.replace("/", "-")  # as OpenAI writes them
    if plain in list_models():
        return f"unknown model {model!r}; did you mean {plain!r}?"
    if _REPOSITORY.fullmatch(model):
        return (
            f"there is no directory {model!r} and no model of that name; for the hub's repository, "
            f"write 'hf-hub:{model}'"
        )
    owners = [name for name, tags in read_table().items() if model in tags]
    if owners:
        return (
            f"{model!r} is a tag of pretrained weights, not a model; name both, as in "
            f"create_model({owners[0]!r}, pretrained={model!r})"
        )
    return f"unknown model {model!r}{nearest(model, list_models(), '`clip-models list`')}"


def _looks_like_path(text: str) -> bool:
    """Whether a word can only be meant as a path."""
    path = Path(text)
    return (
        path.is_absolute()
        or text.startswith((".", "~"))
        or text.endswith(("/", "\\"))
        or path.suffix in _WEIGHTS
        or len(path.parts) > 2
    )
