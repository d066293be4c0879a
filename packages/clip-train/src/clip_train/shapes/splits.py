"""The training and held-out splits of the shapes: which scene each sample shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields

from PIL.Image import Image

from clip_train.shapes.captions import word_caption
from clip_train.shapes.drawing import render
from clip_train.shapes.scenes import SIZES, VALUES, Draws, PairScene, Scene, SingleScene

_TRAIN, _VAL = 0, 1
_SCENE, _CAPTION, _PIXELS = 0, 1, 2
_SINGLE_SHARE = 0.6  # of the training pictures; the others show two objects

# Each row is a block: all combinations of its values are held out, so that a held-out class has
# neighbours in each attribute with two values, and guessing all but one attribute is not enough.
# No two classes differ only in which object is the upper or left one: contrastive training learns
# word order last (Yuksekgonul et al. 2023), and not in the minutes of the demo (it was tried).
_SINGLE_BLOCKS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {
        "shape": ("circle", "ring"),
        "color": ("red", "pink"),
        "size": SIZES,
        "position": ("top left", "center"),
        "background": ("white", "gray"),
    },
    {
        "shape": ("square", "cross"),
        "color": ("yellow", "green"),
        "size": SIZES,
        "position": ("top right", "bottom left"),
        "background": ("black", "striped"),
    },
    {
        "shape": ("triangle", "star"),
        "color": ("cyan", "blue", "purple"),
        "size": SIZES,
        "position": ("bottom right", "top right"),
        "background": ("gray", "striped"),
    },
)
_PAIR_BLOCKS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {
        "shape": ("circle", "star"),
        "color": ("red", "blue"),
        "relation": ("left", "above"),
        "other_shape": ("square",),
        "other_color": ("yellow", "green"),
        "background": ("white",),
    },
    {
        "shape": ("triangle", "cross"),
        "color": ("purple", "pink"),
        "relation": ("right", "below"),
        "other_shape": ("ring",),
        "other_color": ("cyan",),
        "background": ("black", "gray"),
    },
)


def held_out_scenes() -> tuple[Scene, ...]:
    """Return the held-out scenes, in the order of their classes; the same for every seed."""
    scenes: list[Scene] = [
        kind(**dict(zip(block, values, strict=True)))
        for kind, blocks in ((SingleScene, _SINGLE_BLOCKS), (PairScene, _PAIR_BLOCKS))
        for block in blocks
        for values in itertools.product(*block.values())
    ]
    return tuple(sorted(scenes, key=lambda scene: scene.phrase))


_HELD_OUT = frozenset(scene.canonical() for scene in held_out_scenes())


def is_trainable(scene: Scene) -> bool:
    """Return whether a scene may occur in training: not held out, and its objects differ."""
    if isinstance(scene, PairScene) and (scene.shape, scene.color) == (
        scene.other_shape,
        scene.other_color,
    ):
        return False
    return scene.canonical() not in _HELD_OUT


def training_scene(index: int, *, seed: int) -> Scene:
    """Return the scene of training sample `index`."""
    draws = Draws(seed=seed, split=_TRAIN, index=index, purpose=_SCENE)
    single = draws.chance(_SINGLE_SHARE)
    while True:
        scene = _draw_scene(SingleScene if single else PairScene, draws)
        if is_trainable(scene):
            return scene


def training_caption(scene: Scene, index: int, *, seed: int) -> str:
    """Return the caption of training sample `index`, which shows `scene`."""
    return word_caption(scene, Draws(seed=seed, split=_TRAIN, index=index, purpose=_CAPTION))


def draw_training_sample(index: int, *, image_size: int, seed: int) -> tuple[Image, str]:
    """Return picture and caption of training sample `index`."""
    scene = training_scene(index, seed=seed)
    draws = Draws(seed=seed, split=_TRAIN, index=index, purpose=_PIXELS)
    picture = render(scene, draws, image_size=image_size)
    return picture, training_caption(scene, index, seed=seed)


def draw_held_out_image(scene: Scene, index: int, *, image_size: int, seed: int) -> Image:
    """Return the picture of held-out sample `index`, which shows `scene`."""
    draws = Draws(seed=seed, split=_VAL, index=index, purpose=_PIXELS)
    return render(scene, draws, image_size=image_size)


def _draw_scene(kind: type[Scene], draws: Draws) -> Scene:
    """Return a scene with an independent choice of each attribute, in the order of its fields."""
    names = [field.name for field in fields(kind)]
    return kind(**{name: draws.choice(VALUES[name.removeprefix("other_")]) for name in names})
