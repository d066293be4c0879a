"""Models read from files of any dialect and written in another."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.converters import openai
from clip_models.converters.dialect_names import FILE_DIALECTS, Dialect
from clip_models.converters.dialects import detect_dialect, from_native, to_native
from clip_models.errors import CheckpointError
from clip_models.files import hub
from clip_models.files.atomic_write import replace_file, save_json, save_tensors
from clip_models.files.config_files import resolve_named
from clip_models.files.export import OPEN_CLIP_WEIGHTS, remove_others, require_absent
from clip_models.files.foreign_configs import make_hugging_face_configs, make_open_clip_config
from clip_models.files.model_directory import (
    CONFIG_NAME,
    HUGGING_FACE_CONFIG,
    HUGGING_FACE_PREPROCESS,
    OPEN_CLIP_CONFIG,
    WEIGHTS_NAME,
    make_native_config,
    read_model_directory,
)
from clip_models.files.pretrained import fit_logits, load_state
from clip_models.files.pretrained_tags import find_published
from clip_models.files.tokenizer_files import TokenizerFiles, plan_tokenizer, remove_other_files
from clip_models.files.weight_files import read_weights
from clip_models.model.clip import CLIP

_PICKLES = (".pt", ".pth", ".bin")
_SUFFIXES = (*_PICKLES, ".safetensors", ".npz")
_DIRECTORY_FILES: dict[Dialect, tuple[str, ...]] = {
    "clip-models": (WEIGHTS_NAME, CONFIG_NAME),
    "open-clip": (OPEN_CLIP_WEIGHTS, OPEN_CLIP_CONFIG),
    "hugging-face": (WEIGHTS_NAME, HUGGING_FACE_CONFIG, HUGGING_FACE_PREPROCESS),
}
"""Names of the files of each dialect that is a directory, the weights first."""


class StoredModel(NamedTuple):
    """The contents of a weight file or a model directory."""

    config: CLIPConfig
    preprocess: PreprocessConfig
    state: dict[str, Tensor]  # under our names
    dialect: Dialect  # of the names in the file
    weights: Path
    source: str | Path  # as the caller named it


class WrittenModel(NamedTuple):
    """The files of a written model, and what its user should know."""

    files: list[Path]
    note: str


def read_stored(
    source: str | Path,
    *,
    model: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
) -> StoredModel:
    """The weights under our names, with their configs.

    Args:
        source: A weight file, a model directory, `hf-hub:org/name`, or with the name of a model a
            tag of open_clip.
        model: Registered name of the model in a weight file, or a file of its config (`.json`);
            OpenAI's files need none. For a directory, it replaces the directory's config.
        key: As for `read_weights`.
        prefix: As for `read_weights`.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the config.
        ConfigError: The name is not registered.
    """
    repository = hub.parse_repository(source) or find_published(model, source)
    path = Path(source) if repository is None else hub.download(repository)
    named = None if model is None else resolve_named(model)
    described = path.is_dir()
    if described:
        files = read_model_directory(path)
        config, preprocess = named or (files.config, files.preprocess)
        path = files.weights
        found = read_weights(path, key=key, prefix=prefix)
    else:
        found = read_weights(path, key=key, prefix=prefix)
        config, preprocess = named or _infer_openai_config(found, path)
    dialect = detect_dialect(found)
    state = to_native(found, config, dialect=dialect)
    if named or not described:
        state, config = fit_logits(state, config, source=path)
    with torch.device("meta"):
        load_state(CLIP(config), state, source=path, assign=True)
    return StoredModel(config, preprocess, state, dialect, path, source)


def list_output_files(out: str | Path, to: Dialect) -> list[Path]:
    """The files that a model is written to, its weights first."""
    out = Path(out)
    return [out] if to in FILE_DIALECTS else [out / name for name in _DIRECTORY_FILES[to]]


def check_output(out: str | Path, to: Dialect, *, overwrite: bool = False) -> None:
    """Check that a model can be written there.

    Raises:
        CheckpointError: A file is expected and there is a directory, or the reverse; the suffix is
            not one that is written; or files exist and `overwrite` is not set.
    """
    out = Path(out)
    single = to in FILE_DIALECTS
    if out.exists() and out.is_dir() == single:
        raise CheckpointError(
            f"{out} is a {'directory' if single else 'file'}; {to} is written to a "
            f"{'file' if single else 'directory'}, give its name"
        )
    if single and out.suffix not in _SUFFIXES:
        raise CheckpointError(
            f"{out.name} must end in one of {', '.join(_SUFFIXES)}, the files that {to} is "
            "written to"
        )
    if not overwrite:
        files = list_output_files(out, to)
        require_absent(files[0].parent, [file.name for file in files])


def write_stored(
    stored: StoredModel,
    out: str | Path,
    to: Dialect,
    *,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    tokenizer: str | Path | None = None,
) -> WrittenModel:
    """Write a model in a dialect, and beside it, in a directory, its tokenizer.

    Args:
        stored: What to write.
        out: A directory, or for OpenAI's, CLIPA's and CoreNet's dialects a file: `.safetensors`,
            `.npz`, or `.pt`, `.pth` or `.bin` for a pickle of tensors.
        to: The dialect.
        overwrite: Replace an existing file or model.
        dtype: Type of the written numbers; None keeps their bits.
        tokenizer: Directory or repository of the tokenizer; None is that of the source or the one
            that the config names, "none" writes none.

    Raises:
        CheckpointError: As `check_output`, or a number is too large for the type.
        ConfigError: The dialect has no such model, or its library cannot have the tokenizer.
    """
    out = Path(out)
    check_output(out, to, overwrite=overwrite)
    tensors = from_native(stored.state, stored.config, to)
    if dtype is not None:
        tensors = {name: _cast(name, value, dtype) for name, value in tensors.items()}
    weights, *others = list_output_files(out, to)
    words = TokenizerFiles()
    if others:
        words = plan_tokenizer(stored.config, to, stored.source, tokenizer)
        if not overwrite:
            require_absent(out, words.names)
    configs = _make_configs(stored, to, words)
    weights.parent.mkdir(parents=True, exist_ok=True)
    _write_file(weights, tensors)
    for file, values in zip(others, configs, strict=True):
        save_json(file, values)
    if others:
        words.write(out)
        if overwrite and out.resolve() != stored.weights.parent.resolve():
            remove_others(out, [file.name for file in (weights, *others)])
            remove_other_files(out, words.names)
    return WrittenModel([weights, *others, *(out / name for name in words.names)], words.note)


def _make_configs(
    stored: StoredModel, to: Dialect, tokenizer: TokenizerFiles
) -> Sequence[dict[str, Any]]:
    """The contents of the dialect's files beside the weights."""
    if to in FILE_DIALECTS:
        return ()
    if to == "open-clip":
        described = make_open_clip_config(stored.config, stored.preprocess)
        if tokenizer.text is not None:
            described["model_cfg"]["text_cfg"].update(tokenizer.text)
        return (described,)
    if to == "hugging-face":
        return make_hugging_face_configs(stored.config, stored.preprocess)
    return (make_native_config(stored.config, stored.preprocess),)


def _cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another floating-point type; integers stay as they are."""
    if not value.is_floating_point():
        return value
    cast = value.to(dtype)
    if not torch.equal(cast.isfinite(), value.isfinite()):
        raise CheckpointError(
            f"{name} holds {float(value.abs().max()):g}, which {str(dtype).removeprefix('torch.')} "
            "cannot represent; use bfloat16 or float32"
        )
    return cast


def _infer_openai_config(
    state: Mapping[str, Tensor], path: Path
) -> tuple[CLIPConfig, PreprocessConfig]:
    """The configs of OpenAI's weights, from their shapes."""
    if detect_dialect(state) != "openai":
        raise CheckpointError(
            f"{path} does not say which model it holds; give --model NAME, one of "
            "`clip-models list`, or --model FILE.json with its config"
        )
    config = openai.infer_config(state)
    return config, PreprocessConfig(size=config.vision.image_size)


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    if path.suffix == ".safetensors":
        save_tensors(path, plain)
        return
    with replace_file(path) as temporary:
        if path.suffix == ".npz":
            with open(temporary, "wb") as file:
                np.savez(file, allow_pickle=False, **{k: _to_numpy(v) for k, v in plain.items()})
        else:
            pickled = io.BytesIO()  # into a file itself, torch hides why a disk took no more
            torch.save({key: value.clone() for key, value in plain.items()}, pickled)
            temporary.write_bytes(pickled.getbuffer())


def _to_numpy(value: Tensor) -> np.ndarray[Any, Any]:
    """An array with the tensor's bits; bfloat16 as JAX writes it, as two opaque bytes."""
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(np.dtype("V2"))
    return value.numpy()
