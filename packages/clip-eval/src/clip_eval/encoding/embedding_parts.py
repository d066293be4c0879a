"""Embeddings of many images in many files, made by any number of processes.

The samples of a source are cut into parts of equal length, and each part is one file that appears
whole or not at all. Which process makes a part follows from its number, and what is in it does not
depend on the process: nobody waits for anybody, a process that was killed is started again, and an
image that occurs in several parts counts once when they are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from clip_models.command_line import read_launch
from numpy.typing import NDArray

from clip_eval.data.samples import Source
from clip_eval.data.storage import atomic_path
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.embedding_files import (
    Embeddings,
    choose_writer,
    embed_source,
    read_one_file,
    write_embeddings,
)
from clip_eval.encoding.encoder import Encoder
from clip_eval.encoding.thumbnails import make_thumbnails
from clip_eval.errors import EvaluationError
from clip_eval.models.fingerprints import weights_fingerprint
from clip_eval.plurals import count_noun
from clip_eval.results.files import read_json

PLAN = "embeddings.json"
MOST_PARTS = 10**6
SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True)
class Parts:
    """How the samples of a source are cut into files.

    Attributes:
        data: Name of the source.
        samples: Their number.
        rows_per_file: Samples of a part; the last one may have fewer.
        suffix: `.npz` or `.parquet`.
        weights: Hash of the weights of the model.
        thumbnail: Side of the kept pictures in pixels, 0 for none.
        exif_orientation: Whether images are turned upright.
    """

    data: str
    samples: int
    rows_per_file: int
    suffix: str
    weights: str
    thumbnail: int = 0
    exif_orientation: bool = False

    def __len__(self) -> int:
        """Number of files."""
        return -(-self.samples // self.rows_per_file)

    def path(self, directory: Path, part: int) -> Path:
        """The file of a part."""
        return directory / f"part-{part:06d}-of-{len(self):06d}{self.suffix}"

    def indices(self, part: int) -> range:
        """The samples of a part."""
        return range(self.samples)[part * self.rows_per_file : (part + 1) * self.rows_per_file]


def plan_parts(
    encoder: Encoder, source: Source, *, rows_per_file: int, suffix: str, thumbnail: int = 0
) -> Parts:
    """How the embeddings of a source are cut into files.

    Raises:
        EvaluationError: There would be too many files, or they cannot be written.
    """
    weights = weights_fingerprint(encoder.model)
    sizes = (len(source), rows_per_file, suffix, weights, thumbnail, source.exif_orientation)
    parts = Parts(source.name, *sizes)
    if len(parts) > MOST_PARTS:
        raise EvaluationError(
            f"{len(parts):,} files are too many, expected at most {MOST_PARTS:,}; raise "
            "--rows-per-file"
        )
    choose_writer(Path(f"part{suffix}"))
    return parts


def open_parts(directory: Path, parts: Parts) -> None:
    """Write down how the parts are cut, or check that the directory is cut alike.

    Raises:
        EvaluationError: It holds other files, or parts of other data, weights or sizes.
    """
    plan = directory / PLAN
    if not plan.is_file():
        if directory.is_dir() and any(not p.name.startswith(".") for p in directory.iterdir()):
            raise EvaluationError(f"{directory} holds other files; choose another --out")
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(plan) as temporary:  # whoever comes second writes the same or is refused
            temporary.write_text(json.dumps(asdict(parts), indent=1), encoding="utf-8")
    found, wanted = asdict(read_parts(directory)), asdict(parts)
    for name, value in wanted.items():
        if found[name] != value:
            raise EvaluationError(
                f"{directory} holds parts with {name} {found[name]!r}, now it is {value!r}; choose "
                "another --out"
            )


def read_parts(directory: Path) -> Parts:
    """How the files of a directory are cut.

    Raises:
        EvaluationError: It is no directory of embeddings, or its plan is damaged.
    """
    values = read_json(directory / PLAN)
    try:
        parts = Parts(**values)
        numbers = (parts.samples, parts.rows_per_file)
        if not all(type(number) is int and number > 0 for number in numbers):
            raise ValueError
        if len(parts) > MOST_PARTS or parts.suffix not in SUFFIXES:
            raise ValueError
    except (TypeError, ValueError):
        raise EvaluationError(f"{directory / PLAN} does not say how embeddings are cut") from None
    return parts


def choose_task(text: str | None) -> tuple[int, int]:
    """Which of how many processes this one is, from 0.

    Args:
        text: `I/N` with I from 1; None asks the array of Slurm, then torchrun.

    Raises:
        EvaluationError: It is something else.
        LaunchError: torchrun's variables are no numbers.
    """
    if text is None:
        array = [os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT")]
        if array[0] is None:
            launch = read_launch()
            return launch.rank, launch.world_size
        task, first, count = array[0], array[1] or "0", array[2] or ""
        text = f"{int(task) - int(first) + 1}/{count}" if task.isdigit() and first.isdigit() else ""
    task, slash, count = text.partition("/")
    if not (slash and task.isdigit() and count.isdigit() and 1 <= int(task) <= int(count)):
        raise EvaluationError(
            f"expected the number of this process as I/N with I from 1 to N, got {text!r}; pass "
            "--task I/N"
        )
    return int(task) - 1, int(count)


def embed_parts(
    encoder: Encoder,
    source: Source,
    loader: LoaderConfig,
    directory: Path,
    parts: Parts,
    task: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Path, Embeddings]]:
    """Make the parts of one process that are missing; each with its file, after it was written."""
    own, processes = task
    for part in range(own, len(parts), processes):
        path = parts.path(directory, part)
        if path.is_file():
            continue
        found = embed_source(encoder, source, loader, only=parts.indices(part))
        if parts.thumbnail:
            made = make_thumbnails(source, found.indices, parts.thumbnail, progress=loader.progress)
            found = found._replace(thumbnails=tuple(made))
        write_embeddings(path, found._replace(weights=parts.weights))
        yield path, found


def missing_parts(directory: Path, parts: Parts) -> list[int]:
    """Numbers of the parts that have no file yet."""
    return [part for part in range(len(parts)) if not parts.path(directory, part).is_file()]


def read_all_parts(directory: Path) -> Embeddings:
    """All embeddings of a directory in the order of its source, each image once.

    Raises:
        EvaluationError: Parts are missing or damaged.
    """
    parts = read_parts(directory)
    missing = missing_parts(directory, parts)
    if missing:
        raise EvaluationError(
            f"{directory}: {count_noun(len(missing), 'part')} of {len(parts)} missing, the first "
            f"is {parts.path(directory, missing[0]).name}; run clip-eval embed again"
        )
    files = [read_one_file(parts.path(directory, part)) for part in range(len(parts))]
    files = [file for file in files if file.keys]
    if not files:
        raise EvaluationError(f"{directory}: none of its images could be used")
    seen: set[tuple[str, bytes]] = set()
    kept: list[tuple[Embeddings, list[int]]] = []
    for file in files:
        names = list(zip(file.keys, file.digests or [b""] * len(file.keys), strict=True))
        kept.append((file, [row for row, name in enumerate(names) if name not in seen]))
        seen.update(names)
    features = np.concatenate([file.features[rows] for file, rows in kept])
    return Embeddings(
        features,
        [file.keys[row] for file, rows in kept for row in rows],
        np.full(len(features), -1, dtype=np.int64),
        thumbnails=tuple(x.thumbnails[row] for x, rows in kept if x.thumbnails for row in rows),
        weights=parts.weights,
        exif_orientation=parts.exif_orientation,
    )


def read_embeddings(path: str | Path) -> tuple[list[str], NDArray[np.float32]]:
    """Read keys (N) and features (N, D) of a file or directory of `clip-eval embed`.

    Raises:
        EvaluationError: A file is damaged or of another format, or Parquet without pyarrow; of a
            directory, a part is missing.
        FileNotFoundError: The file does not exist.
    """
    found = read_embedding_file(path)
    return found.keys, found.features


def read_embedding_file(path: str | Path) -> Embeddings:
    """Read all that a file or directory of `clip-eval embed` holds, as `read_embeddings` does."""
    path = Path(path)
    return read_all_parts(path) if path.is_dir() else read_one_file(path)
