"""Single image files, without labels, as a source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clip_eval.data.faults import DataError
from clip_eval.data.readers.image_folder import IMAGE_SUFFIXES
from clip_eval.data.samples import Sample, Source, read_image_file


class ImageFiles(Source):
    """Image files, and the images directly in directories, in the order they are given.

    Raises:
        DataError: A path does not exist, or there is no image at all.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths: Sequence[Path] = [file for path in paths for file in _files_of(Path(path))]
        if not self.paths:
            raise DataError("expected at least one image file, got none")
        self.name = f"{len(self.paths)} files"

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def read(self, index: int) -> Sample:
        """The encoded image, named by its path.

        Raises:
            BadSample: The file cannot be read.
        """
        path = self.paths[index]
        return Sample(str(path), read_image_file(path, str(path)))


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        files = (p for p in path.iterdir() if not p.name.startswith("."))
        found = sorted(p for p in files if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{path}: no image in this directory")
        return found
    if not path.exists():
        raise DataError(f"{path}: no such file")
    return [path]
