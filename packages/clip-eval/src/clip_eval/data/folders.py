"""Folders of single files, for readers: what lies below one, and which of them is a split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clip_eval.data.class_names import CLASSES_FILE
from clip_eval.data.faults import DataError
from clip_eval.data.images import IMAGE_SUFFIXES
from clip_eval.data.patterns import missing_path
from clip_eval.data.splits import resolve_split, role_of
from clip_eval.data.templates import TEMPLATES_FILE

COMPANIONS = (CLASSES_FILE, TEMPLATES_FILE, "Thumbs.db", "desktop.ini")


class Found(NamedTuple):
    """Paths relative to a folder, sorted: images, other files, links back to a folder above."""

    images: list[str]
    others: list[str]
    loops: list[str]


def is_image_name(name: str) -> bool:
    """Whether a file is taken for an image, by its suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def find_files(folder: Path) -> Found:
    """Images and other files below a folder, and links that lead back to a folder above them."""
    found = Found([], [], [])
    parents = (folder, *folder.resolve().parents)
    ancestors_of = {str(folder): {_identity(parent) for parent in parents}}
    for place, folders, files in os.walk(folder, followlinks=True):
        below = Path(place).relative_to(folder)
        ancestors = ancestors_of.pop(place)
        entered = []
        for name in sorted(name for name in folders if not name.startswith(".")):
            path = os.path.join(place, name)
            identity = _identity(path)
            if identity in ancestors:
                found.loops.append((below / name).as_posix())
            else:
                ancestors_of[path] = ancestors | {identity}
                entered.append(name)
        folders[:] = entered
        for name in sorted(files):
            if name.startswith(".") or name in COMPANIONS:
                continue
            kind = found.images if is_image_name(name) else found.others
            kind.append((below / name).as_posix())
    return Found(*map(sorted, found))


def _identity(path: str | Path) -> tuple[int, int]:
    """Identity of a directory: the same by every name or link that leads to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def describe_paths(paths: Sequence[str], what: str) -> list[str]:
    """A sentence on some paths, the first of them named; nothing if there are none."""
    if not paths:
        return []
    return [f"{len(paths)} {what}: {', '.join(paths[:8])}{' …' if len(paths) > 8 else ''}"]


def data_name(root: Path, split: str) -> str:
    """Name of the directory, after that of its parent if it is named like a split."""
    above = [root.parent.name] if role_of(root.name) else []
    return "/".join(part for part in (*above, root.name, split) if part)


def choose_split(
    root: Path, splits: Sequence[str], split: str | None, default_split: str | None
) -> str:
    """The folder below a directory that is read; an empty text for the directory itself."""
    if split is not None and (root / split).is_dir():
        return split
    if splits:
        return resolve_split(splits, split, default_split=default_split, where=root)
    return split or ""


def require_directory(directory: Path, expected: str) -> Path:
    """The directory itself.

    Raises:
        DataError: It does not exist, or is no directory.
    """
    if not directory.exists():
        raise missing_path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory}: expected a directory of {expected}, got a file")
    return directory


def visible_folders(directory: Path) -> list[Path]:
    """The folders in a directory, sorted, without hidden ones.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{directory}: cannot be listed ({error.strerror})") from error
    return [entry for entry in entries if entry.is_dir()]


def holds_images(folder: Path) -> bool:
    """Whether there is an image at any depth."""
    return any(is_image_name(name) for _, _, names in os.walk(folder) for name in names)
