"""A folder of class folders: `DIR/<class>/**/*.jpg`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from clip_eval.data.class_names import (
    CLASSES_FILE,
    ClassList,
    ClassNames,
    match_folders,
)
from clip_eval.data.faults import DataError
from clip_eval.data.folders import (
    choose_split,
    data_name,
    describe_paths,
    find_files,
    holds_images,
    is_image_name,
    require_directory,
    visible_folders,
)
from clip_eval.data.samples import ImagePaths
from clip_eval.data.splits import role_of, split_of_folder, warn_of_split
from clip_eval.data.templates import choose_templates
from clip_eval.data.text_files import normal_form


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
        root = require_directory(Path(directory), "class folders")
        self.splits = tuple(_split_folders(root))
        chosen = choose_split(root, self.splits, split, default_split)
        directory = self.image_root = require_directory(root / chosen, "class folders")
        self.name = data_name(root.resolve(), chosen)
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
            found = find_files(directory / folder)
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
            *describe_paths(self.ignored, self._describe_ignored(root)),
            *describe_paths(loops, "links lead back to a folder above them and are not followed"),
        )

    def _describe_ignored(self, root: Path) -> str:
        """What became of other files, and the reader that reads captions beside images."""
        texts = sum(path.lower().endswith(".txt") for path in self.ignored)
        hint = f" (pairs:{root} reads captions in .txt beside the images)"
        what = "files without an image suffix are ignored"
        return f"{what}{hint if 2 * texts >= len(self.paths) else ''}"


def _split_folders(root: Path) -> list[str]:
    """Folders of splits: of several roles, or the only ones with images and folders of classes.

    A single folder of such a name may be a class, like `train` beside `bus`.
    """
    folders = visible_folders(root)
    named = [folder for folder in folders if role_of(folder.name)]
    if len({role_of(folder.name) for folder in named}) < 2:
        others = [folder for folder in folders if folder not in named]
        if not all(map(visible_folders, named)) or any(map(holds_images, others)):
            return []
    return [folder.name for folder in named]


def _class_folders(directory: Path) -> list[str]:
    folders = [entry.name for entry in visible_folders(directory)]
    if not folders:
        if any(is_image_name(path.name) for path in directory.iterdir()):
            raise DataError(
                f"{directory}: holds images but no class folders; expected <class>/<name>.jpg, "
                "or a caption beside each image, <name>.txt"
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
