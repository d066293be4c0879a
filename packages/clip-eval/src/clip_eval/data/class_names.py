"""Lists of class names, and the matching of folders to classes by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_eval.data.faults import DataError
from clip_eval.data.text_files import normal_form, read_json, read_text

LONGEST_NAME = 1000  # characters
CLASSES_FILE = "classnames.txt"


@dataclass(frozen=True)
class ClassList:
    """Classes in label order: the name used in prompts, and the folder that holds the images.

    Attributes:
        names: Class names, as they go into templates.
        folders: Folder of each class; the names themselves unless a mapping was given.
    """

    names: tuple[str, ...]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, classes: ClassNames, *, may_be_blank: bool = False) -> ClassList:
        """A class list from names, or from a mapping of folder to name.

        Args:
            classes: The names.
            may_be_blank: Whether a name may be empty: one of CLEVR's distances is.

        Raises:
            DataError: No class, or an empty name.
        """
        if isinstance(classes, ClassList):
            return classes
        if isinstance(classes, str):
            raise DataError(f"expected a list of class names, got one string {classes!r}")
        if isinstance(classes, Mapping):
            names, folders = tuple(classes.values()), tuple(classes)
        else:
            names = folders = tuple(classes)
        if not names:
            raise DataError("expected at least one class name, got none")
        for name in (*names, *folders):
            if not isinstance(name, str) or len(name) > LONGEST_NAME:
                raise DataError(
                    f"expected class names of at most {LONGEST_NAME:,} characters, got {name!r:.60}"
                )
        if not may_be_blank and not all(name.strip() for name in names):
            raise DataError(f"class {[n.strip() for n in names].index('')} has an empty name")
        return cls(tuple(map(normal_form, names)), tuple(map(normal_form, folders)))

    @classmethod
    def read(cls, path: str | Path) -> ClassList:
        """A class list from a file.

        One name a line, or `folder<TAB>name` on every line, or JSON (a list of names, or an
        object of folder to name).

        Raises:
            DataError: The file cannot be read, or has an empty line among the names.
        """
        path = Path(path)
        if path.suffix == ".json":
            return cls._from_json(path)
        lines = [line.strip("\r ") for line in read_text(path).rstrip().split("\n")]
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                raise DataError(
                    f"{path}: line {number} is empty; every line is one class, so an empty one "
                    "would shift the labels"
                )
        if all("\t" in line for line in lines):
            pairs = [line.split("\t", 1) for line in lines]
            folders = [folder.strip() for folder, _ in pairs]
            repeated = [folder for folder, count in Counter(folders).items() if count > 1]
            if repeated:
                raise DataError(f"{path}: names {_quote(repeated)} more than once")
            return cls.of(dict(zip(folders, (name.strip() for _, name in pairs), strict=True)))
        return cls.of(lines)

    @classmethod
    def _from_json(cls, path: Path) -> ClassList:
        found = read_json(path)
        values = list(found.values()) if isinstance(found, dict) else found
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise DataError(f"{path}: expected a list of names or an object of folder to name")
        return cls.of(found)

    def duplicates(self) -> tuple[str, ...]:
        """Names that stand for more than one class."""
        return tuple(name for name, count in Counter(self.names).items() if count > 1)


ClassNames = ClassList | Sequence[str] | Mapping[str, str]
"""Class names in label order, or a mapping of folder (or label in a table) to class name."""


def choose_names(
    found: Sequence[str] | None, given: ClassNames | None, *, where: str
) -> tuple[str, ...] | None:
    """The given class names, or else those found with data whose labels are positions in a list.

    Args:
        found: Names that come with the data.
        given: The names to use instead.
        where: What holds the names that were found, for the message.

    Raises:
        DataError: Both are there, of different length.
    """
    if given is None:
        return None if found is None else tuple(found)
    names = ClassList.of(given).names
    if found is not None and len(found) != len(names):
        raise DataError(
            f"{where} has {len(found)} classes, the list given has {len(names)}; labels are "
            f"positions in the list, so give {len(found)} names"
        )
    return names


def match_folders(folders: Sequence[str], classes: ClassList, *, where: str) -> dict[str, int]:
    """Label of each folder, matched by name.

    A class without a folder is allowed (it is then only a wrong answer); a folder without a
    class is not.

    Args:
        folders: Folder names as on disk.
        classes: The class list that was given.
        where: The data set, for the message.

    Raises:
        DataError: Folders that are in no class, with what differs on either side.
    """
    repeated = [name for name, count in Counter(classes.folders).items() if count > 1]
    if repeated:
        raise DataError(
            f"{where}: the class list names {_quote(repeated)} more than once, so its folders "
            "cannot be distinguished; give folder<TAB>name on each line"
        )
    label_of = {folder: label for label, folder in enumerate(classes.folders)}
    unknown = [folder for folder in folders if normal_form(folder) not in label_of]
    if unknown:
        present = {normal_form(folder) for folder in folders}
        absent = [folder for folder in classes.folders if folder not in present]
        raise DataError(
            f"{where}: folders do not match the class list. Folders in no class "
            f"({len(unknown)}): {_quote(unknown)}. Classes with no folder ({len(absent)}): "
            f"{_quote(absent) or 'none'}. Rename them, or give folder<TAB>name on each line"
        )
    return {folder: label_of[normal_form(folder)] for folder in folders}


def _quote(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
