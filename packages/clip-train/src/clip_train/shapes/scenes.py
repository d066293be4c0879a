"""Procedural scenes and the random choices about them.

A scene is one object (shape, color, size, position, background) or two objects in a relation
("a red circle to the left of a blue square"). Captions and pictures take their choices from a
`Draws`, a stream keyed by (seed, split, index, purpose), so that every sample is a pure function
of its key, whichever samples were made before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

# Color name → hue in degrees, saturation, value. Backgrounds have no hue, so every color
# stands out from every background.
COLORS: Mapping[str, tuple[float, float, float]] = {
    "red": (2, 0.90, 0.90),
    "yellow": (52, 0.95, 0.97),
    "green": (128, 0.80, 0.70),
    "cyan": (182, 0.90, 0.90),
    "blue": (224, 0.85, 0.92),
    "purple": (276, 0.75, 0.72),
    "pink": (328, 0.55, 0.98),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
POSITIONS: Mapping[str, tuple[float, float]] = {  # center (x, y) as fractions of the side
    "top left": (0.26, 0.26),
    "top right": (0.74, 0.26),
    "bottom left": (0.26, 0.74),
    "bottom right": (0.74, 0.74),
    "center": (0.50, 0.50),
}
BACKGROUNDS = ("white", "gray", "black", "striped")
RELATIONS: Mapping[str, str] = {  # relation → relation seen from the other object
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
}
VALUES: Mapping[str, tuple[str, ...]] = {  # of each attribute
    "shape": SHAPES,
    "color": tuple(COLORS),
    "size": SIZES,
    "position": tuple(POSITIONS),
    "relation": tuple(RELATIONS),
    "background": BACKGROUNDS,
}
# Wordings of each value; the first one is used in class names and in half of the captions.
WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "large": ("large", "big", "huge"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "gray": ("gray", "grey"),
    "striped": ("striped", "stripy"),
    "center": ("in the center", "in the centre", "in the middle"),
    **{
        f"{row} {side}": tuple(
            form.format(row=word, side=side)
            for form in ("in the {row} {side} corner", "at the {row} {side}")
            for word in (row, other)
        )
        for row, other in (("top", "upper"), ("bottom", "lower"))
        for side in ("left", "right")
    },
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}


class Draws:
    """Random choices of one purpose of one sample.

    Only the raw Philox stream is used (uniform doubles and bytes), which numpy keeps unchanged
    from version to version.
    """

    def __init__(self, *, seed: int, split: int, index: int, purpose: int) -> None:
        key = np.array([seed, 0x5348415045], dtype=np.uint64)
        counter = np.array([0, purpose, index, split], dtype=np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)
        self._uniform = np.random.Generator(self._bits).random

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self._uniform()

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._uniform() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[int(self._uniform() * len(options))]

    def noise(self, count: int) -> npt.NDArray[np.uint8]:
        """Return `count` uniform bytes, (count,)."""
        raw = np.asarray(self._bits.random_raw(-(-count // 8)), dtype="<u8")
        return raw.view(np.uint8)[:count]


@dataclass(frozen=True, kw_only=True)
class SingleScene:
    """One object; each field is an attribute that captions name."""

    shape: str
    color: str
    size: str
    position: str
    background: str

    @property
    def phrase(self) -> str:
        """The class name, without an article."""
        thing = f"{self.size} {self.color} {self.shape}"
        return f"{thing} {WORDS[self.position][0]} on a {self.background} background"

    def canonical(self) -> SingleScene:
        """Return the scene itself, which has one description."""
        return self


@dataclass(frozen=True, kw_only=True)
class PairScene:
    """Two different objects of medium size; `relation` is where the first one is."""

    shape: str
    color: str
    relation: str
    other_shape: str
    other_color: str
    background: str

    @property
    def phrase(self) -> str:
        """The class name, without an article."""
        first, other = f"{self.color} {self.shape}", f"{self.other_color} {self.other_shape}"
        return f"{first} {WORDS[self.relation][0]} a {other} on a {self.background} background"

    def mirrored(self) -> PairScene:
        """Return the same picture, described from the other object."""
        return PairScene(
            shape=self.other_shape,
            color=self.other_color,
            relation=RELATIONS[self.relation],
            other_shape=self.shape,
            other_color=self.color,
            background=self.background,
        )

    def canonical(self) -> PairScene:
        """Return the description that says left or above, equal for equal pictures."""
        return self if self.relation in ("left", "above") else self.mirrored()


Scene = SingleScene | PairScene
