"""The splits of a data set: how files and folders are named after them, and which one is read.

Training reads `train`; evaluation reads `test`, or else the validation split. A reader lists the
splits that it sees and asks `resolve_split` for one of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from clip_eval.data.faults import DataError
from clip_eval.data.patterns import and_more

TRAIN, VALIDATION, TEST = "train", "validation", "test"
WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation", "dev"),
    TEST: ("test", "testing", "eval", "evaluation"),
}
"""Words for a split, as Hugging Face's datasets know them, by its role."""
_ROLES = {word: role for role, words in WORDS.items() for word in words}
_YEAR = re.compile(r"[-_]?(19|20)\d\d$")  # train2017, val_2014
_SEPARATOR = re.compile(r"[-_. ]+")
_PART = re.compile(r"[-_.]?(\d+)[-_]of[-_](\d+)")
_NAMED = re.compile(r"(?:.*-)?([A-Za-z]\w*?)(?:\.tfrecord)?[-_]\d+-of-\d+$")  # as TFDS names files


def role_of(name: str) -> str | None:
    """`train`, `validation` or `test`, if that is what a split of this name is for."""
    return _ROLES.get(_YEAR.sub("", name.lower()))


def resolve_split(
    available: Collection[str],
    split: str | None,
    *,
    default_split: str | None = None,
    where: object,
) -> str:
    """The split that was asked for; else the one that training or evaluation reads.

    Args:
        available: The splits that are there, at least one; an empty text is what belongs to none.
        split: The split that was asked for, if any; `val`, `valid`, `validation` and `dev` are
            one, and so are the other words of a role.
        default_split: `train` for training; anything else for evaluation.
        where: The data set, for the message.

    Raises:
        DataError: It does not exist, or there are several and none of them is the default.
    """
    names = ", ".join(name or "(no split)" for name in sorted(available))
    if split is not None:
        same = [name for name in available if _is_same(name, split)]
        if split in available or len(same) == 1:
            return split if split in available else same[0]
        if not any(available):
            raise DataError(f"{where}: no split {split!r}, because its files tell no splits")
        raise DataError(f"{where}: no split {split!r}; there are {names}")
    for role in _roles(default_split):
        found = [name for name in available if (role_of(name) if name else "") == role]
        if len(found) == 1:
            return found[0]
        if found:
            break
    if len(available) > 1:
        raise DataError(
            f"{where}: several splits ({names}); name one of them, with --split in a command, "
            "data.split or data.val_split in a config"
        )
    return next(iter(available))


def warn_of_split(
    split: str, available: Collection[str], *, asked: str | None, default_split: str | None
) -> tuple[str, ...]:
    """What the user should know of a split that was chosen for want of a better one."""
    if asked is not None:
        return ()
    role, purpose = role_of(split), "training" if default_split == TRAIN else "evaluation"
    if role is not None and role not in _roles(default_split):
        return (f"the only split there is {split!r}, which is not meant for {purpose}",)
    if split and "" in available:
        return (f"what lies beside split {split!r} without a split in its name is not read",)
    return ()


def _roles(default_split: str | None) -> tuple[str, ...]:
    """The roles to take, best first; an empty text is for what belongs to no split."""
    return (TRAIN, "") if default_split == TRAIN else (TEST, VALIDATION)


def _is_same(name: str, split: str) -> bool:
    """Whether two names mean the same split."""
    if name.lower() == split.lower():
        return True
    return role_of(name) is not None and role_of(name) == role_of(split)


def split_of_file(name: str) -> str:
    """The split that a file's name tells: `cifar10-test.tfrecord-00000-of-00001`, `train_07.tar`.

    An empty text if it tells none.
    """
    words = [word for word in map(_without_number, _SEPARATOR.split(name)) if role_of(word)]
    if words:
        return words[-1]
    named = _NAMED.match(name)
    return named[1] if named else ""


def _without_number(word: str) -> str:
    """A word without the number of the file, which is no year: `train` of `train07`."""
    return word if role_of(word) else word.rstrip("0123456789")


def split_of_files(files: Iterable[Path]) -> str:
    """The split of files that were named one by one: all of theirs, joined by `+`."""
    found = {split_of_file(file.name) or split_of_folder(file.parent) for file in files}
    return "+".join(sorted(filter(role_of, found)))


def split_of_folder(folder: Path) -> str:
    """The name of a folder if it is that of a split; else an empty text."""
    name = folder.absolute().name
    return name if role_of(name) else ""


def group_by_split(files: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Files below a directory by split, from their names or those of the folders above them."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        folders = reversed(file.relative_to(root).parts[:-1])
        above = next((folder for folder in folders if role_of(folder)), "")
        found[split_of_file(file.name) or above].append(file)
    for name in [name for name in found if _YEAR.sub("", name) != name]:
        if _YEAR.sub("", name) in found and _is_numbered(found[_YEAR.sub("", name)]):
            found[_YEAR.sub("", name)] += found.pop(name)  # `train2001.tar` after `train0001.tar`
    if len(found) == 1 and not any(map(role_of, found)):
        return {"": next(iter(found.values()))}
    return dict(found)


def _is_numbered(files: Iterable[Path]) -> bool:
    """Whether the word of a split in some file's name ends in a number."""
    words = [word for file in files for word in _SEPARATOR.split(file.name)]
    return any(word[-1:].isdigit() and role_of(word.rstrip("0123456789")) for word in words)


def choose_files(
    groups: Mapping[str, Sequence[Path]],
    split: str | None,
    *,
    default_split: str | None,
    where: object,
) -> tuple[str, list[Path]]:
    """The split that is read, and its files, none of whose numbered parts is missing.

    Raises:
        DataError: The split cannot be chosen, or a part is missing.
    """
    chosen = resolve_split(groups, split, default_split=default_split, where=where)
    files = list(groups[chosen])
    require_parts(files)
    return chosen, files


def require_parts(files: Iterable[Path]) -> None:
    """Check that no file of a set such as `train-00000-of-00003` is missing.

    Raises:
        DataError: One is missing, or there are parts of sets of different sizes.
    """
    sets: dict[tuple[Path, str], dict[int, dict[int, Path]]] = defaultdict(dict)
    for file in files:
        match = _PART.search(file.name)
        if match:
            parts = sets[file.parent, file.name[: match.start()]].setdefault(int(match[2]), {})
            parts[int(match[1])] = file
    for (folder, name), by_total in sets.items():
        if len(by_total) > 1:
            totals = " and ".join(f"of-{total:05d}" for total in sorted(by_total))
            raise DataError(f"{folder / name}: parts of different sets, {totals}; keep one set")
        ((total, parts),) = by_total.items()
        first = 1 if total in parts and 0 not in parts else 0
        gaps = sorted(set(range(first, total + first)) - set(parts))
        if gaps:
            raise DataError(
                f"missing shard {gaps[0]:05d} of {total}{and_more(len(gaps) - 1)} beside "
                f"{next(iter(parts.values()))}; restore it, or name the files one by one, "
                "as in {a,b}"
            )
