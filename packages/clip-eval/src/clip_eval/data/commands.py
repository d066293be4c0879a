"""Commands in place of data (`pipe:`), which are never run: the URL that the usual ones copy."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_eval.data.faults import DataError
from clip_eval.data.urls import check_url, is_url

PIPE = "pipe:"
_SHELL = frozenset("|&;<>$`\n\\")
_NO_FAILURE = re.compile(r"\s*\|\|\s*(true|:)\s*$")  # as in `curl … || true`


@dataclass(frozen=True)
class _Copy:
    """A command that writes one object to standard output.

    Attributes:
        words: How it begins.
        schemes: Schemes of the URLs that it copies.
        flags: Pattern of the words that change nothing for us.
        values: Flags that are followed by a value, and change nothing either.
    """

    words: tuple[str, ...]
    schemes: tuple[str, ...]
    flags: str = r"-|--quiet|--no-progress"
    values: tuple[str, ...] = ()


_COPIES = (
    _Copy(
        ("aws", "s3", "cp"), ("s3",), r"-|--quiet|--no-progress|--only-show-errors", ("--region",)
    ),
    _Copy(("s5cmd", "cat"), ("s3",)),
    _Copy(("gsutil", "cat"), ("gs",)),
    _Copy(("gsutil", "cp"), ("gs",)),
    _Copy(("gsutil", "-q", "cp"), ("gs",)),
    _Copy(("gsutil", "-m", "cp"), ("gs",)),
    _Copy(("gcloud", "storage", "cat"), ("gs",)),
    _Copy(("gcloud", "storage", "cp"), ("gs",)),
    _Copy(
        ("curl",),
        ("http", "https"),
        r"-[sSLf]+|--silent|--show-error|--location|--fail",
        ("--retry", "--retry-delay", "--connect-timeout", "--max-time", "-m"),
    ),
    _Copy(
        ("wget",), ("http", "https"), r"-q|-qO-|-O-|-nv|--quiet|-", ("--tries", "-t", "-O", "-qO")
    ),
)


def is_command(location: str) -> bool:
    """Whether a location is a command, as webdataset's `pipe:` is."""
    return location.lstrip().lower().startswith(PIPE)


def translate_command(location: str) -> str:
    """The URL that a command copies to standard output; another location as it is.

    Nothing is run. Known are the usual copies from object stores and the web, with flags that
    change nothing: `pipe:aws s3 cp s3://bucket/{000..099}.tar -` is `s3://bucket/{000..099}.tar`.

    Raises:
        DataError: It is another command.
    """
    if not is_command(location):
        return location
    command = _NO_FAILURE.sub("", location.lstrip()[len(PIPE) :])
    try:
        words = [] if _SHELL & set(command) else shlex.split(command)
    except ValueError:  # a quote without its partner
        words = []
    found = next(filter(None, (_match(copy, words) for copy in _COPIES)), None)
    if found is None:
        raise DataError(
            f"{location}: expected a path or URL, got a command, which is never run; name the "
            "object itself, as in s3://bucket/{000..099}.tar"
        )
    check_url(found)
    return found


def expand_path(location: str) -> str:
    """A location with the home directory in place of `~`, and a URL in place of a command.

    Raises:
        DataError: It is a command other than the usual copies of one URL.
    """
    if is_command(location) and not Path(location).exists():
        return translate_command(location)
    return os.path.expanduser(location)


def _match(copy: _Copy, words: Sequence[str]) -> str | None:
    """The URL, if the words are this copy of one."""
    count = len(copy.words)
    if tuple(words[:count]) != copy.words:
        return None
    found: list[str] = []
    rest = iter(words[count:])
    for word in rest:
        if word in copy.values:
            if next(rest, None) is None:
                return None
        elif is_url(word) and word.partition("://")[0].lower() in copy.schemes:
            found.append(word)
        elif not re.fullmatch(copy.flags, word):
            return None
    return found[0] if len(found) == 1 else None
