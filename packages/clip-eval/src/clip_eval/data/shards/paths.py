"""The tar shards of a directory, pattern or URL, with the class names and templates beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clip_eval.data.class_names import CLASSES_FILE, ClassList
from clip_eval.data.faults import DataError
from clip_eval.data.patterns import (
    GLOB,
    MOST_PATHS,
    and_more,
    expand_braces,
    match_files,
    require_files,
    sort_by_number,
)
from clip_eval.data.splits import resolve_split
from clip_eval.data.templates import TEMPLATES_FILE, choose_templates
from clip_eval.data.text_files import read_text
from clip_eval.data.urls import check_url, is_url, read_url, refuse_command

COUNT_FILE = "nshards.txt"


@dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """Shards in order, with the split, class names and templates of their directory."""

    name: str
    split: str | None
    shards: tuple[str, ...]  # paths or URLs
    classnames: tuple[str, ...] | None
    templates: tuple[str, ...] | None


def expand_shards(pattern: str) -> tuple[str, ...]:
    """Paths or URLs of the shards that a pattern means, in order.

    Raises:
        DataError: Nothing matches, or a shard that should be there is missing.
    """
    return find_shards(pattern).shards


def find_shards(pattern: str, *, split: str | None = None) -> ShardLayout:
    """The shards that a directory, file, glob or brace range means.

    Args:
        pattern: Path of a directory or a tar, or a pattern for tars.
        split: Folder below the directory that holds the shards.

    Raises:
        DataError: Nothing matches, or a shard that should be there is missing.
    """
    if not Path(pattern).exists():
        refuse_command(pattern)
    if is_url(pattern):
        check_url(pattern)
        return _find_behind_url(pattern, split)
    if Path(pattern).is_dir():
        return _find_in_directory(Path(pattern), split)
    if split is not None:
        raise DataError(f"{pattern}: a split can be chosen only in a directory")
    shards = match_files(pattern)
    if GLOB.search(pattern):
        shards = sort_by_number(shards)
    folder = shards[0].parent
    return _make_layout(folder, folder.resolve().name, None, shards)


def _find_in_directory(root: Path, split: str | None) -> ShardLayout:
    folder = root / split if split else root
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory")
    if not _list_tars(folder) and not (folder / COUNT_FILE).is_file():
        splits = sorted(p.name for p in folder.iterdir() if p.is_dir() and _is_split(p))
        if not splits:
            raise DataError(f"{folder}: no .tar shards in it")
        split = resolve_split(splits, None, preferred=("test",), where=root)
        folder = folder / split
    shards = _list_tars(folder)
    counted = folder / COUNT_FILE
    if counted.is_file():
        shards = _list_counted(folder, counted)
    else:
        _refuse_gaps(shards)
    name = "/".join(part for part in (root.resolve().name, split) if part)
    return _make_layout(folder, name, split, shards)


def _find_behind_url(pattern: str, split: str | None) -> ShardLayout:
    """Shards named one by one, or a directory in the layout of CLIP_benchmark."""
    path = urlsplit(pattern.replace("{", "%7B").replace("}", "%7D")).path
    if path.endswith(".tar") or "{" in pattern:
        if split is not None:
            raise DataError(f"{pattern}: a split can be chosen only in a directory")
        name = unquote(path).rpartition("/")[2].removesuffix(".tar")
        shards = tuple(expand_braces(pattern))
        return ShardLayout(name=name, split=None, shards=shards, classnames=None, templates=None)
    root, split = pattern.rstrip("/"), split or "test"
    try:
        count = read_url(f"{root}/{split}/{COUNT_FILE}")
        names, prompts = (read_url(f"{root}/{file}") for file in (CLASSES_FILE, TEMPLATES_FILE))
    except OSError as error:
        raise DataError(f"{pattern}: cannot be read ({error})") from error
    if count is None or not _is_number_of_shards(count):
        raise DataError(
            f"{pattern}: expected {split}/{COUNT_FILE} below it, or name the shards as in "
            f"{root}/{{00000..00099}}.tar"
        )
    return ShardLayout(
        name=f"{root.rpartition('/')[2]}/{split}",
        split=split,
        shards=tuple(f"{root}/{split}/{number}.tar" for number in range(int(count))),
        classnames=_split_lines(names, f"{root}/{CLASSES_FILE}"),
        templates=_split_lines(prompts, f"{root}/{TEMPLATES_FILE}"),
    )


def _is_number_of_shards(content: bytes) -> bool:
    digits = content.strip()
    return digits.isdigit() and len(digits) < 19 and 0 < int(digits) <= MOST_PATHS


def _split_lines(content: bytes | None, where: str) -> tuple[str, ...] | None:
    try:
        text = (content or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start})") from error
    lines = [line.strip() for line in text.splitlines()]
    return tuple(line for line in lines if line) or None


def _is_split(folder: Path) -> bool:
    return (folder / COUNT_FILE).is_file() or bool(_list_tars(folder))


def _list_tars(folder: Path) -> list[Path]:
    return sort_by_number(p for p in folder.glob("*.tar") if not p.name.startswith("."))


def _list_counted(folder: Path, counted: Path) -> list[Path]:
    text = read_text(counted).strip()
    if not _is_number_of_shards(text.encode()):
        raise DataError(f"{counted}: expected the number of shards, got {text[:40]!r}")
    shards = [folder / f"{number}.tar" for number in range(int(text))]
    if not any(shard.exists() for shard in shards) and len(_list_tars(folder)) == len(shards):
        return _list_tars(folder)  # counted, but named otherwise
    require_files(shards, f"of the {text} that {counted.name} counts")
    return shards


def _refuse_gaps(shards: list[Path]) -> None:
    """Numbered shards in a directory must have no gap; a glob takes what is there."""
    numbered = [re.fullmatch(r"(.*?)(\d+)\.tar", shard.name) for shard in shards]
    if len({match[1] for match in numbered if match}) != 1 or not all(numbered):
        return
    numbers = {int(match[2]): match[2] for match in numbered if match}
    count = max(numbers) - min(numbers) + 1 - len(numbers)
    if count:
        first = numbered[0]
        assert first is not None
        gap = next(n for n in range(min(numbers), max(numbers)) if n not in numbers)
        missing = f"{first[1]}{str(gap).zfill(len(first[2]))}.tar"
        folder = shards[0].parent
        raise DataError(
            f"missing shard {folder / missing}{and_more(count - 1)}; restore it, or give "
            f"{folder}/*.tar to use the shards that are there"
        )


def _make_layout(folder: Path, name: str, split: str | None, shards: list[Path]) -> ShardLayout:
    places = (folder, folder.resolve().parent)  # class names lie beside the shards or above them
    lists = [place / CLASSES_FILE for place in places if (place / CLASSES_FILE).is_file()]
    return ShardLayout(
        name=name,
        split=split,
        shards=tuple(map(str, shards)),
        classnames=ClassList.read(lists[0]).names if lists else None,
        templates=choose_templates(None, *places),
    )
