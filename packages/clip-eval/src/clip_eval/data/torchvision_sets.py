"""CIFAR-10 and CIFAR-100 as torchvision stores them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from PIL import Image

from clip_eval.data.faults import DataError
from clip_eval.data.samples import Sample, describe
from clip_eval.data.templates import DEFAULT_TEMPLATES, check_templates

SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}


class TorchvisionSet:
    """One of torchvision's data sets: read from disk if it is there, else downloaded.

    Args:
        kind: ``cifar10`` or ``cifar100``.
        root: Where its files are or shall be; ``~/.cache/clip-eval`` (or below
            ``XDG_CACHE_HOME``) if None.
        classnames: Class names in label order, instead of torchvision's.
        templates: Caption templates.
        split: ``test`` (the default) or ``train``.
        download: Whether it is downloaded where it is not on disk.

    Raises:
        DataError: Not on disk and not to be downloaded, or a wrong split or class list.
    """

    def __init__(
        self,
        kind: str,
        root: str | Path | None = None,
        *,
        classnames: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        split: str | None = None,
        download: bool = True,
    ) -> None:
        self.split = "test" if split in (None, "val") else split
        if self.split not in ("train", "test"):
            raise DataError(f"{kind}: expected split 'train' or 'test', got {split!r}")
        self.kind = kind
        self.root = Path(root) if root else _cache_directory()
        self.name = f"{kind}/{self.split}"
        self.templates = None if templates is None else check_templates(templates)
        self._data: Any = self._open(download)
        own = tuple(name.replace("_", " ") for name in self._data.classes)
        if classnames is not None and len(classnames) != len(own):
            raise DataError(
                f"{kind}: expected {len(own)} class names in label order, got {len(classnames)}"
            )
        self.classnames: tuple[str, ...] | None = tuple(classnames) if classnames else own
        self.labels: list[int] = [int(label) for label in self._data.targets]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Without the pixels; a worker reads them itself."""
        return {**self.__dict__, "_data": None}

    def label(self, index: int) -> int:
        """Label of one image."""
        return self.labels[index]

    def read(self, index: int) -> Sample:
        """The image, already decoded; captions are the filled templates."""
        if self._data is None:
            self._data = self._open(download=False)
        label = self.labels[index]
        assert self.classnames is not None
        captions = describe(self.classnames[label], self.templates or DEFAULT_TEMPLATES)
        image = Image.fromarray(self._data.data[index])
        return Sample(f"{self.split}/{index:05d}", image, captions, label)

    def _open(self, download: bool) -> Any:
        import torchvision.datasets

        build = getattr(torchvision.datasets, SETS[self.kind])
        train = self.split == "train"
        with contextlib.redirect_stdout(io.StringIO()):
            with contextlib.suppress(RuntimeError):  # torchvision's word for "not on disk"
                return build(str(self.root), train=train, download=False)
            if not download:
                raise DataError(f"{self.kind}: not found in {self.root}")
            try:
                return build(str(self.root), train=train, download=True)
            except (URLError, OSError, RuntimeError) as error:
                cause = getattr(error, "reason", None) or error
                raise DataError(
                    f"{self.kind}: not found in {self.root}, and the download failed ({cause}); "
                    f"put torchvision's files there, or give {self.kind}:DIR"
                ) from error


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "clip-eval"
