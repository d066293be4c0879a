"""Models on the Hugging Face hub, downloaded and uploaded by its client.

`HF_ENDPOINT` names another hub, `HF_TOKEN` a token.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError

from clip_models.command_line import read_small_file
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.errors import CheckpointError
from clip_models.files.atomic_write import save_json
from clip_models.files.export import CARD_NAME, MODEL_FILES, save_pretrained
from clip_models.files.model_directory import CONFIG_NAMES, OPEN_CLIP_CONFIG, list_weight_names
from clip_models.files.pretrained import load_model
from clip_models.files.tokenizer_plans import HERE
from clip_models.files.weight_files import INDEX_SUFFIX
from clip_models.model.clip import CLIP

SCHEME = "hf-hub:"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def parse_repository(source: object) -> str | None:
    """`org/name`, with `@revision` if given, of `hf-hub:org/name`; None for anything else.

    Raises:
        CheckpointError: What follows the scheme is not a repository.
    """
    text = str(source)
    if not text.startswith(SCHEME):
        return None
    name = text.removeprefix(SCHEME)
    if not _REPOSITORY.fullmatch(name):
        raise CheckpointError(f"{text!r} names no repository; expected 'hf-hub:org/name'")
    return name


def from_pretrained(
    source: str | Path, *, device: str = "cpu", cache_dir: str | Path | None = None
) -> tuple[CLIP, PreprocessConfig]:
    """A model in float32 and evaluation mode, and its preprocessing.

    Args:
        source: An existing directory, else `org/name` or `hf-hub:org/name`, with `@revision` for
            a revision.
        device: Device of the model.
        cache_dir: Directory of downloads; None is the client's cache.

    Raises:
        CheckpointError: There is no model, or it cannot be read.
    """
    if Path(source).is_dir():
        return load_model(source, device=device)
    repository = parse_repository(SCHEME + str(source).removeprefix(SCHEME))
    assert repository is not None
    return load_model(download(repository, cache_dir=cache_dir), device=device)


def download(repository: str, *, cache_dir: str | Path | None = None) -> Path:
    """The local folder that holds the configs of a repository and one file of its weights.

    Files in the cache are used when the hub cannot be reached.

    Raises:
        CheckpointError: The repository cannot be reached, or holds no model.
    """
    name, _, revision = repository.partition("@")
    fetch = _Fetch(name, revision or None, cache_dir)
    folders = [path.parent for config in CONFIG_NAMES if (path := fetch(config))]
    if not folders:
        raise CheckpointError(f"no model could be read from {SCHEME}{repository}; {fetch.report()}")
    for weights in list_weight_names(folders[0]):
        path = fetch(weights)
        if path is not None:
            if weights.endswith(INDEX_SUFFIX):
                _fetch_shards(path, fetch)
            return folders[0]
    raise CheckpointError(f"{SCHEME}{repository} has no weights; {fetch.report()}")


def _name_tokenizer(config: Path, repository: str) -> None:
    """Make open_clip look for the tokenizer's files in the repository, as it does not by itself."""
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        text = values["model_cfg"]["text_cfg"]
        if text.get("hf_tokenizer_name") == HERE:
            text["hf_tokenizer_name"] = repository
            save_json(config, values)


def push_to_hub(
    repository: str,
    model: CLIP,
    preprocess: PreprocessConfig,
    *,
    files: Iterable[str | Path] = (),
    license: str | None = None,
    description: str = "",
    private: bool = False,
    overwrite: bool = False,
    message: str = "Add model",
) -> str:
    """Upload a model as `save_pretrained` writes it; the address of the commit.

    Args:
        repository: `org/name`; created if it does not exist.
        model: The model to upload.
        preprocess: The preprocessing of its images.
        files: More files to upload, such as the tokenizer's.
        license: License named in the model card.
        description: Text of the model card.
        private: Whether a new repository is private.
        overwrite: Replace an existing model, for whichever library it was written. An existing
            model card stays.
        message: Title of the commit.

    Raises:
        CheckpointError: The repository holds a model and `overwrite` is not set.
    """
    api = huggingface_hub.HfApi(endpoint=_endpoint())
    api.create_repo(repository, private=private, exist_ok=True)
    present = set(api.list_repo_files(repository))
    with tempfile.TemporaryDirectory() as folder:
        written = save_pretrained(
            folder, model, preprocess, files=files, license=license, description=description
        )
        _name_tokenizer(Path(folder) / OPEN_CLIP_CONFIG, repository)
        names = {path.name for path in written}
        clash = sorted(names & present - {CARD_NAME})
        if clash and not overwrite:
            raise CheckpointError(
                f"{repository} already has {', '.join(clash)}; set overwrite to replace them"
            )
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            ignore_patterns=[CARD_NAME] if CARD_NAME in present else None,
            delete_patterns=sorted(MODEL_FILES & present - names) if overwrite else None,
        )
    return str(commit.commit_url)


class _Fetch:
    """Fetches files of one repository and records why some could not be fetched."""

    def __init__(self, name: str, revision: str | None, cache_dir: str | Path | None) -> None:
        self.name, self.revision, self.cache_dir = name, revision, cache_dir
        self.tried: list[str] = []

    def __call__(self, file: str) -> Path | None:
        try:
            path = huggingface_hub.hf_hub_download(
                self.name,
                file,
                revision=self.revision,
                cache_dir=self.cache_dir,
                endpoint=_endpoint(),
            )
        except (OSError, ValueError, EntryNotFoundError) as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            self.tried.append(f"{file} ({type(error).__name__}: {reason[:120]})")
            return None
        return Path(path)

    def report(self) -> str:
        """The files that could not be fetched, with reasons."""
        return f"tried {', '.join(self.tried)}"


def _fetch_shards(index: Path, fetch: _Fetch) -> None:
    try:
        names = sorted(set(json.loads(read_small_file(index))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {error!r}") from None
    for name in names:
        if fetch(str(name)) is None:
            raise CheckpointError(f"{index.name} names {name}, which the repository lacks")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None
