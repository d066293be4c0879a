"""Single image files, without labels, as a source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clip_eval.data.faults import DataError
from clip_eval.data.images import IMAGE_SUFFIXES
from clip_eval.data.patterns import missing_path
from clip_eval.data.samples import ImagePaths


class ImageFiles(ImagePaths):
    """Image files, and the images in directories, in the order they are given.

    Args:
        paths: Files and directories.
        recursive: Whether images below a directory's directories count too; hidden ones do not.

    Raises:
        DataError: A path is empty or does not exist, or there is no image at all.
    """

    def __init__(self, paths: Iterable[str | Path], *, recursive: bool = False) -> None:
        self.image_root = Path()
        given = list(paths)
        if not all(str(path).strip() for path in given):
            raise DataError("expected the path of an image or directory, got an empty text")
        self.paths = [str(file) for path in given for file in _files_of(Path(path), recursive)]
        if not self.paths:
            raise DataError("expected at least one image file, got none")
        self.name = f"{len(self.paths)} files"


def _files_of(path: Path, recursive: bool) -> list[Path]:
    if path.is_dir():
        files = path.rglob("*") if recursive else path.iterdir()
        images = (p for p in files if p.suffix.lower() in IMAGE_SUFFIXES)
        found = sorted(p for p in images if not _is_hidden(p.relative_to(path)))
        if not found:
            raise DataError(f"{path}: no image in this directory")
        return found
    if not path.exists():
        raise missing_path(path)
    return [path]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
