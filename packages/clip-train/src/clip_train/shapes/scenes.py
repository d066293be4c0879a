"""Procedural scenes: what is in a picture, how it is worded, and how it is drawn.

A scene is one object (shape, colour, size, position, background) or two objects in a relation
("a red circle to the left of a blue square"). Wording and drawing take their choices from a
`Draws`, a stream keyed by (seed, split, index, purpose), so that every sample is a pure function
of its key, whichever samples were made before it.

S image side in pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw

T = TypeVar("T")

# Colour name → hue in degrees, saturation, value. Backgrounds have no hue, so every colour
# stands out from every background.
COLOURS: Mapping[str, tuple[float, float, float]] = {
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
POSITIONS: Mapping[str, tuple[float, float]] = {  # centre (x, y) as fractions of the side
    "top left": (0.26, 0.26),
    "top right": (0.74, 0.26),
    "bottom left": (0.26, 0.74),
    "bottom right": (0.74, 0.74),
    "center": (0.50, 0.50),
}
_LEVELS: Mapping[str, tuple[float, float]] = {  # of the background, or of its dark stripes
    "white": (236, 255),
    "gray": (108, 150),
    "black": (0, 28),
    "striped": (62, 88),
}
BACKGROUNDS = tuple(_LEVELS)
RELATIONS: Mapping[str, str] = {  # relation → the same scene told from the other object
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
}

# The first wording is the canonical one, used in class names and in half of the captions.
_WORDS: Mapping[str, tuple[str, ...]] = {
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
_SEEN_FROM_FIRST: Mapping[str, tuple[str, ...]] = {
    "left": ("to its left", "on its left"),
    "right": ("to its right", "on its right"),
    "above": ("above it",),
    "below": ("below it", "under it"),
}
_GROUNDS = (
    "on a {} background",
    "against a {} background",
    "in front of a {} backdrop",
)
_FILLERS = ("a photo of ", "an image of ", "a picture of ", "a drawing of ", "there is ")
_DROP_BACKGROUND = 0.1  # share of captions that say nothing of the background


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
    """One object: every field is an attribute that captions name."""

    shape: str
    colour: str
    size: str
    position: str
    background: str

    @property
    def phrase(self) -> str:
        """The class name, without an article."""
        thing = f"{self.size} {self.colour} {self.shape}"
        return f"{thing} {_WORDS[self.position][0]} on a {self.background} background"

    def canonical(self) -> SingleScene:
        """Return the scene itself: it can be told from one object only."""
        return self


@dataclass(frozen=True, kw_only=True)
class PairScene:
    """Two different objects of middle size: the first one is `relation` of the other."""

    shape: str
    colour: str
    relation: str
    other_shape: str
    other_colour: str
    background: str

    @property
    def phrase(self) -> str:
        """The class name, without an article."""
        first, other = f"{self.colour} {self.shape}", f"{self.other_colour} {self.other_shape}"
        return f"{first} {_WORDS[self.relation][0]} a {other} on a {self.background} background"

    def mirrored(self) -> PairScene:
        """Return the same picture, told from the other object."""
        return PairScene(
            shape=self.other_shape,
            colour=self.other_colour,
            relation=RELATIONS[self.relation],
            other_shape=self.shape,
            other_colour=self.colour,
            background=self.background,
        )

    def canonical(self) -> PairScene:
        """Return the telling that says left or above, equal for equal pictures."""
        return self if self.relation in ("left", "above") else self.mirrored()


Scene = SingleScene | PairScene


def differing_attributes(scene: Scene, other: Scene) -> int | None:
    """Return in how many attributes two scenes differ, None for one object against two.

    Two-object scenes are compared in the telling that makes them most alike.
    """
    if isinstance(scene, PairScene) and isinstance(other, PairScene):
        return min(_count_differences(scene, other), _count_differences(scene, other.mirrored()))
    if isinstance(scene, SingleScene) and isinstance(other, SingleScene):
        return _count_differences(scene, other)
    return None


def _count_differences(scene: Scene, other: Scene) -> int:
    names = [field.name for field in fields(scene)]
    return sum(getattr(scene, name) != getattr(other, name) for name in names)


def word_caption(scene: Scene, draws: Draws) -> str:
    """Return one of the many wordings of a scene.

    Every attribute is named once, in all orders and synonyms; one caption in ten leaves out
    the background.
    """
    if isinstance(scene, SingleScene):
        subject, place = _word_single(scene, draws), _word(scene.position, draws)
    else:
        subject, place = _word_pair(scene.mirrored() if draws.chance(0.5) else scene, draws)
    background = _word(scene.background, draws)
    ground = draws.choice(_GROUNDS).format(background)
    bare = draws.chance(_DROP_BACKGROUND)
    order = draws.choice(("plain", "plain", "plain", "ground first", "place first", "remark"))
    if order == "place first":
        text = f"{place}, {subject}" + ("" if bare else f" {ground}")
    elif order == "ground first" and not bare:
        text = f"{ground}, {subject} {place}"
    else:
        filler = draws.choice(_FILLERS) if draws.chance(0.5) else ""
        text = f"{filler}{subject} {place}"
        if not bare:
            text += f", the background is {background}" if order == "remark" else f" {ground}"
    if draws.chance(0.3):
        text = text[0].upper() + text[1:]
    return text + "." if draws.chance(0.5) else text


def _word(value: str, draws: Draws) -> str:
    words = _WORDS.get(value, (value,))
    return words[0] if draws.chance(0.5) else draws.choice(words)


def _word_single(scene: SingleScene, draws: Draws) -> str:
    size, colour = _word(scene.size, draws), _word(scene.colour, draws)
    shape = _word(scene.shape, draws)
    plain = f"a {size} {colour} {shape}"
    return draws.choice(
        (plain, plain, f"a {size}, {colour} {shape}", f"a {size} {shape} in {colour}")
    )


def _word_pair(scene: PairScene, draws: Draws) -> tuple[str, str]:
    """Return the first object and where it is, in words."""
    first = f"a {_word(scene.colour, draws)} {_word(scene.shape, draws)}"
    other = f"a {_word(scene.other_colour, draws)} {_word(scene.other_shape, draws)}"
    if draws.chance(0.3):
        return first, f"with {other} {draws.choice(_SEEN_FROM_FIRST[RELATIONS[scene.relation]])}"
    return first, f"{_word(scene.relation, draws)} {other}"


def render(scene: Scene, draws: Draws, *, image_size: int) -> Image.Image:
    """Return the picture of a scene, RGB (S, S), with jitter in all that is not named."""
    canvas = _paint_background(scene.background, draws, image_size)
    if isinstance(scene, SingleScene):
        radius = draws.between(0.105, 0.125) if scene.size == "small" else draws.between(0.20, 0.23)
        _paint(canvas, scene.shape, scene.colour, POSITIONS[scene.position], radius, draws)
    else:
        scene = scene.canonical()
        first, other = (0.27, 0.5), (0.73, 0.5)
        if scene.relation == "above":
            first, other = first[::-1], other[::-1]
        radius, other_radius = draws.between(0.15, 0.19), draws.between(0.15, 0.19)
        _paint(canvas, scene.shape, scene.colour, first, radius, draws)
        _paint(canvas, scene.other_shape, scene.other_colour, other, other_radius, draws)
    noise = draws.noise(3 * image_size**2) & 15  # 0 … 15 for each value
    grain = Image.frombytes("RGB", canvas.size, noise.tobytes())
    return ImageChops.add(canvas, grain, offset=-8)


def _paint_background(background: str, draws: Draws, side: int) -> Image.Image:
    """Return an RGB picture (S, S) of one gray level with a faint tint, or of gray stripes."""
    low, high = _LEVELS[background]
    level = draws.between(low, high)
    tint = [draws.between(-5, 5) for _ in range(3)]
    canvas = Image.new("RGB", (side, side), _tinted(level, tint))
    if background == "striped":
        angle, period = draws.between(0, math.pi), draws.between(0.12, 0.16)
        line = np.arange(side, dtype=np.float32) / np.float32(side * period)
        x, y = line * np.float32(math.cos(angle)), line * np.float32(math.sin(angle))
        turns = x + (y + np.float32(draws.between(0, 1)))[:, None]  # (S, S)
        light = np.clip(9 * np.abs(turns - np.rint(turns)) - 1.75, 0, 1)  # (S, S), half of it 1
        mask = Image.fromarray((255 * light).astype(np.uint8))
        canvas.paste(_tinted(level + draws.between(95, 120), tint), (0, 0), mask)
    return canvas


def _tinted(level: float, tint: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(level + shift))) for shift in tint)
    return red, green, blue


def _paint(
    canvas: Image.Image,
    shape: str,
    colour: str,
    centre: tuple[float, float],
    radius: float,
    draws: Draws,
) -> None:
    """Draw one antialiased object; centre and radius are fractions of the side."""
    side, scale = canvas.width, 4
    x, y = (side * (at + draws.between(-0.035, 0.035)) for at in centre)
    reach = math.ceil(1.3 * radius * side) + 1
    left, top = math.floor(x) - reach, math.floor(y) - reach
    tile = Image.new("L", (2 * reach * scale, 2 * reach * scale))
    _draw_shape(
        ImageDraw.Draw(tile),
        shape,
        ((x - left) * scale, (y - top) * scale),
        radius * side * scale,
        math.radians(draws.between(-12, 12)),
    )
    hue, saturation, value = COLOURS[colour]
    rgb = colorsys.hsv_to_rgb(
        (hue + draws.between(-7, 7)) / 360 % 1,
        min(1.0, saturation * draws.between(0.9, 1.06)),
        min(1.0, value * draws.between(0.88, 1.06)),
    )
    red, green, blue = (round(255 * part) for part in rgb)
    canvas.paste((red, green, blue), (left, top), tile.reduce(scale))


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, centre: tuple[float, float], radius: float, turn: float
) -> None:
    """Fill one shape of about equal visual weight; `turn` in radians."""
    x, y = centre
    if shape in ("circle", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if shape == "ring":
            hole = 0.56 * radius
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return
    cos, sin = radius * math.cos(turn), radius * math.sin(turn)
    pen.polygon([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in _OUTLINES[shape]], 255)


def _star_outline(points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    """Return the corners of a star (or, with inner 0, of a regular polygon), the first on top."""
    outline = []
    for corner in range(2 * points):
        reach, angle = (inner if corner % 2 else outer), math.pi * corner / points
        if reach:
            outline.append((reach * math.sin(angle), -reach * math.cos(angle)))
    return outline


_OUTLINES: Mapping[str, Sequence[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(u, v + 0.2) for u, v in _star_outline(3, 1.25, 0)],
    "star": _star_outline(5, 1.25, 0.5),
    "cross": [
        (u, v)
        for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))  # one arm after the other
        for u, v in (
            (1.1 * c + 0.36 * s, 1.1 * s - 0.36 * c),
            (1.1 * c - 0.36 * s, 1.1 * s + 0.36 * c),
            (0.36 * (c - s), 0.36 * (c + s)),
        )
    ],
}
