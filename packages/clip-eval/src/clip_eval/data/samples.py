"""A sample, and what every data source offers: random access to samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from clip_eval.data.faults import Fault


@dataclass(frozen=True)
class Sample:
    """One image with what is known of it.

    Attributes:
        key: Names the sample within its source, for people and for logs.
        image: The encoded file, or an image that is already decoded.
        captions: Captions found with the image; for a labelled image without any, its class
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


@runtime_checkable
class Source(Protocol):
    """Samples by index.  Pickles into worker processes; opens its files there, when asked.

    A source may also have ``faults`` (damage found while listing), ``warnings`` (what its owner
    should know), ``label(index)`` (a label read without its image), ``shard_sizes`` (samples in
    each of the files that it reads best one after the other) and ``place(index)`` (the file of a
    sample, found without reading it).
    """

    @property
    def name(self) -> str:
        """What to call the data in a table."""

    @property
    def classnames(self) -> tuple[str, ...] | None:
        """Class names in label order; None where samples carry no labels."""

    @property
    def templates(self) -> tuple[str, ...] | None:
        """Caption templates that come with the data, ``{c}`` for the class name."""

    def __len__(self) -> int:
        """Number of samples."""

    def read(self, index: int) -> Sample:
        """Sample number ``index``.

        Raises:
            BadSample: This one sample cannot be read.
        """


def source_faults(source: Source) -> tuple[Fault, ...]:
    """Damage that a source found while listing its files."""
    return tuple(getattr(source, "faults", ()))


def source_warnings(source: Source) -> tuple[str, ...]:
    """What a source wants its owner to know."""
    return tuple(getattr(source, "warnings", ()))


def source_shards(source: Source) -> tuple[int, ...] | None:
    """Number of samples in each shard of a source, in order; None where it has no shards."""
    return getattr(source, "shard_sizes", None)


def source_place(source: Source, index: int) -> str:
    """Where sample ``index`` is read from, for people."""
    place = getattr(source, "place", None)
    return str(place(index)) if place else f"{source.name}, sample {index}"


def describe(classname: str, templates: Sequence[str]) -> tuple[str, ...]:
    """The class name put into each template (distinct captions, first order kept)."""
    return tuple(dict.fromkeys(template.replace("{c}", classname) for template in templates))
