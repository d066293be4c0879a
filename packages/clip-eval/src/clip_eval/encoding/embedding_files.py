"""Embeddings as files: `.npz` for NumPy, `.parquet` for tables."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_eval.data.samples import Source
from clip_eval.data.storage import atomic_path
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.embed import embed_images
from clip_eval.encoding.encoder import Encoder
from clip_eval.errors import EvaluationError
from clip_eval.models.protocols import evaluation_mode
from clip_eval.plurals import count_noun
from clip_eval.results.result import Skipped

DAMAGED = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


class Embeddings(NamedTuple):
    """Unit vectors (N, D) with the key and, for images, the label of each (-1 without one)."""

    features: NDArray[np.float32]
    keys: list[str]
    labels: NDArray[np.int64]
    skipped: tuple[Skipped, ...] = ()


def embed_source(encoder: Encoder, source: Source, loader: LoaderConfig) -> Embeddings:
    """Embed the images of a source, in order; an image with several rows is embedded once."""
    rows: list[NDArray[np.float32]] = []
    keys: list[str] = []
    labels: list[int] = []
    skipped: list[Skipped] = []
    seen: set[tuple[str, bytes]] = set()
    for batch, (features,) in embed_images([encoder], source, loader):
        for sample, row in zip(batch.samples, features.cpu().numpy(), strict=True):
            if (sample.key, sample.digest) not in seen:
                seen.add((sample.key, sample.digest))
                rows.append(row)
                keys.append(sample.key)
                labels.append(-1 if sample.label is None else sample.label)
        skipped += batch.skipped
    if not rows:
        raise EvaluationError(
            f"{source.name}: none of {count_noun(len(source), 'image')} could be used"
        )
    return Embeddings(np.stack(rows), keys, np.array(labels, dtype=np.int64), tuple(skipped))


def embed_texts(encoder: Encoder, texts: list[str]) -> Embeddings:
    """Embed the distinct texts, in order."""
    texts = list(dict.fromkeys(texts))
    with evaluation_mode(encoder.model):
        features = encoder.encode_texts(texts).cpu().numpy()
    encoder.flush()
    return Embeddings(features, texts, np.full(len(texts), -1, dtype=np.int64))


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write `.npz` (arrays `features`, `keys`, `labels`) or `.parquet`, in one step.

    Surrogates, which stand for bytes of a file name that is not UTF-8, become `\\udcXX` in Parquet.

    Raises:
        EvaluationError: Another suffix, or Parquet without pyarrow.
    """
    write = choose_writer(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        write(file, embeddings)


def read_embeddings(path: str | Path) -> tuple[list[str], NDArray[np.float32]]:
    """Read keys (N) and features (N, D) of a file of `clip-eval embed`.

    Raises:
        EvaluationError: The file is damaged or of another format, or Parquet without pyarrow.
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    read = {".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix)
    if read is None:
        raise EvaluationError(f"{path}: expected a file of `clip-eval embed`, .npz or .parquet")
    try:
        keys, features = read(path)
    except (EvaluationError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except DAMAGED as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"{path} is not a file of `clip-eval embed`: {reason}") from None
    if features.ndim != 2 or len(keys) != len(features):
        raise EvaluationError(
            f"{path}: expected a row of features for each of {len(keys)} keys, got an array of "
            f"shape {features.shape}"
        )
    return keys, features


def choose_writer(path: Path) -> Callable[[IO[bytes], Embeddings], None]:
    """Choose the writer of a file by its suffix.

    Raises:
        EvaluationError: Another suffix, or Parquet without pyarrow.
    """
    if path.suffix == ".npz":
        return _write_npz
    if path.suffix != ".parquet":
        raise EvaluationError(f"{path}: expected a name that ends in .npz or .parquet")
    _pyarrow("pyarrow")
    return _write_parquet


def _write_npz(file: IO[bytes], embeddings: Embeddings) -> None:
    np.savez(
        file,
        features=embeddings.features,
        keys=np.array(embeddings.keys, dtype=np.str_),
        labels=embeddings.labels,
    )


def _read_npz(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["keys"].reshape(-1).tolist(), arrays["features"].astype(np.float32)


def _write_parquet(file: IO[bytes], embeddings: Embeddings) -> None:
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    width = embeddings.features.shape[1]
    flat = arrow.array(embeddings.features.reshape(-1))
    table = arrow.table(
        {
            "key": [key.encode("utf-8", "backslashreplace").decode() for key in embeddings.keys],
            "label": embeddings.labels,
            "embedding": arrow.FixedSizeListArray.from_arrays(flat, width),
        }
    )
    parquet.write_table(table, file, write_page_checksum=True)


def _read_parquet(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    read_table = _pyarrow("pyarrow.parquet").read_table
    table = read_table(path, columns=["key", "embedding"], page_checksum_verification=True)
    keys: list[str] = table["key"].to_pylist()
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return keys, flat.astype(np.float32).reshape(len(keys), -1)


def _pyarrow(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvaluationError(
            "a .parquet file needs pyarrow; pip install pyarrow, or choose .npz"
        ) from error
