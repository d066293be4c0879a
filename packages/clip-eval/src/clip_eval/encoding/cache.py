"""The embedding cache: embeddings on disk by the hash of an image, or of a group of prompts.

The directory is named by what made the embeddings (weights, tokenizer or preprocessing, precision),
a row by the hash of what was embedded. Nothing goes stale: other weights are another directory, an
edited image is another row.

Legend: N embeddings, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
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

DIGEST_BYTES = 16
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

    A file that is cut or foreign is ignored: its rows are computed again. Files are memory-mapped,
    which takes a file descriptor each, so many files are merged into one.

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
            with contextlib.suppress(OSError):  # a full disk, or merged meanwhile
                self._merge(paths)
            paths = self._files()
        for path in paths:
            table = _mapped(path)
            if table is not None:
                rows = zip(table["digest"], table["feature"], strict=True)
                self._rows.update((digest.tobytes(), row) for digest, row in rows)

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
            warnings.warn(
                f"{self.directory}: embeddings are not kept ({error.strerror}); choose another "
                "cache directory",
                stacklevel=2,
            )
        self._new.clear()

    def _write(self) -> None:
        width = len(self._new[0][1])
        kind = np.dtype([("digest", np.uint8, DIGEST_BYTES), ("feature", np.float32, width)])
        table = np.zeros(len(self._new), dtype=kind)
        table["digest"] = [np.frombuffer(digest, np.uint8) for digest, _ in self._new]
        table["feature"] = [row for _, row in self._new]
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{uuid.uuid4().hex}.npy"
        with storage.atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, table)

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("*.npy"))

    def _merge(self, paths: Sequence[Path]) -> None:
        """Merge files into one; they are removed once it is on disk.

        It is named by a hash of their names, so that two processes that merge them make one file.
        """
        chosen: dict[Path, list[int]] = {}  # the rows of each file that no file before it has
        kind: np.dtype[Any] | None = None
        seen: set[bytes] = set()
        for path in paths:
            table = _mapped(path)
            if table is None or (kind is not None and table.dtype != kind):
                continue
            kind = table.dtype
            digests = [digest.tobytes() for digest in table["digest"]]
            chosen[path] = [n for n, digest in enumerate(digests) if digest not in seen]
            seen.update(digests)
        if kind is None or len(chosen) < 2:
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


def _mapped(path: Path) -> np.ndarray | None:
    """Map the digests and features of a file; None if it is cut or foreign."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    ours = isinstance(table, np.ndarray) and table.dtype.names == ("digest", "feature")
    return table if ours else None


def cache_directory() -> Path:
    """Default directory of embeddings."""
    return storage.cache_directory() / "embeddings"
