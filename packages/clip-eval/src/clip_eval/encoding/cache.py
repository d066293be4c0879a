"""The embedding cache: embeddings on disk by the hash of an image, or of a group of prompts.

The directory is named by what made the embeddings (weights, tokenizer or preprocessing, precision),
a row by the hash of what was embedded. Nothing goes stale: other weights are another directory, an
edited image is another row. Each row holds a hash of itself, so that damage on disk is noticed.

Legend: N embeddings, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
import uuid
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_eval.data import storage
from clip_eval.plurals import count_noun

DIGEST_BYTES = 16
CHECK_BYTES = 8
COLUMNS = ("digest", "feature", "check")
ROWS_PER_FILE = 4096
MOST_FILES = 32
SECONDS_PER_FILE = 20.0


def digest_parts(*parts: str | bytes) -> bytes:
    """Hash the parts and their lengths."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.digest()


def digest_image(image: bytes | Image.Image) -> bytes:
    """Hash the bytes of an encoded image, or the pixels and the palette of a decoded one."""
    if not isinstance(image, Image.Image):
        return digest_parts(bytes(image))
    parts: list[str | bytes] = [image.mode, str(image.size), image.tobytes()]
    colors = (image.getpalette(), image.info.get("transparency"))
    if colors != (None, None):
        parts.append(repr(colors))
    return digest_parts(*parts)


class EmbeddingStore:
    """Rows of float32 by digest, in files that are never changed after they are written.

    A file that is cut or foreign is ignored: its rows are computed again. So are rows that are not
    what was written, by the hash that each row holds; how many is a warning, and they are removed.
    Files are memory-mapped, and many files are merged into one.

    Args:
        directory: Directory of the files; made at the first write.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._rows: dict[bytes, np.ndarray] = {}
        self._new: list[tuple[bytes, np.ndarray]] = []
        self._written = time.monotonic()
        paths = self._files()
        if len(paths) > MOST_FILES:
            self._try_to_merge(paths)
        damaged = sum(self._load(path) for path in self._files())
        if damaged:
            embeddings = count_noun(damaged, "embedding is", "embeddings are")
            _warn(f"{self.directory}: {embeddings} damaged on disk, and computed again")
            self._try_to_merge(self._files(), alone=True)

    def _load(self, path: Path) -> int:
        """Add the rows of a file; the number of damaged ones, which are left out."""
        table = _mapped(path)
        if table is None:
            return 0
        good = _good_rows(table)
        rows = zip(table["digest"], table["feature"], good, strict=True)
        self._rows.update((digest.tobytes(), row) for digest, row, is_good in rows if is_good)
        return len(table) - int(good.sum())

    def _try_to_merge(self, paths: Sequence[Path], *, alone: bool = False) -> None:
        with contextlib.suppress(OSError):  # a full or read-only disk, or merged meanwhile
            self._merge(paths, alone=alone)

    def __len__(self) -> int:
        """Number of known embeddings."""
        return len(self._rows)

    def __contains__(self, digest: bytes) -> bool:
        """Whether the embedding of a digest is known."""
        return digest in self._rows

    def digests(self) -> frozenset[bytes]:
        """Return the digests of all known embeddings."""
        return frozenset(self._rows)

    def get(self, digests: Sequence[bytes]) -> Tensor:
        """Return the embeddings of known digests, (N, D) float32."""
        return torch.from_numpy(np.stack([self._rows[digest] for digest in digests]))

    def add(self, digests: Iterable[bytes], rows: Tensor) -> None:
        """Add new embeddings (N, D), except those that are not finite.

        They are written every few thousand rows or few seconds, so that a killed process loses
        little.
        """
        values = rows.detach().float().cpu().numpy()
        for digest, row in zip(digests, values, strict=True):
            if digest not in self._rows and np.isfinite(row).all():
                self._rows[digest] = row
                self._new.append((digest, row))
        late = time.monotonic() - self._written >= SECONDS_PER_FILE
        if late or len(self._new) >= ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write new embeddings in one step; if that fails, warn and keep them in memory."""
        self._written = time.monotonic()
        if not self._new:
            return
        try:
            self._write()
        except OSError as error:
            _warn(
                f"{self.directory}: embeddings are not kept ({error.strerror or error}); choose "
                "another cache directory"
            )
        self._new.clear()

    def _write(self) -> None:
        width = len(self._new[0][1])
        table = np.zeros(len(self._new), dtype=_row_type(width))
        table["digest"] = [np.frombuffer(digest, np.uint8) for digest, _ in self._new]
        table["feature"] = [row for _, row in self._new]
        table["check"] = [np.frombuffer(_check(row), np.uint8) for row in table]
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{uuid.uuid4().hex}.npy"
        array = io.BytesIO()  # into a file itself, NumPy hides why a disk took no more
        np.save(array, table)
        with storage.atomic_path(path) as temporary:
            temporary.write_bytes(array.getbuffer())

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.npy"))

    def _merge(self, paths: Sequence[Path], *, alone: bool) -> None:
        """Merge the good rows of files into one; they are removed once it is on disk.

        It is named by a hash of their names, so that two processes that merge them make one file.
        A single file is written again if `alone` is set.
        """
        chosen: dict[Path, list[int]] = {}  # the rows of each file that no file before it has
        kind: np.dtype[Any] | None = None
        seen: set[bytes] = set()
        for path in paths:
            table = _mapped(path)
            if table is None or (kind is not None and table.dtype != kind):
                continue
            kind = table.dtype
            good = _good_rows(table)
            digests = [digest.tobytes() for digest in table["digest"]]
            chosen[path] = [n for n, d in enumerate(digests) if good[n] and d not in seen]
            seen.update(digests[n] for n in chosen[path])
        if kind is None or (len(chosen) < 2 and not alone):
            return
        header = {
            "descr": np.lib.format.dtype_to_descr(kind),
            "fortran_order": False,
            "shape": (sum(map(len, chosen.values())),),
        }
        target = self.directory / f"{digest_parts(*(path.name for path in chosen)).hex()}.npy"
        with storage.atomic_path(target) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for path, rows in chosen.items():
                table = np.load(path, mmap_mode="r", allow_pickle=False)
                for start in range(0, len(rows), ROWS_PER_FILE):
                    file.write(table[rows[start : start + ROWS_PER_FILE]].tobytes())
        for path in chosen:
            path.unlink(missing_ok=True)


def _row_type(width: int) -> np.dtype[Any]:
    """Return the type of a row with an embedding of `width` numbers."""
    shapes: tuple[tuple[Any, int], ...]
    shapes = ((np.uint8, DIGEST_BYTES), (np.float32, width), (np.uint8, CHECK_BYTES))
    return np.dtype([(name, *shape) for name, shape in zip(COLUMNS, shapes, strict=True)])


def _check(row: np.void) -> bytes:
    """Hash a row without the hash that it holds."""
    return hashlib.blake2b(row.tobytes()[:-CHECK_BYTES], digest_size=CHECK_BYTES).digest()


def _good_rows(table: np.ndarray) -> np.ndarray:
    """Mark the rows that are what was written, (N,)."""
    return np.array([_check(row) == row["check"].tobytes() for row in table], dtype=bool)


def _mapped(path: Path) -> np.ndarray | None:
    """Map the rows of a file; None if it is cut, foreign, or has no hashes of its rows."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    ours = isinstance(table, np.ndarray) and table.dtype.names == COLUMNS
    return table if ours else None


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def cache_directory() -> Path:
    """Default directory of embeddings."""
    return storage.cache_directory() / "embeddings"
