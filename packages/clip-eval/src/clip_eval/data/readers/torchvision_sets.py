"""CIFAR-10 and CIFAR-100 as torchvision stores them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from clip_eval.data.class_names import ClassNames, choose_names
from clip_eval.data.faults import DataError
from clip_eval.data.samples import Sample, Source
from clip_eval.data.splits import TEST, TRAIN, VALIDATION, resolve_split
from clip_eval.data.storage import cache_directory
from clip_eval.data.templates import choose_templates


class TorchvisionSet(Source):
    """One of torchvision's data sets: read from disk if it is there, else downloaded.

    A subclass names the data set: `kind`, and torchvision's class as `dataset`.

    Args:
        root: Directory of its files; `~/.cache/clip-eval` (or below `XDG_CACHE_HOME`) if empty.
        classnames: Class names in label order, instead of torchvision's.
        templates: Caption templates.
        split: `test` or `train`; there is no validation split, so that `val` is `test`.
        default_split: `train` for the split that training reads, instead of evaluation's.
        download: Whether it is downloaded where it is not on disk.

    Raises:
        DataError: Not on disk and not to be downloaded, or a wrong split or class list.
    """

    dataset: type[CIFAR10]
    splits = (TEST, TRAIN)

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        classnames: ClassNames | None = None,
        templates: Sequence[str] | None = None,
        split: str | None = None,
        default_split: str | None = None,
        download: bool = True,
    ) -> None:
        asked = TEST if split in ("val", VALIDATION) else split
        self.split = resolve_split(self.splits, asked, default_split=default_split, where=self.kind)
        self.root = Path(root) if root else cache_directory()
        self.name = f"{self.kind}/{self.split}"
        self.templates = choose_templates(templates)
        self._data: Any = self._open(download)
        found = tuple(name.replace("_", " ") for name in self._data.classes)
        self.classnames = choose_names(found, classnames, where=self.kind)
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
        label, key = self.labels[index], f"{self.split}/{index:05d}"
        image = Image.fromarray(self._data.data[index])
        return Sample(key, image, self.class_captions(label, key), label)

    def _open(self, download: bool) -> Any:
        train = self.split == "train"
        with contextlib.redirect_stdout(io.StringIO()):
            with contextlib.suppress(RuntimeError):  # torchvision's error for "not on disk"
                return self.dataset(str(self.root), train=train, download=False)
            if not download:
                raise DataError(f"{self.kind}: not found in {self.root}")
            try:
                return self.dataset(str(self.root), train=train, download=True)
            except (URLError, OSError, RuntimeError) as error:
                cause = getattr(error, "reason", None) or error
                raise DataError(
                    f"{self.kind}: not found in {self.root}, and the download failed ({cause}); "
                    f"put torchvision's files there, or give {self.kind}:DIR"
                ) from error


class Cifar10(TorchvisionSet):
    """CIFAR-10."""

    kind, dataset = "cifar10", CIFAR10


class Cifar100(TorchvisionSet):
    """CIFAR-100."""

    kind, dataset = "cifar100", CIFAR100
