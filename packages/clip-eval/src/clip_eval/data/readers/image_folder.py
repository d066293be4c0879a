"""A folder of class folders: `DIR/<class>/**/*.jpg`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clip_eval.data.class_names import (
    CLASSES_FILE,
    ClassList,
    ClassNames,
    match_folders,
)
from clip_eval.data.faults import DataError
from clip_eval.data.images import IMAGE_SUFFIXES
from clip_eval.data.patterns import missing_path
from clip_eval.data.samples import ImagePaths
from clip_eval.data.splits import resolve_split, role_of, split_of_folder, warn_of_split
from clip_eval.data.templates import TEMPLATES_FILE, choose_templates
from clip_eval.data.text_files import normal_form

COMPANIONS = (CLASSES_FILE, TEMPLATES_FILE, "Thumbs.db", "desktop.ini")


class ImageFolder(ImagePaths):
    """Images whose class is the name of their folder.

    Classes are the folder names in sorted order, unless a class list is given or a
    `classnames.txt` lies in the directory; a list is matched by name, never by position.

    Args:
        directory: Holds one folder per class, or one per split with the class folders below;
            images may lie deeper.
        classnames: Class names in label order, or a mapping of folder to class name.
        templates: Caption templates; those in `zeroshot_classification_templates.txt` if None.
        split: A folder below `directory` to use instead, such as `val`.
        default_split: `train` for the split that training reads, instead of evaluation's.

    Raises:
        DataError: No such directory, no image in it, or folders that match no class.
    """

    kind = "imagefolder"

    def __init__(
        self,
        directory: str | Path,
        *,
        classnames: ClassNames | None = None,
        templates: Sequence[str] | None = None,
        split: str | None = None,
        default_split: str | None = None,
    ) -> None:
        root = _require_directory(Path(directory))
        self.splits = tuple(_split_folders(root))
        chosen = _choose_split(root, self.splits, split, default_split)
        directory = self.image_root = _require_directory(root / chosen)
        self.name = _data_name(root.resolve(), chosen)
        folders = _class_folders(directory)
        classes = _class_list(directory, root, folders, classnames)
        self.split = chosen or split_of_folder(root) or None
        self.classnames = classes.names
        self.templates = choose_templates(templates, directory, root)
        label_of = match_folders(folders, classes, where=str(directory))
        paths: list[str] = []
        labels: list[int] = []
        self.ignored: list[str] = []
        loops: list[str] = []
        for folder, label in label_of.items():
            found = _files_below(directory / folder)
            paths += [f"{folder}/{path}" for path in found.images]
            labels += [label] * len(found.images)
            self.ignored += [f"{folder}/{path}" for path in found.others]
            loops += [f"{folder}/{path}" for path in found.loops]
        if not paths:
            raise DataError(
                f"{directory}: no images in its {len(folders)} folders; expected files such "
                "as <class>/<name>.jpg"
            )
        self.paths, self.labels = paths, labels
        self.warnings = (
            *warn_of_split(chosen, self.splits, asked=split, default_split=default_split),
            *_warn_of_classes(classes, labels),
            *_describe_paths(self.ignored, "files without an image suffix are ignored"),
            *_describe_paths(loops, "links lead back to a folder above them and are not followed"),
        )


def _data_name(root: Path, split: str) -> str:
    """Name of the directory, after that of its parent if it is named like a split."""
    above = [root.parent.name] if role_of(root.name) else []
    return "/".join(part for part in (*above, root.name, split) if part)


def _split_folders(root: Path) -> list[str]:
    """Folders of splits: of several roles, or the only ones with images and folders of classes.

    A single folder of such a name may be a class, like `train` beside `bus`.
    """
    folders = _visible_folders(root)
    named = [folder for folder in folders if role_of(folder.name)]
    if len({role_of(folder.name) for folder in named}) < 2:
        others = [folder for folder in folders if folder not in named]
        if not all(map(_visible_folders, named)) or any(map(_holds_images, others)):
            return []
    return [folder.name for folder in named]


def _holds_images(folder: Path) -> bool:
    return any(
        os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        for _, _, names in os.walk(folder)
        for name in names
    )


def _choose_split(
    root: Path, splits: Sequence[str], split: str | None, default_split: str | None
) -> str:
    """The folder below a directory that is read; an empty text for the directory itself."""
    if split is not None and (root / split).is_dir():
        return split
    if splits:
        return resolve_split(splits, split, default_split=default_split, where=root)
    return split or ""


def _require_directory(directory: Path) -> Path:
    if not directory.exists():
        raise missing_path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory}: expected a directory of class folders, got a file")
    return directory


def _visible_folders(directory: Path) -> list[Path]:
    try:
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{directory}: cannot be listed ({error.strerror})") from error
    return [entry for entry in entries if entry.is_dir()]


def _class_folders(directory: Path) -> list[str]:
    folders = [entry.name for entry in _visible_folders(directory)]
    if not folders:
        if any(path.suffix.lower() in IMAGE_SUFFIXES for path in directory.iterdir()):
            raise DataError(
                f"{directory}: holds images but no class folders; expected <class>/<name>.jpg"
            )
        raise DataError(f"{directory}: empty; expected one folder of images per class")
    by_name: dict[str, str] = {}
    for folder in folders:
        other = by_name.setdefault(normal_form(folder), folder)
        if other != folder:
            raise DataError(
                f"{directory}: folders {other!a} and {folder!a} are the same name in "
                "Unicode NFC; merge them"
            )
    return folders


def _class_list(
    directory: Path,
    root: Path,
    folders: list[str],
    given: ClassNames | None,
) -> ClassList:
    if given is not None:
        return ClassList.of(given)
    for place in (directory, root):
        if (place / CLASSES_FILE).is_file():
            return ClassList.read(place / CLASSES_FILE)
    return ClassList.of(sorted(map(normal_form, folders)))


class _Found(NamedTuple):
    """Paths relative to a folder, sorted: images, other files, links back to a folder above."""

    images: list[str]
    others: list[str]
    loops: list[str]


def _files_below(folder: Path) -> _Found:
    """Images and other files below a folder, and links that lead back to a folder above them."""
    found = _Found([], [], [])
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
            is_image = os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
            (found.images if is_image else found.others).append((below / name).as_posix())
    return _Found(*map(sorted, found))


def _identity(path: str | Path) -> tuple[int, int]:
    """Identity of a directory: the same by every name or link that leads to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _describe_paths(paths: Sequence[str], what: str) -> list[str]:
    if not paths:
        return []
    return [f"{len(paths)} {what}: {', '.join(paths[:8])}{' …' if len(paths) > 8 else ''}"]


def _warn_of_classes(classes: ClassList, labels: list[int]) -> tuple[str, ...]:
    found = Counter(labels)
    empty = [name for label, name in enumerate(classes.names) if not found[label]]
    warnings = []
    if empty:
        warnings.append(
            f"{len(empty)} of {len(classes.names)} classes have no image and can only be wrong "
            f"answers: {', '.join(empty[:8])}{' …' if len(empty) > 8 else ''}"
        )
    if classes.duplicates():
        warnings.append(f"several classes share a name: {', '.join(classes.duplicates()[:8])}")
    return tuple(warnings)
