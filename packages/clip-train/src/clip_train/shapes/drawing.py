"""Pictures of a scene, with jitter in everything that captions do not name.

S image side in pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from clip_train.shapes.scenes import COLORS, POSITIONS, Draws, Scene, SingleScene

MIN_IMAGE_SIZE = 32  # pixels

_LEVELS: Mapping[str, tuple[float, float]] = {  # gray of the background or its dark stripes
    "white": (236, 255),
    "gray": (108, 150),
    "black": (0, 28),
    "striped": (62, 88),
}


def render(scene: Scene, draws: Draws, *, image_size: int) -> Image.Image:
    """Return the picture of a scene, RGB (S, S), with jitter in all that is not named."""
    canvas = _paint_background(scene.background, draws, image_size)
    if isinstance(scene, SingleScene):
        radius = draws.between(0.105, 0.125) if scene.size == "small" else draws.between(0.20, 0.23)
        _paint(canvas, scene.shape, scene.color, POSITIONS[scene.position], radius, draws)
    else:
        scene = scene.canonical()
        first, other = (0.27, 0.5), (0.73, 0.5)
        if scene.relation == "above":
            first, other = first[::-1], other[::-1]
        radius, other_radius = draws.between(0.15, 0.19), draws.between(0.15, 0.19)
        _paint(canvas, scene.shape, scene.color, first, radius, draws)
        _paint(canvas, scene.other_shape, scene.other_color, other, other_radius, draws)
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
    color: str,
    center: tuple[float, float],
    radius: float,
    draws: Draws,
) -> None:
    """Draw one antialiased object; center and radius are fractions of the side."""
    side, scale = canvas.width, 4
    x, y = (side * (at + draws.between(-0.035, 0.035)) for at in center)
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
    hue, saturation, value = COLORS[color]
    rgb = colorsys.hsv_to_rgb(
        (hue + draws.between(-7, 7)) / 360 % 1,
        min(1.0, saturation * draws.between(0.9, 1.06)),
        min(1.0, value * draws.between(0.88, 1.06)),
    )
    red, green, blue = (round(255 * part) for part in rgb)
    canvas.paste((red, green, blue), (left, top), tile.reduce(scale))


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, center: tuple[float, float], radius: float, turn: float
) -> None:
    """Fill one shape of about equal visual weight; `turn` in radians."""
    x, y = center
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
