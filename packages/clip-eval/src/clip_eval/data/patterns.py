"""Files that a pattern means: brace ranges, globs, single paths."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from clip_eval.data.faults import DataError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
GLOB = re.compile(r"[*?\[]")
DIGITS = re.compile(r"(\d+)")
MOST_PATHS = 1_000_000
LONGEST_NUMBER = 18  # digits


def expand_braces(pattern: str) -> list[str]:
    """Every path of a pattern: `{000..012}` counts with its zeros, `{a,b}` lists.

    Raises:
        DataError: Braces that are neither, or of more than `MOST_PATHS` paths.
    """
    if _count_paths(pattern) > MOST_PATHS:
        raise DataError(f"{pattern[:200]}: means more than {MOST_PATHS:,} files")
    return _expand(pattern)


def _count_paths(pattern: str) -> int:
    """The number of paths, or about that where ranges are empty."""
    count = 1
    for inside in BRACES.findall(pattern):
        numbers = RANGE.fullmatch(inside)
        if numbers and max(map(len, numbers.groups())) > LONGEST_NUMBER:
            return MOST_PATHS + 1
        first, last = map(int, numbers.groups()) if numbers else (0, inside.count(","))
        count *= max(1, last - first + 1)
    return count


def _expand(pattern: str) -> list[str]:
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    before, inside, after = pattern[: match.start()], match[1], pattern[match.end() :]
    numbers = RANGE.fullmatch(inside)
    if numbers:
        first, last = numbers.groups()
        if int(first) > int(last):
            raise DataError(f"{pattern}: the range {{{inside}}} is empty; write the smaller first")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        values = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    elif "," in inside:
        values = inside.split(",")
    else:
        raise DataError(f"{pattern}: expected a range {{000..012}} or a list {{a,b}} in braces")
    return [path for value in values for path in _expand(before + value + after)]


def match_files(pattern: str) -> list[Path]:
    """The files that a path, a glob or a brace range means; those of a glob sorted by name.

    Raises:
        DataError: Nothing matches, or a file that should be there is missing.
    """
    path = Path(pattern)
    if path.exists():
        return [path]
    if "{" in pattern:
        files = [Path(name) for name in expand_braces(pattern)]
        require_files(files, f"of {pattern}")
        return files
    if not GLOB.search(pattern):
        raise missing_path(pattern)
    files = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    if not files:
        raise DataError(f"{pattern}: no file matches")
    return files


def missing_path(path: object, remedy: str = "") -> DataError:
    """The error of data that is not where it was said to be; in one wording everywhere."""
    return DataError(f"{path}: no such file or directory{remedy and '; '}{remedy}")


def require_files(files: Sequence[Path], which: str) -> None:
    """Check that files exist.

    Args:
        files: The files.
        which: What they are, for the message, such as `of the 12 that nshards.txt counts`.

    Raises:
        DataError: One is missing.
    """
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"missing shard {missing[0]}{and_more(len(missing) - 1)}, {which}")


def and_more(count: int) -> str:
    """What follows the first of several things in a message."""
    return f" and {count} more" if count > 0 else ""


def sort_by_number(paths: Iterable[Path]) -> list[Path]:
    """Sorted by name, with numbers in names as numbers: 2.tar before 10.tar."""

    def parts(path: Path) -> list[tuple[int, int, str]]:
        pieces = DIGITS.split(str(path))
        return [(1, _number(p), p) if p.isdecimal() else (0, 0, p) for p in pieces]

    return sorted(paths, key=parts)


def _number(digits: str) -> int:
    """A number in a file name; no order matters among those longer than any number of files."""
    return int(digits[:4000])
