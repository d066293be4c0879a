"""Tokenizer files from the Hugging Face hub, by its client (extra `[hub]`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from clip_tokenizer.errors import TokenizerError

SCHEME = "hf-hub:"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")

CONFIG_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "open_clip_config.json",
    "clip_config.json",
)
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")


def parse_repository(source: str) -> str | None:
    """`org/name`, with `@revision` if given, of `org/name` or `hf-hub:org/name`; else None."""
    name = source.removeprefix(SCHEME)
    return name if _REPOSITORY.fullmatch(name) else None


def download(repository: str, files: Sequence[str] = CONFIG_FILES + VOCABULARY_FILES) -> Path:
    """The local folder that holds those of the files that the repository (`@revision`) has.

    Files in the cache are used when the hub cannot be reached. After one file could not be fetched
    for that reason, no other is tried: the client waits long.

    Raises:
        TokenizerError: If none of the files could be fetched, with the reasons; or if one could not
            although the hub answers for others, since it may exist.
        ImportError: If huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(
            f"reading {repository} from the hub needs huggingface_hub; install "
            "clip-tokenizer[hub], or download the files and give their folder"
        ) from error
    name, _, revision = repository.partition("@")
    folder: Path | None = None
    absent: list[str] = []
    failed: list[str] = []
    unreachable: list[str] = []
    for file in files:
        try:
            local = bool(unreachable)
            path = Path(
                hf_hub_download(name, file, revision=revision or None, local_files_only=local)
            )
        except (EntryNotFoundError, OSError, ValueError) as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            kind = failed
            if isinstance(error, EntryNotFoundError):
                kind = unreachable if isinstance(error, LocalEntryNotFoundError) else absent
            kind.append(f"{file} ({type(error).__name__}: {reason:.120})")
        else:
            if file in VOCABULARY_FILES or folder is None:
                folder = path.parent
    if folder is None:
        raise TokenizerError(
            f"no tokenizer could be read from the hub repository {repository}; tried "
            + ", ".join([*absent, *failed, *unreachable])
        )
    if failed or (absent and unreachable):
        raise TokenizerError(
            f"the hub repository {repository} could be read in part only; try again: "
            + ", ".join([*failed, *unreachable])
        )
    return folder
