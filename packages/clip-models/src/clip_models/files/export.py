"""A model directory that open_clip and transformers read as well, with a model card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.converters.dialect_names import Dialect
from clip_models.converters.dialects import from_native
from clip_models.errors import CheckpointError, ConfigError
from clip_models.files.atomic_write import copy_file, save_json, save_tensors, save_text
from clip_models.files.foreign_configs import ForeignConfigs, make_foreign_configs
from clip_models.files.model_card import MARK, make_model_card
from clip_models.files.model_directory import (
    CONFIG_NAME,
    CONFIG_NAMES,
    HUGGING_FACE_CONFIG,
    HUGGING_FACE_PREPROCESS,
    OPEN_CLIP_CONFIG,
    WEIGHT_NAMES,
    WEIGHTS_NAME,
    save_config,
)
from clip_models.files.saved_config import find_saved_config
from clip_models.files.tokenizer_plans import plan_files
from clip_models.model.clip import CLIP

CARD_NAME = "README.md"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
_TOKENIZERS = ("vocab.json", "tokenizer.json")  # files that say all of a vocabulary
MODEL_FILES = frozenset((*CONFIG_NAMES, *WEIGHT_NAMES))
"""Names of the files of one model, all of which are replaced together."""


def save_pretrained(
    directory: str | Path,
    model: CLIP,
    preprocess: PreprocessConfig,
    *,
    files: Iterable[str | Path] = (),
    license: str | None = None,
    description: str = "",
    overwrite: bool = False,
) -> list[Path]:
    """Write a model for this package and, where they have such a model, open_clip and transformers.

    Args:
        directory: Created if it does not exist.
        model: The model; its weights are written in their types.
        preprocess: The preprocessing of its images.
        files: More files to copy there, such as the tokenizer's, of which open_clip's config then
            tells.
        license: License named in the model card.
        description: Text of the model card.
        overwrite: Replace an existing model.

    Returns:
        The files written: `clip_config.json`, `model.safetensors` and a model card, unless there is
        a `README.md` that this package did not write, which stays; `open_clip_config.json` and
        `open_clip_model.safetensors` for open_clip; `config.json` and `preprocessor_config.json`
        for transformers, whose names the tensors of `model.safetensors` then have.

    Raises:
        CheckpointError: Files exist and `overwrite` is not set, or the model has parts that no
            config can say.
    """
    directory, extra = Path(directory), [Path(file) for file in files]
    new = [file for file in extra if not _is_in(directory, file)]
    config = find_saved_config(model)
    foreign = _with_tokenizer(make_foreign_configs(config, preprocess), config, extra)
    card = make_model_card(
        model, config, preprocess, foreign, license=license, description=description
    )
    texts = {} if _is_user_written(directory / CARD_NAME) else {CARD_NAME: card}
    configs = _name_configs(foreign)
    weights: dict[str, Dialect] = {
        WEIGHTS_NAME: "hugging-face" if foreign.hugging_face else "clip-models"
    }
    if foreign.open_clip:
        weights[OPEN_CLIP_WEIGHTS] = "open-clip"
    names = [CONFIG_NAME, *weights, *texts, *configs, *(file.name for file in new)]
    if not overwrite:
        require_absent(directory, names)
    directory.mkdir(parents=True, exist_ok=True)
    save_config(directory, config, preprocess)
    for name, dialect in weights.items():
        save_tensors(directory / name, from_native(model.state_dict(), config, dialect))
    for name, text in texts.items():
        save_text(directory / name, text)
    for name, values in configs.items():
        save_json(directory / name, values)
    for file in new:
        copy_file(file, directory / file.name)
    if overwrite:
        remove_others(directory, [*names, *(file.name for file in extra)])
    return [directory / name for name in names]


def _with_tokenizer(
    foreign: ForeignConfigs, config: CLIPConfig, files: Iterable[Path]
) -> ForeignConfigs:
    """The same with open_clip's config saying that the tokenizer is that of these files.

    Without it open_clip takes OpenAI's vocabulary. Where open_clip has no such tokenizer, it is not
    given the model.
    """
    folders = {file.parent for file in files if file.name in _TOKENIZERS}
    if foreign.open_clip is None or len(folders) != 1:
        return foreign
    try:
        planned = plan_files(config, "open-clip", folders.pop())
    except ConfigError as error:
        return foreign._replace(open_clip=None, reasons=(*foreign.reasons, str(error)))
    if planned is not None:
        foreign.open_clip["model_cfg"]["text_cfg"].update(planned.text)
    return foreign


def _name_configs(foreign: ForeignConfigs) -> dict[str, dict[str, Any]]:
    """The contents of other libraries' config files by name."""
    contents = {
        OPEN_CLIP_CONFIG: foreign.open_clip,
        HUGGING_FACE_CONFIG: foreign.hugging_face,
        HUGGING_FACE_PREPROCESS: foreign.hugging_face_preprocess,
    }
    return {name: values for name, values in contents.items() if values is not None}


def _is_in(directory: Path, file: Path) -> bool:
    """Whether the file already lies in the directory."""
    return (directory / file.name).exists() and file.samefile(directory / file.name)


def _is_user_written(card: Path) -> bool:
    """Whether there is a model card without our mark."""
    return card.is_file() and MARK not in card.read_text(encoding="utf-8", errors="replace")


def remove_others(directory: Path, names: Iterable[str]) -> None:
    """Remove configs and weights of an earlier model, which another library would still load."""
    for name in MODEL_FILES - set(names):
        (directory / name).unlink(missing_ok=True)


def require_absent(directory: Path, names: Iterable[str]) -> None:
    """Check that none of the files exists in the directory.

    Raises:
        CheckpointError: Some do.
    """
    existing = [name for name in names if (directory / name).exists()]
    if existing:
        raise CheckpointError(
            f"{directory} already has {', '.join(existing)}; nothing was written; "
            "set overwrite (--overwrite) to replace the model"
        )
