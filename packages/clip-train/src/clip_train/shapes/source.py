"""The procedural shapes as a source that is drawn when it is read: `shapes:NUMBER[@SIZE]`."""

from __future__ import annotations

import re

from clip_eval.data import Sample, Source
from clip_models import ConfigError

from clip_train.shapes.drawing import MIN_IMAGE_SIZE
from clip_train.shapes.splits import draw_training_sample

_FORM = re.compile(r"shapes:(\d+)(?:@(\d+))?")


def is_shapes(spec: str) -> bool:
    """Whether a description of data asks for shapes."""
    return _FORM.fullmatch(spec) is not None


class ShapesSource(Source):
    """Image–caption pairs of colored shapes, the same as `clip-train data shapes` writes.

    Args:
        num_samples: Number of pairs.
        image_size: Side in pixels.
        seed: Random seed of all of them.
    """

    kind = "shapes"

    def __init__(self, num_samples: int, image_size: int = 64, seed: int = 0) -> None:
        self.num_samples, self.image_size, self.seed = num_samples, image_size, seed
        self.name = f"shapes:{num_samples}@{image_size}"

    @classmethod
    def of(cls, spec: str) -> ShapesSource:
        """The source of a description such as `shapes:20000@64`.

        Raises:
            ConfigError: It asks for no samples, or for too small ones.
        """
        match = _FORM.fullmatch(spec)
        assert match is not None
        num_samples, image_size = int(match[1]), int(match[2] or 64)
        if num_samples < 1 or image_size < MIN_IMAGE_SIZE:
            raise ConfigError(
                f"{spec!r}: expected at least 1 sample of at least {MIN_IMAGE_SIZE} pixels a side"
            )
        return cls(num_samples, image_size)

    def __len__(self) -> int:
        """Number of samples."""
        return self.num_samples

    def read(self, index: int) -> Sample:
        """Draw sample `index`."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        image, caption = draw_training_sample(index, image_size=self.image_size, seed=self.seed)
        return Sample(f"{index:09d}", image, (caption,))
