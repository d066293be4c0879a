"""A sample, and what every data source offers: random access to samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clip_eval.data.bounds import SAMPLE, check_captions, raise_bad_sample, read_bounded
from clip_eval.data.faults import BadSample, DataError, Fault
from clip_eval.data.labels import LABELS_CHECKED, MOST_CLASSES, require_class, spread
from clip_eval.data.templates import DEFAULT_TEMPLATES, fill_templates


@dataclass(frozen=True)
class Sample:
    """One image with its captions and labels.

    Attributes:
        key: Name of the sample within its source, for messages and logs.
        image: The encoded file, or an image that is already decoded.
        captions: Captions found with the image; for a labeled image without any, its class
            name put into each template of the source.
        label: Index into the source's class names, or None.
        targets: All classes of an image that may have several (none, one or more), as indices
            into the source's class names; None where the data is not multi-label.
    """

    key: str
    image: bytes | Image.Image
    captions: tuple[str, ...] = ()
    label: int | None = None
    targets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the length of the captions and the range of the labels.

        Raises:
            BadSample: A reader found what no caption or label can be.
        """
        check_captions(self.captions, self.key)
        for label in (self.label, *(self.targets or ())):
            if label is not None and abs(label) > MOST_CLASSES:
                raise BadSample("bad-label", "larger than any number of classes", self.key)


PATHS_CHECKED = 20


class Source(ABC):
    """Samples by index: the base class of every reader.

    A reader defines `__len__` and `read`, and sets the attributes that its data has; the others
    keep their defaults. It is pickled into worker processes and opens its files there, when a
    sample is read.

    Attributes:
        kind: Kind of the data, as in `clip_eval.data.formats`; empty for a reader without one.
        name: What to call the data in a table.
        split: The split that is read, where the data tells one.
        splits: All splits that the data has, as far as the reader sees them.
        classnames: Class names in label order; None where samples carry no labels.
        templates: Caption templates that come with the data, `{c}` for the class name.
        faults: Damage found while listing the data.
        warnings: What the owner of the data should know, one sentence each.
        shard_sizes: Number of samples in each of the files that are best read one after the other,
            in the order of the indices; None where any order is as fast.
        working_set: Number of samples that the reader can hold in memory, where that is few.
        exif_orientation: Whether images are turned upright, as their EXIF says, when decoded.
    """

    kind: str = ""
    name: str = "data"
    split: str | None = None
    splits: tuple[str, ...] = ()
    classnames: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()
    shard_sizes: tuple[int, ...] | None = None
    working_set: int | None = None
    exif_orientation: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Sample number `index`.

        Raises:
            BadSample: This one sample cannot be read.
        """

    def label(self, index: int) -> int | None:
        """Label of sample `index`; readers that know it without reading the sample override this.

        Raises:
            BadSample: The sample cannot be read.
        """
        return self.read(index).label

    def probe(self, limit: int) -> Sequence[int]:
        """Indices of at most `limit` samples to look at before all are read, evenly spaced."""
        return spread(len(self), limit)

    def check_labels(self, limit: int = LABELS_CHECKED) -> None:
        """Read some labels, so that a wrong list of classes is known before work begins.

        Args:
            limit: Most samples to read.

        Raises:
            DataError: A label is in no class.
        """
        for index in self.probe(limit) if self.classnames else ():
            try:
                label = self.label(index)
            except BadSample:
                continue
            if label is not None and self.classnames:
                require_class(label, len(self.classnames), where=self.place(index))

    def place(self, index: int) -> str:
        """Where sample `index` is read from, for people; nothing is read."""
        return f"{self.name}, sample {index}"

    def describe(self) -> str:
        """Name, number of samples and split in one line."""
        split = f", split {self.split}" if self.split else ""
        others = [name for name in self.splits if name != self.split]
        rest = f" (not read: {', '.join(others)})" if others else ""
        return f"{self.name}: {len(self):,} samples{split}{rest}"

    def class_captions(self, label: int | None, key: str) -> tuple[str, ...]:
        """Captions of a labeled sample that has none: its class name in each template.

        Raises:
            DataError: The label is in no class, so that the list is wrong.
        """
        return class_captions(label, self.classnames, self.templates, key)


class ImagePaths(Source):
    """Images in files below a directory: the base class of readers that list them.

    Attributes:
        image_root: The directory.
        paths: Path of each image below it, which is the key of the sample too.
        labels: Label of each image, None for one without; empty where there are none.
        targets: All classes of each image that may have several; empty where there are none.
        captions: Captions of each image; empty where there are none.
    """

    image_root: Path
    paths: Sequence[str]
    labels: Sequence[int | None] = ()
    targets: Sequence[tuple[int, ...]] = ()
    captions: Sequence[tuple[str, ...]] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def label(self, index: int) -> int | None:
        """Label of one image, without opening it."""
        return self.labels[index] if self.labels else None

    def read(self, index: int) -> Sample:
        """The encoded image; one with a label but no caption gets the filled templates.

        Raises:
            BadSample: The file cannot be read.
        """
        path, label = self.paths[index], self.label(index)
        data = read_image_file(self.image_root / path, path)
        captions = self.captions[index] if self.captions else ()
        targets = self.targets[index] if self.targets else None
        return Sample(path, data, captions or self.class_captions(label, path), label, targets)

    def check_paths(self) -> None:
        """Look for some images, so that a wrong directory is known before work begins.

        Raises:
            DataError: None of them is there.
        """
        require_some_image(self.name, self.image_root, self.paths)


def require_some_image(name: str, root: Path, paths: Sequence[str]) -> None:
    """Check that one of some evenly spaced images is there.

    Args:
        name: The data set, for the message.
        root: Directory of the images.
        paths: Their paths below it.

    Raises:
        DataError: None is.
    """
    looked_for = [paths[index] for index in spread(len(paths), PATHS_CHECKED)]
    if looked_for and not any((root / path).is_file() for path in looked_for):
        raise DataError(
            f"{name}: none of {len(looked_for)} images that were looked for is in "
            f"{root.absolute()}, such as {looked_for[0]}; name the directory of the images with "
            "--image-root (clip-train: --data.image_root)"
        )


def read_image_file(path: Path, key: str) -> bytes:
    """The bytes of an image that lies on disk.

    Raises:
        BadSample: The file cannot be read, is no regular file, or is too large.
        MachineError: The machine has run out of something.
    """
    try:
        return read_bounded(path, SAMPLE)
    except ValueError as error:  # a path with a zero byte
        raise BadSample("unreadable", str(error), key) from error
    except OSError as error:
        raise_bad_sample(error, key)


def locate(first: Sequence[int], index: int) -> tuple[int, int]:
    """The part that an index lies in, and its number there.

    Args:
        first: First index of each part, and one more for the end.
        index: Index over all parts.

    Raises:
        IndexError: It is beyond the last part, or negative.
    """
    if not 0 <= index < first[-1]:
        raise IndexError(f"sample {index} of {first[-1]}")
    part = bisect_right(first, index) - 1
    return part, index - first[part]


def class_captions(
    label: int | None,
    classnames: tuple[str, ...] | None,
    templates: tuple[str, ...] | None,
    key: str,
) -> tuple[str, ...]:
    """The name of a label's class in each template; nothing without a label or class names.

    Args:
        label: Index into the class names.
        classnames: Class names in label order.
        templates: Caption templates; `DEFAULT_TEMPLATES` if None.
        key: Names the sample in an error.

    Raises:
        DataError: The label is in no class, so that the list is wrong.
    """
    if label is None or classnames is None:
        return ()
    require_class(label, len(classnames), where=key)
    return fill_templates(classnames[label], templates or DEFAULT_TEMPLATES)
