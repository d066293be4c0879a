"""Parquet files of paths and captions, or with the images inside.

Needs pyarrow (`pip install "clip-eval[parquet]"`). Row groups are the shards: a row is read by
reading its row group, and as many of those are kept as `CACHE_BYTES` hold.
"""

from __future__ import annotations

import errno
import importlib
import json
from collections.abc import Collection, Sequence
from itertools import accumulate
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_eval.data.bounds import (
    MEGABYTE,
    Bound,
    open_regular,
    raise_bad_sample,
    refuse_exhaustion,
)
from clip_eval.data.class_names import ClassList, choose_names
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.lru_cache import LRUCache
from clip_eval.data.patterns import GLOB, match_files
from clip_eval.data.readers.tables import (
    CAPTION_COLUMNS,
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMN,
    TableOptions,
    find_column,
    label_table,
    require_columns,
    resolve_classes,
    values_of,
)
from clip_eval.data.samples import Sample, Source, locate, read_image_file, require_some_image
from clip_eval.data.splits import (
    choose_files,
    group_by_split,
    resolve_split,
    role_of,
    split_of_files,
    split_of_folder,
    warn_of_split,
)
from clip_eval.data.templates import choose_templates

CACHE_BYTES = 512 * 2**20
ROWS_AT_ONCE = 64
GROUP = Bound("CLIP_EVAL_MAX_ROW_GROUP_MB", 1024, MEGABYTE)
"""All rows of a row group, decoded."""
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
MORE_CAPTION_COLUMNS = ("captions", "txt", "texts")
NAME_COLUMNS = ("key", "__key__", "id", "image_id", "file_name", "filename")


class RowGroup(NamedTuple):
    """A stretch of rows that is read at once."""

    file: int
    number: int  # within the file
    rows: int
    bytes: int  # uncompressed


class ParquetTable(Source):
    """One sample per row, by index.

    The image is bytes, a struct with `bytes` (as Hugging Face's datasets write it), or a path
    relative to the file; the caption a string or a list of them; the label a number or a name, or a
    list of several. Columns are found by common names; one called `split` tells the split.

    Args:
        pattern: A file, a directory (as Hugging Face's hub lays them out), a glob or a brace
            range.
        options: Options of `clip_eval.data.readers.tables.TableOptions`; class names are those in
            the file's own metadata where none are given.

    Raises:
        DataError: No such file, no usable column, or no rows.
    """

    kind = "parquet"
    options_type = TableOptions

    def __init__(self, pattern: str | Path, **options: Any) -> None:
        found = TableOptions(**options)
        asked, default_split = found.split, found.default_split
        files, chosen, splits, is_named = _find_files(str(pattern), asked, default_split)
        self.files, folder = tuple(files), files[0].parent
        self.name = files[0].stem if len(files) == 1 else folder.resolve().name
        if len(files) > 1 and not is_named and role_of(folder.name) is None:
            self.name = "/".join(filter(None, (self.name, chosen)))
        self.split = chosen or split_of_folder(folder) or None
        self.splits = tuple(sorted(filter(None, splits)))
        self.warnings = warn_of_split(
            chosen, splits, asked=chosen if is_named else asked, default_split=default_split
        )
        self.image_root = Path(found.image_root) if found.image_root else folder
        schema, self._groups = _list_row_groups(self.files)
        self._too_large: dict[int, OSError] = {}
        self._first = list(accumulate((group.rows for group in self._groups), initial=0))
        self._set_columns(schema, found)
        if not self._first[-1]:
            raise DataError(f"{pattern}: no rows")
        self._kept = self._choose_rows(schema, found)
        self._set_labels(schema, found)
        self.templates = choose_templates(found.templates, folder)
        self._rows = LRUCache(
            self._read_rows, CACHE_BYTES if self.holds_images else None, _count_bytes
        )
        if self.holds_images:  # rows without images are short: all are kept, in any order
            sizes = self._sizes()
            self.shard_sizes = tuple(size for size in sizes if size)
            share = CACHE_BYTES / 2 / max(1, sum(group.bytes for group in self._groups))
            self.working_set = max(max(sizes), int(len(self) * share))
        else:
            self._check_paths()

    def _choose_rows(self, schema: Any, options: TableOptions) -> NDArray[np.int64] | None:
        """Numbers of the rows of one split, where a column tells several; None for all."""
        column = find_column(schema.names, (SPLIT_COLUMN,))
        if column is None or "string" not in str(schema.field(column).type):
            if options.split is not None and self.split is None:
                resolve_split([""], options.split, where=self.files[0])
            return None
        names = np.array([str(name or "") for name in self._read_column(column)])
        asked, default_split = options.split, options.default_split
        available = sorted(set(names.tolist()))
        if len(available) == 1 and self.split is not None:
            return None
        chosen = [
            resolve_split(available, part, default_split=default_split, where=self.files[0])
            for part in (asked.split("+") if asked else (None,))
        ]
        self.split = "+".join(chosen) or None
        self.splits = tuple(filter(None, available))
        self.name = "/".join(filter(None, (self.name, self.split)))
        self.warnings = warn_of_split(
            chosen[0], available, asked=asked, default_split=default_split
        )
        return np.flatnonzero(np.isin(names, chosen))

    def _sizes(self) -> list[int]:
        """Number of rows that are read of each row group."""
        if self._kept is None:
            return [group.rows for group in self._groups]
        edges = np.searchsorted(self._kept, self._first)
        return np.diff(edges).astype(int).tolist()

    def _set_labels(self, schema: Any, options: TableOptions) -> None:
        """Class names, and the class of each distinct label."""
        self._label_of: dict[str, int] = {}
        self.classnames = None
        if self.label_column is None:
            self.classnames = choose_names(None, options.classnames, where=f"{self.files[0]}")
            return
        labels = {tuple(values_of(value)) for value in self._read_column(self.label_column)}
        known = _class_names(schema, self.label_column)
        given = options.classnames
        if known is not None:
            given = ClassList.of(choose_names(known, given, where=f"{self.files[0]}") or ())
        classes = resolve_classes(
            (value for values in labels for value in values),
            given,
            where=self.files[0],
            is_needed=False,
        )
        if classes is None:
            return
        self.classnames = classes.names
        first = options.first_label or 0
        self._label_of = label_table(labels, classes, first, where=self.files[0])

    def _read_column(self, name: str) -> list[Any]:
        """A column of all files; the others are not read."""
        found: list[Any] = []
        for path in self.files:
            with open(open_regular(path), "rb") as stream, _parquet().ParquetFile(stream) as opened:
                found += opened.read(columns=[name]).column(0).to_pylist()
        return found

    def _check_paths(self) -> None:
        """Look for some images, so that a wrong directory is known before work begins.

        Raises:
            DataError: None of them is there.
        """
        paths = [path for path in self._read_column(self.image_column) if path]
        require_some_image(self.name, self.image_root, paths)

    def __len__(self) -> int:
        """Number of rows."""
        return self._first[-1] if self._kept is None else len(self._kept)

    def _locate(self, index: int) -> tuple[int, int]:
        """The row group of a sample, and its row in it."""
        if self._kept is None:
            return locate(self._first, index)
        if not 0 <= index < len(self._kept):
            raise IndexError(f"sample {index} of {len(self._kept)}")
        return locate(self._first, int(self._kept[index]))

    def place(self, index: int) -> str:
        """The file of a row and its row group."""
        group, row = self._locate(index)
        file, number, *_ = self._groups[group]
        return f"{self.files[file].name}, row group {number}, row {row}"

    def read(self, index: int) -> Sample:
        """Sample number `index`, in the order of the files.

        Raises:
            BadSample: The file or the image cannot be read, or the row has no image.
        """
        group, number = self._locate(index)
        where = self.place(index)
        try:
            row = {name: column[number].as_py() for name, column in self._rows.get(group).items()}
        except OSError as error:
            raise_bad_sample(error, where)
        except Exception as error:  # of a damaged file, pyarrow raises nearly everything
            raise BadSample("unreadable", " ".join(str(error).split())[:200], where) from error
        named = row.get(self.name_column) if self.name_column else None
        key = f"{where} ({named})" if named is not None else where
        image = self._image(row[self.image_column], key)
        text = row.get(self.caption_column) if self.caption_column else None
        texts = [text] if isinstance(text, str) else text or ()
        captions = tuple(t.strip() for t in texts if isinstance(t, str) and t.strip())
        value = row.get(self.label_column) if self.label_column else None
        label, targets = self._labels_of(value)
        return Sample(key, image, captions or self.class_captions(label, key), label, targets)

    def _labels_of(self, value: Any) -> tuple[int | None, tuple[int, ...] | None]:
        """The class of a row, or all of its classes where it has a list."""
        if self.classnames is None:  # numbers without names stay as they are
            return (value, None) if isinstance(value, int) else (None, None)
        found = tuple(sorted({self._label_of[text] for text in values_of(value)}))
        if isinstance(value, list | tuple) or len(found) > 1:
            return None, found
        return (found[0] if found else None), None

    def _image(self, value: Any, key: str) -> bytes:
        path = value.get("path") if isinstance(value, dict) else value
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return content
        if not isinstance(path, str) or not path:
            raise BadSample("no-image", "the row has neither bytes nor a path", key)
        return read_image_file(self.image_root / path, path)

    def _read_rows(self, group: int) -> dict[str, Any]:
        """The columns of a row group; one that was too large once is not read again."""
        file, number, *_ = self._groups[group]
        if group in self._too_large:
            raise self._too_large[group]
        parts, size = [], 0
        with _parquet().ParquetFile(self.files[file]) as opened:
            batches = opened.iter_batches(
                batch_size=ROWS_AT_ONCE, row_groups=[number], columns=list(self._columns)
            )
            for part in batches:  # a value that is stored once may fill every row
                size += part.nbytes
                if size > GROUP.value():
                    self._too_large[group] = OSError(
                        errno.EFBIG,
                        f"a row group of more than {GROUP.variable}="
                        f"{GROUP.value() // MEGABYTE} allows",
                    )
                    raise self._too_large[group]
                parts.append(part)
        table = importlib.import_module("pyarrow").Table.from_batches(parts)
        return {name: table.column(name) for name in self._columns}

    def _set_columns(self, schema: Any, options: TableOptions) -> None:
        names = list(schema.names)
        where = self.files[0]
        image_key, caption_key = options.image_key, options.caption_key
        label_key = options.label_key
        require_columns(names, (image_key, caption_key, label_key), where)
        known = (*IMAGE_COLUMNS, *PATH_COLUMNS)
        image = image_key or find_column(names, known)
        if image is None:
            hint = "; it has only addresses (`url`), download the images first" * ("url" in names)
            raise DataError(
                f"{where}: expected a column of images or paths called one of {', '.join(known)}; "
                f"its columns are {', '.join(names)}{hint}"
            )
        self.image_column = image
        self.caption_column = caption_key or find_column(
            names, (*CAPTION_COLUMNS, *MORE_CAPTION_COLUMNS)
        )
        label = label_key or find_column(names, LABEL_COLUMNS)
        kind = "" if label is None else str(schema.field(label).type)
        is_label = any(word in kind for word in ("int", "string", "float", "double"))
        self.label_column = label if is_label and "struct" not in kind else None
        name = find_column(names, NAME_COLUMNS)
        self.name_column = name if name != image else None
        if self.caption_column is None and self.label_column is None:
            raise DataError(
                f"{where}: expected a column of captions ({', '.join(CAPTION_COLUMNS)}) or "
                f"labels ({', '.join(LABEL_COLUMNS)}); its columns are {', '.join(names)}"
            )
        found = (image, self.caption_column, self.label_column, self.name_column)
        self._columns = tuple(dict.fromkeys(name for name in found if name))
        self.holds_images = "string" not in str(schema.field(image).type).partition("<")[0]


def _list_row_groups(files: Sequence[Path]) -> tuple[Any, list[RowGroup]]:
    """The schema of the first file, and the row groups of all files."""
    arrow = _parquet()
    groups: list[RowGroup] = []
    schema: Any = None
    for file, path in enumerate(files):
        try:
            with open(open_regular(path), "rb") as stream, arrow.ParquetFile(stream) as opened:
                schema = opened.schema_arrow if schema is None else schema
                found = [
                    opened.metadata.row_group(number)
                    for number in range(opened.metadata.num_row_groups)
                ]
                groups += [
                    RowGroup(file, number, group.num_rows, group.total_byte_size)
                    for number, group in enumerate(found)
                ]
        except OSError as error:
            refuse_exhaustion(error, str(path))
            detail = error.strerror or error
            raise DataError(f"{path}: no Parquet file ({detail})") from error
        except Exception as error:  # pyarrow has errors of its own beside OSError
            raise DataError(f"{path}: no Parquet file ({error})") from error
        rows = sum(group.rows for group in groups if group.file == file)
        if rows > path.stat().st_size or any(group.rows < 0 for group in groups):
            raise DataError(f"{path}: no Parquet file of samples ({rows:,} rows in few bytes)")
    return schema, groups


def _count_bytes(rows: dict[str, Any]) -> int:
    return sum(column.nbytes for column in rows.values())


def _class_names(schema: Any, label: str | None) -> tuple[str, ...] | None:
    """Names that Hugging Face's datasets keep in the metadata of a file."""
    content = (schema.metadata or {}).get(b"huggingface")
    if not content or not label:
        return None
    try:
        names = json.loads(content)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return ClassList.of([str(name) for name in names]).names if isinstance(names, list) else None


class _Found(NamedTuple):
    """Files in order, and their split."""

    files: list[Path]
    split: str
    splits: Collection[str] = ()
    is_named: bool = False  # the split of files that were named one by one is not a choice


def _find_files(pattern: str, split: str | None, default_split: str | None) -> _Found:
    root = Path(pattern)
    if root.is_dir():
        files = sorted(root.glob("*.parquet")) or sorted(root.rglob("*.parquet"))
    else:
        files = match_files(pattern)
        if not GLOB.search(pattern):
            found = split_of_files(files)
            if split is not None and found:
                resolve_split([found], split, where=pattern)
            return _Found(files, found, is_named=True)
        root = Path(commonpath(file.parent for file in files))
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise DataError(f"{pattern}: no Parquet files in it")
    groups = group_by_split(files, root)
    asked = split if any(groups) else None  # else a column may tell it
    chosen, files = choose_files(groups, asked, default_split=default_split, where=pattern)
    folders = sorted({file.parent for file in files})
    if len(folders) > 1:
        names = ", ".join(map(str, folders))
        raise DataError(f"{pattern}: Parquet files in several directories ({names}); give one")
    return _Found(files, chosen, groups)


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            'reading Parquet needs pyarrow; `pip install "clip-eval[parquet]"`'
        ) from error
