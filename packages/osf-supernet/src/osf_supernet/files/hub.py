"""Subnets and supernets on the Hugging Face Hub (`pip install osf-supernet[hub]`)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from osf_supernet.files.folders import load_subnet, load_supernet, save_subnet, save_supernet
from osf_supernet.files.model_card import subnet_card, supernet_card
from osf_supernet.supernet import Supernet


def push_to_hub(
    thing: nn.Module | Supernet,
    repository: str,
    *,
    token: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
) -> str:
    """Upload an extracted subnet or a supernet with a model card; the commit's address.

    Args:
        thing: what `Supernet.extract` returned, or a supernet.
        repository: `owner/name`; made if it does not exist.
        token: of the Hub; the stored one by default.
        private: whether a new repository is private.
        endpoint: address of the Hub; huggingface.co by default.
    """
    api = _hub().HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(thing, Supernet):
            save_supernet(thing, folder)
            card = supernet_card(thing)
        else:
            save_subnet(thing, folder)
            card = subnet_card(thing)
        Path(folder, "README.md").write_text(card, encoding="utf-8")
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))


def pull_from_hub(
    repository: str,
    full: nn.Module,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> nn.Module:
    """The subnet in a repository, as a plain module of the class of `full` (see `load_subnet`)."""
    folder = _snapshot(repository, revision=revision, token=token, endpoint=endpoint)
    return load_subnet(folder, full)


def pull_supernet_from_hub(
    repository: str,
    model: nn.Module,
    example_inputs: Any,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Supernet:
    """The supernet in a repository, on a module of its architecture (see `load_supernet`)."""
    folder = _snapshot(repository, revision=revision, token=token, endpoint=endpoint)
    return load_supernet(folder, model, example_inputs)


def _snapshot(repository: str, **options: str | None) -> str:
    patterns = ["*.safetensors", "*.json"]
    return str(_hub().snapshot_download(repository, allow_patterns=patterns, **options))


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("the Hub needs huggingface_hub: pip install osf-supernet[hub]") from error
    return huggingface_hub
