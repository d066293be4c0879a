"""Tokenizer files from the Hugging Face hub, through its client and its cache (extra `[hub]`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from clip_tokenizer.errors import TokenizerError

SCHEME = "hf-hub:"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")

CONFIG_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "open_clip_config.json",
    "clip_config.json",
)
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")


def repository_of(source: str) -> str | None:
    """The repository that `org/name` or `hf-hub:org/name` means, or None for anything else."""
    name = source.removeprefix(SCHEME)
    return name if _REPOSITORY.fullmatch(name) else None


def download(repository: str, files: Sequence[str] = CONFIG_FILES + VOCABULARY_FILES) -> Path:
    """The local folder that holds those of the files that the repository has.

    Files in the hub's cache are used as they are when the hub cannot be reached.

    Raises:
        TokenizerError: If none of the files could be had; the message says what happened to each.
        ImportError: If huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ImportError(
            f"reading {repository} from the hub needs huggingface_hub; install "
            "clip-tokenizer[hub], or download the files and give their folder"
        ) from error
    folder: Path | None = None
    tried: list[str] = []
    for name in files:
        try:
            path = Path(hf_hub_download(repository, name))
        except (EntryNotFoundError, OSError, ValueError) as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            tried.append(f"{name} ({type(error).__name__}: {reason:.120})")
        else:
            if name in VOCABULARY_FILES or folder is None:
                folder = path.parent
    if folder is None:
        raise TokenizerError(
            f"no tokenizer could be read from the hub repository {repository}; tried "
            + ", ".join(tried)
        )
    return folder
