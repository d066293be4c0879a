"""The tensors of a TorchScript archive, read as data: no pickle is loaded and no code is run.

OpenAI's CLIP weights are such archives: a zip file with the module tree as a pickle (`data.pkl`),
the bytes of each tensor in an entry (`data/0`, `data/1`, …) and the program as source text.
The few pickle instructions that TorchScript writes are interpreted here; where a pickle would call
something, only the name and the arguments are recorded, and those of tensors are followed.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

_STORAGE_DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_TENSOR = "torch._utils _rebuild_tensor_v2"
_MOST_MODULES, _DEEPEST = 100_000, 64
_MARK = object()


@dataclass
class _Record:
    """An object that the pickle would have constructed: its name, arguments and attributes."""

    name: str
    arguments: Any = ()
    attributes: dict[str, Any] = field(default_factory=dict)


def find_archive_root(archive: zipfile.ZipFile) -> str | None:
    """The top folder of a TorchScript archive, or None for any other zip file."""
    for name in archive.namelist():
        path = PurePosixPath(name)
        if len(path.parts) == 2 and path.name == "constants.pkl":
            return path.parts[0]
    return None


def read_archive(archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    """The tensors below the archived module, named as its `state_dict` would name them.

    Raises:
        ValueError: The archive is not one of TorchScript's; the message says where.
    """
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("its numbers are not little-endian")
    tree = _interpret(archive.read(f"{root}/data.pkl"))
    if not (isinstance(tree, _Record) and tree.name.startswith("__torch__")):
        raise ValueError("data.pkl holds no module")
    storages: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in storages:
            entry = archive.getinfo(f"{root}/data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"data/{key} is compressed, which TorchScript never does")
            if entry.file_size != count * dtype.itemsize:
                raise ValueError(
                    f"data/{key} has {entry.file_size} bytes, expected {count} of {dtype}"
                )
            content = bytearray(archive.read(entry))
            if content:
                storages[key] = torch.frombuffer(content, dtype=dtype)
            else:
                storages[key] = torch.empty(0, dtype=dtype)
        return storages[key]

    tensors: dict[str, Tensor] = {}
    pending, seen = [("", tree)], 0
    while pending:
        prefix, module = pending.pop()
        seen += 1
        if seen > _MOST_MODULES or prefix.count(".") > _DEEPEST:
            raise ValueError("its modules contain one another without end")
        for name, value in module.attributes.items():
            if not isinstance(value, _Record):
                continue
            if value.name == _TENSOR:
                tensors[prefix + name] = _tensor(prefix + name, value.arguments, storage)
            elif value.name.startswith("__torch__"):
                pending.append((f"{prefix}{name}.", value))
    return tensors


def _tensor(
    name: str, arguments: Any, storage: Callable[[str, torch.dtype, int], Tensor]
) -> Tensor:
    """The tensor that `torch._utils._rebuild_tensor_v2(*arguments)` would give."""
    try:
        (kind, storage_type, key, _, count), offset, size, stride = arguments[:4]
        integers = (count, offset, *size, *stride)
        valid = (
            kind == "storage"
            and storage_type.name in _STORAGE_DTYPES
            and len(size) == len(stride)
            and all(type(number) is int and number >= 0 for number in integers)
        )
    except (TypeError, ValueError, AttributeError):
        valid = False
    if not valid:
        raise ValueError(f"{name} is not described as a tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > count or (math.prod(size) and last >= count):
        raise ValueError(f"{name} of {tuple(size)} reaches beyond its {count} stored numbers")
    stored = storage(str(key), _STORAGE_DTYPES[storage_type.name], count)
    return stored.as_strided(size, stride, offset)


def _interpret(pickled: bytes) -> Any:
    """The data that the pickle describes, with a `_Record` for each object.

    Raises:
        ValueError: It uses an instruction that TorchScript does not write.
    """
    machine = _PickleMachine()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "STOP":
                return machine.stack.pop()
            if not (machine.push(opcode.name, argument) or machine.build(opcode.name)):
                raise ValueError(f"data.pkl uses the instruction {opcode.name}")
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"data.pkl is damaged ({type(error).__name__}: {error})") from None
    raise ValueError("data.pkl ends too early")


class _PickleMachine:
    """The stack and the memo of a pickle; each method tells whether it knows the instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, name: str, argument: Any) -> bool:
        """Push plain data, or store and fetch what the memo holds."""
        stack = self.stack
        match name:
            case "PROTO" | "BINPERSID":
                pass  # the tuple on the stack names a storage; `_tensor` reads it
            case "MARK":
                stack.append(_MARK)
            case "GLOBAL":
                stack.append(_Record(str(argument)))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[int(argument or 0)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[int(argument or 0)])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
            case _:
                return False
        return True

    def build(self, name: str) -> bool:
        """Make containers and records of the values on the stack."""
        stack = self.stack
        match name:
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                items, stack[-count:] = tuple(stack[-count:]), []
                stack.append(items)
            case "APPENDS":
                items = tuple(self._pop_to_mark())
                stack[-1].extend(items)
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "SETITEMS":
                flat = self._pop_to_mark()
                stack[-1].update(zip(flat[::2], flat[1::2], strict=True))
            case "SETITEM":
                key, value = stack[-2:]
                del stack[-2:]
                stack[-1][key] = value
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(_Record(stack.pop().name, arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(state, dict):
                    stack[-1].attributes.update(state)
            case _:
                return False
        return True

    def _pop_to_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items
