"""Training checkpoints on disk: directories `step-NNNNNNN` that are whole or not there.

A checkpoint holds one safetensors file for each group of tensors, such as `model` and `optimizer`,
and `state.json`: format version, step, state, and the SHA-256 digests of every file and of itself.
Packages that import no sibling each hold this file, word for word; a test compares the copies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT_VERSION = 3
STATE_NAME = "state.json"
_SUFFIX = ".safetensors"
_NAME = re.compile(r"\.?step-(\d{7,})(\.replaced)?")


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of another format."""


def write_checkpoint(
    parent: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    add_files: Callable[[Path], None] | None = None,
) -> Path:
    """Write `parent/step-NNNNNNN`, replacing an earlier checkpoint of the same step; its path.

    It is written under a hidden name, flushed to disk and renamed, so that a kill or a full disk
    leaves the earlier checkpoints as they were.

    Args:
        parent: Directory of the checkpoints of one run; made if it does not exist.
        step: Number of optimizer steps done.
        tensors: Tensors by name, by the name of their file without its suffix.
        state: Everything else, of JSON's types.
        add_files: Called with the directory, to write more files into it, such as a config.

    Raises:
        OSError: It could not be written; the error names it.
    """
    target = parent / f"step-{step:07d}"
    partial = parent / f".{target.name}.partial"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in [*parent.glob(".step-*.partial"), *parent.glob(".step-*.deleted")]:
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        if add_files is not None:
            add_files(partial)
        for group, named in tensors.items():
            save_tensors(partial / f"{group}{_SUFFIX}", named)
        digests = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
        record = {"format_version": FORMAT_VERSION, "step": step, "state": state, "sha256": digests}
        record["record_sha256"] = _digest(record)
        (partial / STATE_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for path in [*partial.iterdir(), partial]:
            _flush(path)
        _put_in_place(partial, target)
    except OSError as error:
        reason = f"{error.strerror or error}; earlier checkpoints are whole"
        raise OSError(error.errno or errno.EIO, reason, str(target)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read_checkpoint(directory: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors on the CPU, by group and name, and the state; CheckpointError for any damage."""
    record = _read_record(directory)
    files = [directory / name for name in record["sha256"] if name.endswith(_SUFFIX)]
    return {file.name.removesuffix(_SUFFIX): load_file(file) for file in files}, record["state"]


def read_state(directory: Path) -> dict[str, Any]:
    """The state alone, after every file was verified, for readers that need one group or none."""
    return dict(_read_record(directory)["state"])


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whose mode follows the umask; OSError if that is not possible."""
    whole: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        whole[name] = plain.clone() if storage in storages else plain  # none may be shared
        storages.add(storage)
    file.touch()
    mode = file.stat().st_mode  # which `save_file` restricts to the owner
    try:
        save_file(whole, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file} could not be written: {error}") from None
    file.chmod(mode)


@contextmanager
def naming(path: Path, *, temporary: Path | None = None, whole: str = "") -> Iterator[None]:
    """Say in errors of writing a file which one it is, which Python often leaves out.

    Args:
        path: The file that the user knows.
        temporary: What is written in its place.
        whole: What is still there; by default whether the file is.

    Raises:
        OSError: With the name of the file.
    """
    try:
        yield
    except OSError as error:
        places = (None, str(path), str(temporary))
        if error.filename not in places and error.filename2 != str(temporary):
            raise
        kept = "the earlier file is unchanged" if path.exists() else "there is no part of it"
        reason = f"{error.strerror or error}; {whole or kept}"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def verify_files(directory: Path, digests: Mapping[str, str]) -> None:
    """Raise CheckpointError unless the directory's files have these SHA-256 digests."""
    for name, digest in digests.items():
        file = directory / name
        if Path(name).name != name or not file.is_file():
            raise _damage_error(file, "it is missing")
        if _sha256(file) != digest:
            raise _damage_error(file, "its SHA-256 is not the one that was written")


def list_checkpoints(parent: Path) -> list[Path]:
    """Complete checkpoints by rising step; entries with other names are ignored."""
    named = [path for path in sorted(parent.glob("*step-*")) if _NAME.fullmatch(path.name)]
    # a visible one comes after a hidden one of its step, and takes its place
    found = {checkpoint_step(path): path for path in named if (path / STATE_NAME).is_file()}
    return [path for _, path in sorted(found.items())]


def newest_checkpoint(parent: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    return next(reversed(list_checkpoints(parent)), None)


def checkpoint_step(directory: Path) -> int:
    """The step in the name of a checkpoint."""
    match = _NAME.fullmatch(directory.name)
    if match is None:
        raise CheckpointError(f"{directory} is not named step-NNNNNNN; name a checkpoint")
    return int(match[1])


def keep_last(parent: Path, count: int, keep_every: int | None = None) -> None:
    """Delete all but the newest `count` and those whose step is a multiple of `keep_every`."""
    found = list_checkpoints(parent)
    for path in found[: max(0, len(found) - count)]:
        if keep_every is None or checkpoint_step(path) % keep_every:
            hidden = parent / f".{path.name.lstrip('.')}.deleted"
            shutil.rmtree(hidden, ignore_errors=True)
            path.rename(hidden)  # at once, so that half of it is never seen
            shutil.rmtree(hidden)


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename; `list_checkpoints` finds an earlier checkpoint of the step at any moment."""
    replaced = target.with_name(f".{target.name}.replaced")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    partial.rename(target)
    _flush(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _read_record(directory: Path) -> dict[str, Any]:
    """The content of `state.json`, after it and every other file was verified."""
    file = directory / STATE_NAME
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = record["format_version"]
        if version == FORMAT_VERSION and record.pop("record_sha256") != _digest(record):
            raise ValueError("its SHA-256 is not the one that was written")
    except FileNotFoundError:
        raise _damage_error(file, "it is missing") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damage_error(file, str(error)) from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format version {version}, expected {FORMAT_VERSION}; read it with the "
            "release that wrote it"
        )
    verify_files(directory, record["sha256"])
    return record


def _damage_error(file: Path, reason: str) -> CheckpointError:
    remedy = f"delete {file.parent} to go on from an older checkpoint"
    return CheckpointError(f"{file} is damaged: {' '.join(reason.split())}; {remedy}")


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
