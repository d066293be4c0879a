"""The tokenizer of a model, by the model's name, its config or a directory."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_tokenizer import hub
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.hugging_face import HFTokenizer
from clip_tokenizer.tokenizer import CONTEXT_LENGTH, Tokenizer
from clip_tokenizer.vocabulary import NUM_OPENAI_MERGES
from clip_tokenizer.vocabulary_files import has_own_settings, holds_bpe, holds_tokenizer, read_json

OPENAI_VOCAB_SIZE = 512 + NUM_OPENAI_MERGES + 2
MODEL_CONFIGS = ("open_clip_config.json", "clip_config.json")
"""Files of a model's config, beside its weights, in open_clip and clip-models."""
CLIP_NAME = "clip"
"""Name of CLIP's tokenizer in clip-models' configs."""
BPE_OPTIONS = {"clean": "clean", "reduction_mask": "reduction"}
HF_OPTIONS = {"clean": "clean", "strip_sep_token": "strip_sep"}
"""Names of options in open_clip, and ours."""
OPEN_CLIP_REDUCTIONS = {"simple": "block", "syntax": "syntax-clipa"}
"""Names of reductions in open_clip that differ from ours."""


def _text(
    context_length: int = CONTEXT_LENGTH, repository: str | None = None, **options: Any
) -> dict[str, Any]:
    """The fields of a model's text config that describe its tokenizer, with open_clip's names."""
    return {
        "context_length": context_length,
        "hf_tokenizer_name": repository,
        "tokenizer_kwargs": options,
    }


def _siglip(repository: str, context_length: int = 64) -> dict[str, Any]:
    return _text(context_length, repository, clean="canonicalize")


_BPE = _text()
_CLIPA = _text(32, "bert-base-uncased", strip_sep_token=True)
FAMILIES: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("RN{50,101,50x4,50x16,50x64}{,-quickgelu}", _BPE),
    ("ViT-{S,M}-{32,16}{,-alt}", _BPE),
    ("ViT-B-{32,32-256,32-plus-256,16,16-plus,16-plus-240}", _BPE),
    ("ViT-L-{14,14-280,14-336,16,16-320}", _BPE),
    ("ViT-H-{14,14-378,16}", _BPE),
    ("ViT-{g,bigG,e}-14", _BPE),
    ("ViT-{B-32,B-16,L-14,L-14-336,H-14,H-14-378,bigG-14}-quickgelu", _BPE),
    ("ViTamin-{S,S-LTT,B,B-LTT,L,L-256,L-336,L-384,L2,L2-256,L2-336,L2-384}", _BPE),
    ("ViTamin-XL-{256,336,384}", _BPE),
    ("EVA01-g-14{,-plus}", _BPE),
    ("EVA02-{B-16,L-14,L-14-336,E-14,E-14-plus}", _BPE),
    ("MobileCLIP-{S1,S2,B}", _BPE),
    ("MobileCLIP2-{S0,S2,S3,S4,B,L-14}", _BPE),
    ("convnext_{tiny,small,base,base_w,base_w_320,large,large_d,large_d_320,xlarge}", _BPE),
    ("convnext_xxlarge{,_320}", _BPE),
    ("swin_base_patch4_window7_224", _BPE),
    ("vit_{medium_patch16_gap_256,relpos_medium_patch16_cls_224}", _BPE),
    ("coca_ViT-{B-32,L-14}", _text(76)),
    ("PE-Core-{T-16-384,S-16-384,B-16,L-14-336}", _text(32)),
    ("PE-Core-bigG-14-448", _text(72)),
    ("CIFAR-RN", _BPE),
    ("CoreNet-ViT-B-16", _BPE),
    ("{Compact,Whitened}-32", _text(32)),
    ("Compact-48", _text(48)),
    ("ViT-{B-16-CL16,L-16-CL16-GAP}", _text(16)),
    ("ViT-{L-16,H-14}-CL32-GAP", _text(32)),
    ("ViT-L-16-CL8-Syntax-GAP", _text(8, reduction_mask="syntax")),
    ("ViT-L-16-CL16-Syntax-GAP", _text(16, reduction_mask="syntax")),
    ("ViT-H-14-CL8-SyntaxMask-GAP", _text(8, reduction_mask="syntax")),
    ("ViT-{L,H}-14-CL32-GAP-BigVision", _CLIPA),
    ("ViT-{L,H,bigG}-14-CLIPA{,-336}", _CLIPA),
    ("ViT-B-16-SigLIP{,-256,-384,-512}", _siglip("timm/ViT-B-16-SigLIP")),
    ("ViT-L-16-SigLIP-{256,384}", _siglip("timm/ViT-B-16-SigLIP")),
    ("ViT-SO400M-14-SigLIP", _siglip("timm/ViT-B-16-SigLIP", 16)),
    ("ViT-SO400M-14-SigLIP-{378,384}", _siglip("timm/ViT-B-16-SigLIP")),
    ("ViT-{B,SO400M}-16-SigLIP-i18n-256", _siglip("timm/ViT-B-16-SigLIP-i18n-256")),
    ("ViT-B-{32-SigLIP2-256,16-SigLIP2}", _siglip("timm/{name}")),
    ("ViT-{B,L,SO400M}-16-SigLIP2-{256,384,512}", _siglip("timm/{name}")),
    ("ViT-SO400M-14-SigLIP2{,-378}", _siglip("timm/{name}")),
    ("ViT-gopt-16-SigLIP2-{256,384}", _siglip("timm/{name}")),
    ("ViT-{L,H,bigG}-14-worldwide{,-378,-quickgelu}", None),
    ("{roberta,xlm-roberta-base,mt5-base,coca_roberta}-ViT-B-32", None),
    ("{xlm-roberta-large,mt5-xl}-ViT-H-14", None),
    ("nllb-clip-{base,large}{,-siglip}", None),
)
"""Names of open_clip's and clip-models' models, `{a,b}` for a choice, and the fields of their text
configs that describe the tokenizer, `{name}` for the model's name; None is a tokenizer that this
package does not have."""


def _expand(pattern: str) -> list[str]:
    """The names that match a pattern."""
    parts = re.split(r"\{(.*?)\}", pattern)  # every second one is a choice
    choices = [part.split(",") if at % 2 else [part] for at, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


_TEXTS = {name: text for pattern, text in FAMILIES for name in _expand(pattern)}


def find_text_config(name: str) -> dict[str, Any]:
    """The fields of the named model's text config that describe its tokenizer.

    Raises:
        TokenizerError: If the table lacks the name; the message names the nearest.
    """
    text = _TEXTS.get(name)
    if text is None:
        near = [] if name in _TEXTS else difflib.get_close_matches(name, _TEXTS, cutoff=0.8)
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise TokenizerError(
            f"no tokenizer is known for the model {name!r}{hint}; give the directory or hub "
            "repository that holds its tokenizer files"
        )
    repository = text["hf_tokenizer_name"]
    return {**text, "hf_tokenizer_name": repository and repository.format(name=name)}


def get_tokenizer(
    model: str | os.PathLike[str] | Mapping[str, Any] | object,
    *,
    context_length: int | None = None,
    **options: Any,
) -> Tokenizer | HFTokenizer:
    """The tokenizer of a model, of any kind.

    Args:
        model: A directory with tokenizer files, a model's config, or both; a hub repository
            (`org/name`, with `@revision` for a revision); the name of a model of open_clip or
            clip-models; a config of either, as a mapping or as an object with a `text` part. A
            tokenizer that is not BPE, and whose files are in no directory, is read from the hub.
        context_length: Number of columns of a batch; None is the model's.
        options: As for the tokenizer's constructor.

    Raises:
        TokenizerError: If the tokenizer is unknown, a config has an unknown option, or a file is
            damaged.
    """
    if context_length is not None:
        options["context_length"] = context_length
    if not isinstance(model, (str, os.PathLike)):
        return _from_config(_text_config(model), None, options)
    if Path(model).is_dir():
        return _from_directory(Path(model), options)
    name = os.fspath(model)
    repository = hub.parse_repository(name)
    if repository is not None:
        return _from_directory(hub.download(repository), options)
    return _from_config(find_text_config(name), None, options)


def _from_directory(directory: Path, options: dict[str, Any]) -> Tokenizer | HFTokenizer:
    """The tokenizer of a directory with its files, its model's config, or both."""
    for name in MODEL_CONFIGS:
        if (directory / name).is_file():
            config = read_json(directory / name)
            return _from_config(_text_config(config), directory, options)
    return _from_files(directory, options)


def _from_files(directory: Path, options: dict[str, Any]) -> Tokenizer | HFTokenizer:
    """The tokenizer of a directory with its files, with the options in them."""
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
    tokenizer = found.pop("tokenizer", None)
    if tokenizer is not None:  # clip-models' names of the same fields
        named = {"name": tokenizer}
        own = tokenizer if isinstance(tokenizer, Mapping) else getattr(tokenizer, "__dict__", named)
        name = own.get("name", CLIP_NAME)
        found.setdefault("hf_tokenizer_name", None if name == CLIP_NAME else name)
        found.setdefault("tokenizer_kwargs", own.get("options"))
    return found


def _from_config(
    text: Mapping[str, Any], directory: Path | None, options: dict[str, Any]
) -> Tokenizer | HFTokenizer:
    """The tokenizer of a text config, from the directory's files if it has any.

    The options in files that this package saved override the config's.
    """
    length = {"context_length": text.get("context_length", CONTEXT_LENGTH)}
    if directory is not None and not holds_tokenizer(directory):
        directory = None
    if directory is not None and has_own_settings(directory):
        return _from_files(directory, {**length, **options})
    repository = text.get("hf_tokenizer_name")
    if repository and directory is None:
        directory = hub.download(repository)
    foreign = repository or (directory is not None and not holds_bpe(directory))
    wanted = {**length, **_translate(text, HF_OPTIONS if foreign else BPE_OPTIONS), **options}
    if directory is not None:
        kind = HFTokenizer.from_directory if foreign else Tokenizer.from_pretrained
        return kind(directory, **wanted)
    size = text.get("vocab_size", OPENAI_VOCAB_SIZE)
    if size != OPENAI_VOCAB_SIZE:
        raise TokenizerError(
            f"no tokenizer is known for a vocabulary of {size} ids; OpenAI's has "
            f"{OPENAI_VOCAB_SIZE}; give the directory of the tokenizer's files"
        )
    return Tokenizer.openai(**wanted)


def _translate(text: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Our options of the `tokenizer_kwargs` of a text config, without empty ones."""
    given = {**(text.get("tokenizer_kwargs") or {}), "tokenizer_mode": text.get("tokenizer_mode")}
    given = {name: value for name, value in given.items() if value}
    unknown = sorted(given.keys() - names.keys())
    if unknown:
        raise TokenizerError(
            f"the config asks for {', '.join(unknown)}, which this kind of tokenizer does not "
            f"have; expected {', '.join(names)}"
        )
    if "reduction_mask" in given:
        mask = given["reduction_mask"]
        given["reduction_mask"] = OPEN_CLIP_REDUCTIONS.get(mask, mask)
    return {names[name]: value for name, value in given.items()}
