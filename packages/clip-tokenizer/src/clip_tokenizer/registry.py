"""The tokenizer a model wants, by the model's name, its config, or a directory."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_tokenizer import hub
from clip_tokenizer.cleaning import CleanMode, check_clean_mode
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.hugging_face import WORDPIECE_FILE, HFTokenizer
from clip_tokenizer.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_tokenizer.vocabulary import NUM_OPENAI_MERGES
from clip_tokenizer.vocabulary_files import MERGES_FILE, TOKENIZER_FILE, holds_bpe

TOKENIZER_FILES = (TOKENIZER_FILE, MERGES_FILE, WORDPIECE_FILE)
OPENAI_VOCAB_SIZE = 512 + NUM_OPENAI_MERGES + 2
MODEL_CONFIGS = ("open_clip_config.json", "clip_config.json")
"""Where open_clip and clip-models keep a model's config, beside its weights."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Which tokenizer a family of models reads.

    Attributes:
        context_length: Columns of a batch.
        repository: Hub repository of a tokenizer that is not CLIP's BPE; None means BPE. `{name}`
            stands for the model's name.
        clean: Cleaning mode.
        strip_sep: Whether the separator token becomes 0.
    """

    context_length: int = CONTEXT_LENGTH
    repository: str | None = None
    clean: CleanMode = "lower"
    strip_sep: bool = False


def _siglip(repository: str, context_length: int = 64) -> TokenizerSpec:
    return TokenizerSpec(context_length=context_length, repository=repository, clean="canonicalize")


_CLIPA = TokenizerSpec(
    context_length=32, repository="bert-base-uncased", clean="whitespace", strip_sep=True
)
_BPE = TokenizerSpec()
FAMILIES: tuple[tuple[str, TokenizerSpec | None], ...] = (
    ("*-CLIPA", _CLIPA),
    ("*-CLIPA-*", _CLIPA),
    ("nllb-*", None),
    ("*-SigLIP2", _siglip("timm/{name}")),
    ("*-SigLIP2-*", _siglip("timm/{name}")),
    ("*-SigLIP-i18n-*", _siglip("timm/ViT-B-16-SigLIP-i18n-256")),
    ("ViT-SO400M-14-SigLIP", _siglip("timm/ViT-B-16-SigLIP", context_length=16)),
    ("*-SigLIP", _siglip("timm/ViT-B-16-SigLIP")),
    ("*-SigLIP-*", _siglip("timm/ViT-B-16-SigLIP")),
    ("*-worldwide*", None),
    ("coca_ViT-*", TokenizerSpec(context_length=76)),
    ("PE-Core-bigG-14-448", TokenizerSpec(context_length=72)),
    ("PE-Core-*", TokenizerSpec(context_length=32)),
    ("RN[0-9]*", _BPE),
    ("ViT-*", _BPE),
    ("ViTamin-*", _BPE),
    ("EVA0[12]-*", _BPE),
    ("MobileCLIP*", _BPE),
    ("convnext_*", _BPE),
    ("swin_*", _BPE),
    ("vit_*", _BPE),
)
"""First match wins; None is a family whose tokenizer this package does not know."""


def tokenizer_spec(name: str) -> TokenizerSpec:
    """The row of the table for a model's name, as open_clip spells it.

    Raises:
        TokenizerError: If no row fits.
    """
    for pattern, spec in FAMILIES:
        if fnmatch.fnmatchcase(name, pattern):
            if spec is not None:
                return spec
            break
    raise TokenizerError(
        f"no tokenizer is known for the model {name!r}; give the directory or hub repository that "
        "holds its tokenizer files"
    )


def get_tokenizer(
    model: str | os.PathLike[str] | Mapping[str, Any] | object,
    *,
    context_length: int | None = None,
    **options: Any,
) -> Tokenizer | HFTokenizer:
    """The tokenizer a model wants, whatever its kind.

    Args:
        model: A directory with tokenizer files; a hub repository (`org/name`); a model's name as
            open_clip spells it; an open_clip or clip-models config, as a mapping or as an object
            with a `text` part. A name whose tokenizer is not BPE is read from the hub.
        context_length: By default what the model says.
        options: As for the tokenizer's constructor.

    Raises:
        TokenizerError: If nothing says which tokenizer it is.
    """
    if context_length is not None:
        options["context_length"] = context_length
    if not isinstance(model, (str, os.PathLike)):
        return _from_config(_text_config(model), None, options)
    if Path(model).is_dir():
        return _from_directory(Path(model), options)
    name = os.fspath(model)
    repository = hub.repository_of(name)
    if repository is not None:
        return _from_directory(hub.download(repository), options)
    spec = tokenizer_spec(name)
    if spec.repository is None:
        return Tokenizer.openai(
            **{"context_length": spec.context_length, "clean": spec.clean, **options}
        )
    folder = hub.download(spec.repository.format(name=name))
    return HFTokenizer.from_directory(
        folder,
        **{
            "context_length": spec.context_length,
            "clean": spec.clean,
            "strip_sep": spec.strip_sep,
            **options,
        },
    )


def _from_directory(directory: Path, options: dict[str, Any]) -> Tokenizer | HFTokenizer:
    """The tokenizer whose files, or whose model's config, lie in a directory."""
    for name in MODEL_CONFIGS:
        if (directory / name).is_file():
            config = json.loads((directory / name).read_text(encoding="utf-8"))
            return _from_config(_text_config(config), directory, options)
    return _from_files(directory, options)


def _from_files(directory: Path, options: dict[str, Any]) -> Tokenizer | HFTokenizer:
    """The tokenizer whose files lie in a directory."""
    if holds_bpe(directory):
        return Tokenizer.from_pretrained(directory, **options)
    return HFTokenizer.from_directory(directory, **options)


def _text_config(config: object) -> dict[str, Any]:
    """The text part of an open_clip or clip-models config."""
    if isinstance(config, Mapping):
        for outer in ("model_cfg", "model"):
            config = config.get(outer, config) if isinstance(config, Mapping) else config
        if isinstance(config, Mapping):
            config = config.get("text_cfg", config.get("text", config))
    else:
        config = getattr(config, "text", config)
    found = dict(config if isinstance(config, Mapping) else getattr(config, "__dict__", {}))
    if "context_length" not in found and "vocab_size" not in found:
        raise TokenizerError(
            "a config must have a text part with context_length or vocab_size, got "
            f"{type(config).__name__} with the keys {', '.join(map(str, found)) or '(none)'}"
        )
    return found


def _from_config(
    text: Mapping[str, Any], directory: Path | None, options: dict[str, Any]
) -> Tokenizer | HFTokenizer:
    """The tokenizer that a text config asks for, from the directory's files if there is one."""
    wanted = {"context_length": text.get("context_length", CONTEXT_LENGTH)}
    chosen = dict(text.get("tokenizer_kwargs") or {})
    if "clean" in chosen:
        wanted["clean"] = check_clean_mode(chosen["clean"])
    repository = text.get("hf_tokenizer_name")
    if repository:
        folder = directory if directory is not None else hub.download(repository)
        strip_sep = bool(chosen.get("strip_sep_token", False))
        return HFTokenizer.from_directory(folder, **{**wanted, "strip_sep": strip_sep, **options})
    if directory is not None and any((directory / name).is_file() for name in TOKENIZER_FILES):
        return _from_files(directory, {**wanted, **options})
    size = text.get("vocab_size", OPENAI_VOCAB_SIZE)
    if size != OPENAI_VOCAB_SIZE:
        raise TokenizerError(
            f"no tokenizer is known for a vocabulary of {size} ids; OpenAI's has "
            f"{OPENAI_VOCAB_SIZE}; give the directory of the tokenizer's files"
        )
    return Tokenizer.openai(**{**wanted, **options})
