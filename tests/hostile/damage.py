"""Ways to damage any file, any value of a JSON or TOML file, and any run of bytes."""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]
"""Puts something hostile in the place of a file."""

DEEP = 200_000


Data = bytes | Callable[[], bytes]
"""Content of a file, or what makes it when it is needed."""


def made(data: Data) -> bytes:
    """The content, made now where it was not yet."""
    return data if isinstance(data, bytes) else data()


def content(data: Data) -> Damage:
    """Other content."""

    def put(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made(data))

    return put


def replace(change: Callable[[bytes], bytes]) -> Damage:
    """Content that follows from what is there."""
    return lambda path: content(change(path.read_bytes()))(path)


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def as_loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def as_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def as_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def as_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 2**30)


PLACES: dict[str, Damage] = {
    "pipe": as_pipe,
    "device": as_device,
    "loop": as_loop,
    "directory": as_directory,
    "socket": as_socket,
    "sparse": as_sparse,
}
"""What lies in the place of a regular file."""

BYTES: dict[str, Damage] = {
    "empty": content(b""),
    "zeros": content(bytes(4096)),
    "not-utf8": content(b"\xff\xfe\x80\x81 \xed\xa0\x80"),
    "half": replace(lambda data: data[: len(data) // 2]),
    "twice": replace(lambda data: data + data),
    "gzip-head": replace(lambda data: b"\x1f\x8b" + data),
    "html": content(b"<!DOCTYPE html><html><body>404</body></html>"),
    "lfs-pointer": content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
}

JSON: dict[str, Damage] = {
    "deep-lists": content(b"[" * DEEP),
    "deep-objects": content(b'{"a":' * DEEP),
    "deep-whole": content(b"[" * DEEP + b"]" * DEEP),
    "a-list": content(b"[]"),
    "a-text": content(b'"x"'),
    "a-number": content(b"7"),
    "null": content(b"null"),
    "an-object": content(b"{}"),
    "digits": content(b'{"a": ' + b"9" * 5000 + b"}"),
    "not-finite": content(b'{"a": NaN, "b": -Infinity, "c": 1e999}'),
    "surrogate": content(b'{"a": "\\ud800", "\\udfff": 1}'),
}

TOML: dict[str, Damage] = {
    "deep-lists": content(b"a = " + b"[" * 50_000),
    "deep-keys": content(b".".join([b"a"] * 20_000) + b" = 1"),
    "digits": replace(lambda data: data + b"\n[train]\nsteps = " + b"9" * 5000),
    "no-value": content(b"a ="),
    "nul": content(b"a = 1\n\0"),
    "dates": content(b"a = 9999-99-99"),
    "same-key": content(b"a = 1\na = 2"),
    "a-list": content(b"model = []\ntrain = []\ndata = []"),
    "a-text": content(b'model = "x"\ntrain = "x"\ndata = "x"'),
}

VALUES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "list": [],
    "object": {},
    "lists": [[[1]]],
    "minus": -1,
    "huge": 10**30,
    "fraction": 0.5,
    "true": True,
    "infinite": float("inf"),
    "long": "x" * 100_000,
}


def wrong_values(file: Path, keys: int) -> Iterator[tuple[str, Damage]]:
    """A JSON file with one value in its first levels replaced by one of another kind."""
    whole = json.loads(file.read_text())
    places = [place for place in _places(whole, ()) if place][:keys]
    for number, place in enumerate(places):
        for name in _rotated(number, 3):
            changed = copy.deepcopy(whole)
            inner = changed
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = VALUES[name]
            label = ".".join(map(str, place))
            yield f"{label}-{name}", content(json.dumps(changed).encode())


def _rotated(number: int, count: int) -> list[str]:
    names = list(VALUES)
    return [names[(number * count + n) % len(names)] for n in range(count)]


def _places(value: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield above
    if len(above) < 3:
        items = value.items() if isinstance(value, dict) else []
        for key, inner in items:
            yield from _places(inner, (*above, key))


def put(good: Path, target: Path, changes: dict[str, Damage]) -> None:
    """Copy a file or directory, and damage files of it."""
    if good.is_dir():
        shutil.copytree(good, target, symlinks=True)
        for name, damage in changes.items():
            damage(target / name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good, target)
        for damage in changes.values():
            damage(target)
