"""Image files with their captions in text files beside them: `a.jpg` and `a.txt`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clip_eval.data.class_names import CLASSES_FILE, ClassNames, choose_names
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.folders import (
    Found,
    choose_split,
    data_name,
    describe_paths,
    find_files,
    holds_images,
    is_image_name,
    require_directory,
    visible_folders,
)
from clip_eval.data.readers.webdataset import sample_from_files
from clip_eval.data.samples import ImagePaths, Sample, read_image_file
from clip_eval.data.splits import role_of, split_of_folder, warn_of_split
from clip_eval.data.templates import choose_templates
from clip_eval.data.text_files import normal_form

SIDECARS = ("txt", "json", "cls", "npy")


class ImageTextPairs(ImagePaths):
    """Images at any depth of a directory, each with the files of its stem beside it.

    Captions are in `.txt` (one a line) or `.json`, a label in `.cls`, as in WebDataset shards.
    img2dataset's output format `files` is such a directory. An image without a text, and a text
    without an image, are samples that cannot be used: they are counted when they are read.

    Args:
        directory: Holds the files, or one folder per split with the files below.
        classnames: Class names in label order, for labels in `.cls` or `.json`.
        templates: Caption templates; those in `zeroshot_classification_templates.txt` if None.
        split: A folder below `directory` to use instead, such as `val`.
        default_split: `train` for the split that training reads, instead of evaluation's.
        caption_key: Extension of the text, or key of the JSON, that holds the captions; several
            separated by semicolons, the first that is there counts.
        label_key: Extension or JSON key that holds the label.
        first_label: Number of the first class in the data; 0 if None.

    Raises:
        DataError: No such directory, or no image with a text in it.
    """

    kind = "pairs"

    def __init__(
        self,
        directory: str | Path,
        *,
        classnames: ClassNames | None = None,
        templates: Sequence[str] | None = None,
        split: str | None = None,
        default_split: str | None = None,
        caption_key: str = "",
        label_key: str = "",
        first_label: int | None = None,
    ) -> None:
        root = require_directory(Path(directory), "images with texts beside them")
        self.splits = tuple(_split_folders(root))
        chosen = choose_split(root, self.splits, split, default_split)
        self.image_root = require_directory(root / chosen, "images with texts beside them")
        self.name = data_name(root.resolve(), chosen)
        self.split = chosen or split_of_folder(root) or None
        self.templates = choose_templates(templates, self.image_root, root)
        self.classnames = choose_names(None, classnames, where=self.name)
        self._caption_key, self._label_key = caption_key, label_key
        self._first_label = first_label
        wanted = {*SIDECARS, *filter(None, (*caption_key.lower().split(";"), label_key.lower()))}
        found = find_files(self.image_root)
        self.paths, self.sidecars = _join(found, wanted)
        if not any(map(is_image_name, self.paths)) or not any(self.sidecars):
            raise DataError(
                f"{self.image_root}: no image with a caption beside it; expected files such as "
                "a.jpg and a.txt"
            )
        self.warnings = (
            *warn_of_split(chosen, self.splits, asked=split, default_split=default_split),
            *describe_paths(found.loops, "links lead back to a folder above them, not followed"),
        )

    def label(self, index: int) -> int | None:
        """Label of one image, from its text files."""
        return self.read(index).label

    def read(self, index: int) -> Sample:
        """The image with the captions beside it.

        Raises:
            BadSample: The image or its text is missing or cannot be read, or the text is empty.
        """
        path = self.paths[index]
        stem = os.path.splitext(path)[0]
        names = {name.rpartition(".")[2].lower(): name for name in self.sidecars[index]}
        folder = os.path.dirname(path)
        parts = {
            extension: read_image_file(self.image_root / folder / name, path)
            for extension, name in names.items()
        }
        if is_image_name(path):
            parts[path.rpartition(".")[2].lower()] = read_image_file(self.image_root / path, path)
        sample = sample_from_files(
            path,
            parts,
            caption_key=self._caption_key,
            label_key=self._label_key,
            first_label=self._first_label,
            classnames=self.classnames,
            templates=self.templates,
        )
        if not sample.captions and sample.label is None and sample.targets is None:
            detail = "the text beside it is empty" if names else f"no {stem}.txt beside it"
            raise BadSample("no-caption", detail, path)
        return sample


def _join(found: Found, wanted: set[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Path of each sample, and the names of the files beside it.

    A text without an image is a sample too, under its own path. A `.json` without image and text is
    none: img2dataset writes one for each shard.
    """
    beside: dict[str, list[str]] = {}
    for path in found.others:
        stem, _, extension = path.rpartition(".")
        if extension.lower() in wanted:
            beside.setdefault(normal_form(stem), []).append(os.path.basename(path))
    used = set()
    samples: list[tuple[str, tuple[str, ...]]] = []
    for path in found.images:
        stem = normal_form(os.path.splitext(path)[0])
        used.add(stem)
        samples.append((path, tuple(beside.get(stem, ()))))
    for stem, names in beside.items():
        texts = [name for name in names if name.lower().endswith(".txt")]
        if stem not in used and texts:
            folder = os.path.dirname(stem)
            samples.append((f"{folder}/{texts[0]}" if folder else texts[0], tuple(names)))
    samples.sort()
    return [path for path, _ in samples], [names for _, names in samples]


def _split_folders(root: Path) -> list[str]:
    """The folders of splits: those of such a name, where images lie in no other folder."""
    folders = visible_folders(root)
    named = [folder for folder in folders if role_of(folder.name) and holds_images(folder)]
    others = [folder for folder in folders if folder not in named]
    if _names_of(root)[0] or any(map(holds_images, others)):
        return []
    return [folder.name for folder in named]


def holds_flat_pairs(directory: str | Path) -> bool:
    """Whether images lie beside texts of their names, and in no folder: there are no classes."""
    directory = Path(directory)
    if not directory.is_dir() or not _holds_texts_of_images(directory):
        return False
    return not any(map(holds_images, visible_folders(directory)))


def holds_pairs(directory: Path) -> bool:
    """Whether a directory is one of image–text pairs, rather than of class folders.

    That is one with images beside texts of their names and none in folders, or with such folders
    named by splits, or by numbers only, as img2dataset names them.
    """
    if not directory.is_dir() or (directory / CLASSES_FILE).is_file():
        return False
    if _names_of(directory)[0]:
        return holds_flat_pairs(directory)
    folders = [folder for folder in visible_folders(directory) if holds_images(folder)]
    if not folders:
        return False
    if all(role_of(folder.name) for folder in folders):
        return all(map(holds_pairs, folders))
    return all(f.name.isdecimal() for f in folders) and _holds_texts_of_images(folders[0])


def _holds_texts_of_images(directory: Path) -> bool:
    """Whether half of the images in a directory, or more, have a text beside them."""
    images, texts = _names_of(directory)
    paired = sum(os.path.splitext(name)[0] in texts for name in images)
    return 0 < len(images) <= 2 * paired


def _names_of(directory: Path) -> tuple[list[str], set[str]]:
    """Names of the images in a directory, and stems of the texts."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise DataError(f"{directory}: cannot be listed ({error.strerror})") from error
    shown = [name for name in names if not name.startswith(".")]
    texts = {name[:-4] for name in shown if name.lower().endswith(".txt")}
    return [name for name in shown if is_image_name(name)], texts
