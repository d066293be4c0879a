"""Embeddings as files: `.npz` for NumPy, `.parquet` for tables."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
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

WEIGHTS = "clip_eval.weights"
"""Key of the hash of the weights in Parquet's metadata."""
EXIF = "clip_eval.exif_orientation"
"""Key in Parquet's metadata that says that images were turned upright."""
MOST_EXPANSION = 100  # times that a compressed file may grow
DAMAGED = (
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


class Embeddings(NamedTuple):
    """Embeddings of images or texts.

    Attributes:
        features: Unit vectors (N, D).
        keys: The name of each image, or each text.
        labels: The label of each image, -1 without one (N,).
        skipped: Images that could not be used; not in files.
        indices: Position of each image in its source; not in files.
        digests: Hash of each image, in the parts of a directory.
        thumbnails: A small JPEG of each image, or nothing.
        weights: Hash of the weights of the model that made them; empty where unknown.
        exif_orientation: Whether the images were turned upright, as their EXIF says.
    """

    features: NDArray[np.float32]
    keys: list[str]
    labels: NDArray[np.int64]
    skipped: tuple[Skipped, ...] = ()
    indices: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()
    thumbnails: tuple[bytes, ...] = ()
    weights: str = ""
    exif_orientation: bool = False


def embed_source(
    encoder: Encoder, source: Source, loader: LoaderConfig, *, only: Sequence[int] | None = None
) -> Embeddings:
    """Embed the images of a source, in order; an image with several rows is embedded once.

    Args:
        encoder: Embeds images.
        source: The images.
        loader: How the source is read.
        only: A part of its samples, of which it may be that none can be used; with digests.

    Raises:
        EvaluationError: No image can be used.
    """
    rows: list[NDArray[np.float32]] = []
    keys: list[str] = []
    labels: list[int] = []
    indices: list[int] = []
    skipped: list[Skipped] = []
    seen: dict[tuple[str, bytes], None] = {}
    with closing(embed_images([encoder], source, loader, indices=only)) as embedded:
        for batch, (features,) in embedded:
            for sample, row in zip(batch.samples, features.cpu().numpy(), strict=True):
                if (sample.key, sample.digest) not in seen:
                    seen[sample.key, sample.digest] = None
                    rows.append(row)
                    keys.append(sample.key)
                    indices.append(sample.index)
                    labels.append(-1 if sample.label is None else sample.label)
            skipped += batch.skipped
    if not rows and only is None:
        first = f"; {skipped[0].key}: {skipped[0].reason}, {skipped[0].detail}" if skipped else ""
        raise EvaluationError(
            f"{source.name}: none of {count_noun(len(source), 'image')} could be used{first}"
        )
    table = np.stack(rows) if rows else np.zeros((0, 1), dtype=np.float32)
    numbers = np.array(labels, dtype=np.int64)
    digests = () if only is None else tuple(digest for _, digest in seen)
    found = Embeddings(table, keys, numbers, tuple(skipped), tuple(indices), digests)
    return found._replace(exif_orientation=source.exif_orientation)


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


def read_one_file(path: Path) -> Embeddings:
    """Read everything that one file of `clip-eval embed` holds.

    Raises:
        EvaluationError: The file is damaged or of another format, or Parquet without pyarrow.
        FileNotFoundError: The file does not exist.
    """
    read = {".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix)
    if read is None:
        raise EvaluationError(f"{path}: expected a file of `clip-eval embed`, .npz or .parquet")
    try:
        found = read(path)
    except (EvaluationError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except DAMAGED as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"{path} is not a file of `clip-eval embed`: {reason}") from None
    if found.features.ndim != 2 or len(found.keys) != len(found.features):
        raise EvaluationError(
            f"{path}: expected a row of features for each of {len(found.keys)} keys, got an array "
            f"of shape {found.features.shape}"
        )
    if found.thumbnails and len(found.thumbnails) != len(found.keys):
        raise EvaluationError(
            f"{path}: expected a thumbnail for each of {len(found.keys)} keys, got "
            f"{len(found.thumbnails)}"
        )
    if found.digests and len(found.digests) != len(found.keys):
        raise EvaluationError(
            f"{path}: expected a hash for each of {len(found.keys)} keys, got {len(found.digests)}"
        )
    return found


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
    extra: dict[str, Any] = {}
    if embeddings.thumbnails:
        extra["thumbnails"] = np.frombuffer(b"".join(embeddings.thumbnails), dtype=np.uint8)
        extra["thumbnail_ends"] = np.cumsum(list(map(len, embeddings.thumbnails)))
    if embeddings.digests:
        digests = np.frombuffer(b"".join(embeddings.digests), dtype=np.uint8)
        extra["digests"] = digests.reshape(len(embeddings.digests), -1)
    if embeddings.weights:
        extra["weights"] = np.array(embeddings.weights)
    if embeddings.exif_orientation:
        extra["exif_orientation"] = np.array(True)
    np.savez(
        file,
        features=embeddings.features,
        keys=np.array(embeddings.keys, dtype=np.str_),
        labels=embeddings.labels,
        **extra,
    )


def _read_npz(path: Path) -> Embeddings:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MOST_EXPANSION * path.stat().st_size:
        raise ValueError(f"it would grow to {size:,} bytes")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        keys = arrays["keys"].reshape(-1).tolist()
        features = arrays["features"].astype(np.float32)
        weights = str(arrays["weights"]) if "weights" in arrays else ""
        upright = "exif_orientation" in arrays and bool(arrays["exif_orientation"].all())
        digests: tuple[bytes, ...] = ()
        if "digests" in arrays:
            digests = tuple(row.tobytes() for row in arrays["digests"].astype(np.uint8))
        pictures: tuple[bytes, ...] = ()
        if "thumbnails" in arrays and "thumbnail_ends" in arrays:
            data = arrays["thumbnails"].astype(np.uint8).tobytes()
            ends = arrays["thumbnail_ends"].reshape(-1).astype(np.int64).tolist()
            pictures = tuple(data[a:b] for a, b in zip([0, *ends], ends, strict=False))
    found = Embeddings(features, keys, _no_labels(keys), thumbnails=pictures, weights=weights)
    return found._replace(exif_orientation=upright, digests=digests)


def _no_labels(keys: list[str]) -> NDArray[np.int64]:
    return np.full(len(keys), -1, dtype=np.int64)


def _write_parquet(file: IO[bytes], embeddings: Embeddings) -> None:
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    width = embeddings.features.shape[1]
    flat = arrow.array(embeddings.features.reshape(-1))
    columns = {
        "key": [key.encode("utf-8", "backslashreplace").decode() for key in embeddings.keys],
        "label": embeddings.labels,
        "embedding": arrow.FixedSizeListArray.from_arrays(flat, width),
    }
    if embeddings.digests:
        columns["digest"] = arrow.array(embeddings.digests, type=arrow.binary())
    if embeddings.thumbnails:
        columns["thumbnail"] = arrow.array(embeddings.thumbnails, type=arrow.binary())
    table = arrow.table(columns)
    facts = {WEIGHTS: embeddings.weights, EXIF: "applied" if embeddings.exif_orientation else ""}
    known = {name: value for name, value in facts.items() if value}
    if known:
        table = table.replace_schema_metadata(known)
    parquet.write_table(table, file, write_page_checksum=True)


def _read_parquet(path: Path) -> Embeddings:
    parquet = _pyarrow("pyarrow.parquet")
    names = parquet.read_schema(path).names
    optional = [name for name in ("thumbnail", "digest") if name in names]
    columns = ["key", "embedding", *optional]
    table = parquet.read_table(path, columns=columns, page_checksum_verification=True)
    facts = table.schema.metadata or {}
    keys: list[str] = table["key"].to_pylist()
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    pictures: tuple[bytes, ...] = ()
    if "thumbnail" in names:
        pictures = tuple(picture or b"" for picture in table["thumbnail"].to_pylist())
    digests: tuple[bytes, ...] = ()
    if "digest" in names:
        digests = tuple(digest or b"" for digest in table["digest"].to_pylist())
    return Embeddings(
        flat.astype(np.float32).reshape(len(keys), -1),
        keys,
        _no_labels(keys),
        digests=digests,
        thumbnails=pictures,
        weights=facts.get(WEIGHTS.encode(), b"").decode(),
        exif_orientation=EXIF.encode() in facts,
    )


def _pyarrow(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvaluationError(
            "a .parquet file needs pyarrow; pip install pyarrow, or choose .npz"
        ) from error
