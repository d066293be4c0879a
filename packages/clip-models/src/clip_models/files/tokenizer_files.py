"""The tokenizer beside a model that is written for a library, by an installed package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.towers import CLIP_VOCAB_SIZE
from clip_models.converters.dialect_names import Dialect
from clip_models.errors import ConfigError
from clip_models.files import hub
from clip_models.files.atomic_write import save_text
from clip_models.files.tokenizer_plans import plan_files

NONE = "none"
"""What is given in the place of a tokenizer to write none."""
NAMES = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"),
    *("vocab.txt", "special_tokens_map.json", "spiece.model", "tokenizer.model"),
)
"""Names of the files of a tokenizer."""
_GUARD = "tokenizer_config.json"
_CHECKPOINTS = "checkpoints"


class TokenizerFiles(NamedTuple):
    """The tokenizer's files of a model for a library.

    Attributes:
        names: Names of the files that `write` makes in a directory.
        write: Writes them.
        text: Fields of open_clip's `text_cfg` that describe the tokenizer; None leaves it as it is.
        note: What the user should know, or nothing.
    """

    names: tuple[str, ...] = ()
    write: Callable[[Path], None] = lambda directory: None
    text: dict[str, Any] | None = None
    note: str = ""


def plan_tokenizer(
    config: CLIPConfig, to: Dialect, source: str | Path, tokenizer: str | Path | None
) -> TokenizerFiles:
    """The tokenizer's files beside a model in a directory dialect.

    Args:
        config: The model's.
        to: The dialect: "clip-models", "open-clip" or "hugging-face".
        source: Where the model was read from, with its tokenizer perhaps.
        tokenizer: A directory or repository with the tokenizer; None is that of the source, or the
            one that the config names; "none" writes none.

    Raises:
        ConfigError: The library cannot express the tokenizer, or it is not known; the message
            says what to do.
    """
    if tokenizer == NONE:
        return _without(to, "as asked")
    place: str | Path | None = tokenizer if tokenizer is not None else find_tokenizer(source)
    if place is None and not _is_named(config):
        return _without(to, f"{source} holds none, and none is known for its vocabulary")
    if place is None and to == "clip-models":
        return TokenizerFiles()  # its config names the tokenizer
    try:
        planned = plan_files(config, to, place)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; give another with --tokenizer DIR, or leave it out with --tokenizer none"
        ) from None
    if planned is None:
        raise ConfigError(
            "the tokenizer of the model is written by clip-tokenizer, which is not installed; "
            "pip install clip-tokenizer, or leave the tokenizer out with --tokenizer none"
        )
    return TokenizerFiles(planned.names, planned.write, planned.text or None)


def find_tokenizer(source: str | Path) -> str | Path | None:
    """The directory or repository with the tokenizer of a source, if it has one.

    A checkpoint of a run has that of its run.
    """
    repository = hub.parse_repository(source)
    if repository is not None:
        return repository
    path = Path(source)
    if path.is_file():
        return None
    places = [path]
    if path.resolve().parent.name == _CHECKPOINTS:
        places.append(path.resolve().parents[1])
    return next((place for place in places if _holds_tokenizer(place)), None)


def remove_other_files(directory: Path, names: Iterable[str]) -> None:
    """Remove the files of an earlier tokenizer, which a library would still read."""
    for name in set(NAMES) - set(names):
        (directory / name).unlink(missing_ok=True)


def _holds_tokenizer(directory: Path) -> bool:
    return any((directory / name).is_file() for name in NAMES if name != _GUARD)


def _is_named(config: CLIPConfig) -> bool:
    """Whether the config says which tokenizer the model has: a name, or CLIP's own by its size."""
    tokenizer = config.text.tokenizer
    named = tokenizer is not None and tokenizer.name != "clip"
    return named or config.text.vocab_size == CLIP_VOCAB_SIZE


def _without(to: Dialect, why: str) -> TokenizerFiles:
    """No tokenizer; transformers, which would make up one of two words, is stopped from it."""
    if to != "hugging-face":
        return TokenizerFiles(note="" if to == "clip-models" else f"no tokenizer is written: {why}")
    guard = '{"tokenizer_class": "PreTrainedTokenizerFast"}\n'
    return TokenizerFiles(
        (_GUARD,),
        lambda directory: save_text(directory / _GUARD, guard),
        note=f"no tokenizer is written: {why}; AutoProcessor refuses the directory",
    )
