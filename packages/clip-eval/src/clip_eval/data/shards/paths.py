"""The tar shards of a directory, pattern or URL, with the class names and templates beside them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from os.path import commonpath
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clip_eval.data.class_names import CLASSES_FILE, ClassList
from clip_eval.data.commands import expand_path
from clip_eval.data.faults import DataError
from clip_eval.data.patterns import (
    GLOB,
    MOST_PATHS,
    and_more,
    expand_braces,
    match_files,
    missing_path,
    require_files,
    sort_by_number,
)
from clip_eval.data.splits import (
    WORDS,
    choose_files,
    group_by_split,
    require_parts,
    resolve_split,
    split_of_files,
    split_of_folder,
    warn_of_split,
)
from clip_eval.data.templates import TEMPLATES_FILE, choose_templates
from clip_eval.data.text_files import read_text
from clip_eval.data.urls import check_url, is_url, read_url

COUNT_FILE = "nshards.txt"


@dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """Shards in order, with the split, class names and templates of their directory."""

    name: str
    shards: tuple[str, ...]  # paths or URLs
    split: str | None = None
    splits: tuple[str, ...] = ()  # all that are there
    classnames: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()


def expand_shards(
    pattern: str, *, split: str | None = None, default_split: str | None = None
) -> tuple[str, ...]:
    """Paths or URLs of the shards that a pattern means, in order.

    Args:
        pattern: As for `find_shards`.
        split: Which split, where there are several.
        default_split: `train` for the split that training reads, instead of evaluation's.

    Raises:
        DataError: Nothing matches, a shard that should be there is missing, or there are several
            splits and no default.
    """
    return find_shards(pattern, split=split, default_split=default_split).shards


def find_shards(
    pattern: str, *, split: str | None = None, default_split: str | None = None
) -> ShardLayout:
    """The shards that a directory, file, glob or brace range means.

    Args:
        pattern: Path of a directory or a tar, or a pattern for tars.
        split: Which split, where there are several: a folder below the directory, or a word in
            the names of the shards.
        default_split: `train` for the split that training reads, instead of evaluation's.

    Raises:
        DataError: Nothing matches, a shard that should be there is missing, or there are several
            splits and no default.
    """
    pattern = expand_path(pattern)
    if is_url(pattern):
        check_url(pattern)
        return _find_behind_url(pattern, split, default_split)
    if Path(pattern).is_dir():
        return _find_in_directory(Path(pattern), split, default_split)
    shards = match_files(pattern)
    if not GLOB.search(pattern):
        return _list_named(pattern, shards, split)
    shards = sort_by_number(shards)
    groups = group_by_split(shards, Path(commonpath(shard.parent for shard in shards)))
    chosen, shards = choose_files(groups, split, default_split=default_split, where=pattern)
    layout = _make_layout(shards[0].parent.resolve().name, chosen, shards)
    return _with_splits(layout, chosen, groups, split, default_split)


def _list_named(pattern: str, shards: list[Path], split: str | None) -> ShardLayout:
    """Shards that were named one by one, of whatever split."""
    found = split_of_files(shards)
    if split is not None:
        resolve_split([found], split, where=pattern)
    return _make_layout(shards[0].parent.resolve().name, found, shards)


def _find_in_directory(root: Path, split: str | None, default_split: str | None) -> ShardLayout:
    """The shards of a directory: its own by split, and those of each split's folder below it."""
    tars = _list_tars(root)
    groups = group_by_split(tars, root)
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and _is_split(p)}
    if (root / COUNT_FILE).is_file():
        groups.setdefault("", [])
    if not groups and not folders:
        if split is not None and not (root / split).is_dir():
            raise missing_path(root / split)
        raise DataError(f"{root / (split or '')}: no .tar shards in it")
    available = {*groups, *folders}
    chosen = resolve_split(available, split, default_split=default_split, where=root)
    if chosen in folders:
        folder = folders[chosen]
        shards = _list_tars(folder)
    else:
        folder, shards = root, groups[chosen]
    counted = folder / COUNT_FILE
    if counted.is_file():
        shards = _list_counted(folder, counted)
    else:
        require_parts(shards)
        _refuse_gaps(shards)
    is_one_of_several = chosen in folders or len(available) > 1
    name = "/".join(filter(None, (root.resolve().name, chosen if is_one_of_several else "")))
    layout = _make_layout(name, chosen or split_of_folder(root), shards)
    return _with_splits(layout, chosen, available, split, default_split)


def _with_splits(
    layout: ShardLayout,
    chosen: str,
    available: Collection[str],
    asked: str | None,
    default_split: str | None,
) -> ShardLayout:
    """The layout with what splits there are, and what should be known of the choice."""
    found = warn_of_split(chosen, available, asked=asked, default_split=default_split)
    return replace(layout, splits=tuple(sorted(filter(None, available))), warnings=found)


def _find_behind_url(pattern: str, split: str | None, default_split: str | None) -> ShardLayout:
    """Shards named one by one, or a directory in the layout of CLIP_benchmark."""
    path = urlsplit(pattern.replace("{", "%7B").replace("}", "%7D")).path
    if path.endswith(".tar") or "{" in pattern:
        shards = tuple(expand_braces(pattern))
        found = split_of_files(Path(urlsplit(shard).path) for shard in shards)
        if split is not None:
            resolve_split([found], split, where=pattern)
        name = unquote(path).rpartition("/")[2].removesuffix(".tar")
        return ShardLayout(name=name, split=found or None, shards=shards)
    root = pattern.rstrip("/")
    try:
        counts = _read_counts(root, [split] if split else ["", *chain(*WORDS.values())])
        names, prompts = (read_url(f"{root}/{file}") for file in (CLASSES_FILE, TEMPLATES_FILE))
    except OSError as error:
        raise DataError(f"{pattern}: cannot be read ({error})") from error
    if not counts:
        raise DataError(
            f"{pattern}: expected {split or 'test'}/{COUNT_FILE} below it, or name the shards as "
            f"in {root}/{{00000..00099}}.tar"
        )
    chosen = resolve_split(counts, split, default_split=default_split, where=pattern)
    base = "/".join(filter(None, (root, chosen)))
    layout = ShardLayout(
        name="/".join(filter(None, (root.rpartition("/")[2], chosen))),
        split=chosen or None,
        shards=tuple(f"{base}/{number}.tar" for number in range(counts[chosen])),
        classnames=_split_lines(names, f"{root}/{CLASSES_FILE}"),
        templates=_split_lines(prompts, f"{root}/{TEMPLATES_FILE}"),
    )
    return _with_splits(layout, chosen, counts, split, default_split)


def _read_counts(root: str, splits: Iterable[str]) -> dict[str, int]:
    """Number of shards of each split below a URL, of those that are there.

    Raises:
        OSError: The server does not answer.
    """
    found = {}
    for split in splits:
        content = read_url("/".join(filter(None, (root, split, COUNT_FILE))))
        if content is not None and _is_number_of_shards(content):
            found[split] = int(content)
    return found


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


def _make_layout(name: str, split: str, shards: list[Path]) -> ShardLayout:
    folder = shards[0].parent
    places = (folder, folder.resolve().parent)  # class names lie beside the shards or above them
    lists = [place / CLASSES_FILE for place in places if (place / CLASSES_FILE).is_file()]
    return ShardLayout(
        name=name,
        split=split or None,
        shards=tuple(map(str, shards)),
        classnames=ClassList.read(lists[0]).names if lists else None,
        templates=choose_templates(None, *places),
    )
