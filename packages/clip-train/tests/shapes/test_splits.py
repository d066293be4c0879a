"""Which scenes are held out of training, found in captions by a reader that knows only English."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields, replace

import pytest
from clip_train.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    PairScene,
    Scene,
    SingleScene,
)
from clip_train.shapes.splits import (
    held_out_scenes,
    is_trainable,
    training_caption,
    training_scene,
)

# What a reader of the captions knows, written down again without looking at the writer.
SAME = {"tiny": "small", "little": "small", "big": "large", "huge": "large", "disc": "circle"}
SAME |= {"box": "square", "hoop": "ring", "turquoise": "cyan", "violet": "purple"}
SAME |= {"grey": "gray", "stripy": "striped", "upper": "top", "lower": "bottom"}
SAME |= {"centre": "center", "middle": "center", "over": "above", "under": "below"}
SAME |= {"beneath": "below"}
GLUE = {"a", "an", "of", "photo", "image", "picture", "drawing", "there", "is", "in", "at", "on"}
GLUE |= {
    ",",
    "to",
    "the",
    "it",
    "its",
    "with",
    "background",
    "backdrop",
    "against",
    "front",
    "corner",
}


def words_of(caption: str) -> list[str]:
    text = caption.lower().replace("plus sign", "cross").rstrip(".")
    return [SAME.get(word, word) for word in re.findall(r"[a-z]+|,", text)]


def understand(caption: str) -> Scene:
    """Read a caption back; the background is "" where it is not told."""
    words = words_of(caption)
    shapes = [word for word in words if word in SHAPES]
    colors = [word for word in words if word in COLORS]
    grounds = [word for word in words if word in BACKGROUNDS] or [""]
    (background,) = grounds
    if len(shapes) == 1:
        (color,), (shape,) = colors, shapes
        (size,) = (word for word in words if word in SIZES)
        (position,) = re.findall(r"(?:top|bottom) (?:left|right)|center", " ".join(words))
        known = {shape, color, size, background, *position.split()}
        assert set(words) <= known | GLUE
        return SingleScene(
            shape=shape, color=color, size=size, position=position, background=background
        )
    (relation,) = (word for word in words if word in RELATIONS)
    assert set(words) <= {*shapes, *colors, relation, background} | GLUE
    objects = list(zip(colors, shapes, strict=True))
    for color, shape in objects:
        assert f"{color} {shape}" in " ".join(words)
    text = " ".join(words)
    named = re.search(rf"{relation}(?: of)? a (\w+ \w+)", text)  # … left of a blue square
    owned = re.search(rf"with a (\w+ \w+) (?:(?:to|on) its )?{relation}", text)
    assert (named is None) != (owned is None)
    if named is not None:
        color, shape = named.group(1).split()
        other = objects.index((color, shape))
        return make_pair(objects[1 - other], relation, objects[other], background)
    assert owned is not None
    color, shape = owned.group(1).split()
    placed = objects.index((color, shape))
    return make_pair(objects[placed], relation, objects[1 - placed], background)


def make_pair(
    first: tuple[str, str], relation: str, other: tuple[str, str], background: str
) -> PairScene:
    return PairScene(
        color=first[0],
        shape=first[1],
        relation=relation,
        other_color=other[0],
        other_shape=other[1],
        background=background,
    )


def attributes_of(scene: Scene) -> dict[str, str]:
    return {field.name: getattr(scene, field.name) for field in fields(scene)}


def all_single_scenes() -> list[Scene]:
    values = itertools.product(SHAPES, COLORS, SIZES, POSITIONS, BACKGROUNDS)
    names = ("shape", "color", "size", "position", "background")
    return [SingleScene(**dict(zip(names, value, strict=True))) for value in values]


def all_pair_scenes() -> list[Scene]:
    objects = list(itertools.product(COLORS, SHAPES))
    return [
        make_pair(first, relation, other, background)
        for first, other in itertools.permutations(objects, 2)
        for relation in RELATIONS
        for background in BACKGROUNDS
    ]


def test_enough_combinations_are_held_out() -> None:
    classes = held_out_scenes()
    assert sum(isinstance(scene, SingleScene) for scene in classes) >= 96
    assert sum(isinstance(scene, PairScene) for scene in classes) >= 32
    assert len({scene.canonical() for scene in classes}) == len(classes)
    assert len({scene.phrase for scene in classes}) == len(classes)


def differing_attributes(scene: Scene, other: Scene) -> int | None:
    """Return in how many attributes two scenes differ, None for one object against two.

    Two-object scenes are compared in the descriptions that differ least.
    """
    if isinstance(scene, PairScene) and isinstance(other, PairScene):
        return min(_count_differences(scene, other), _count_differences(scene, other.mirrored()))
    if isinstance(scene, SingleScene) and isinstance(other, SingleScene):
        return _count_differences(scene, other)
    return None


def _count_differences(scene: Scene, other: Scene) -> int:
    names = [field.name for field in fields(scene)]
    return sum(getattr(scene, name) != getattr(other, name) for name in names)


def test_differences_count_attributes_and_never_compare_one_object_with_two() -> None:
    single = SingleScene(
        shape="circle", color="red", size="small", position="top left", background="white"
    )
    pair = PairScene(
        shape="circle",
        color="red",
        relation="right",
        other_shape="square",
        other_color="blue",
        background="gray",
    )
    assert differing_attributes(pair, pair.mirrored()) == 0
    assert differing_attributes(pair, replace(pair.mirrored(), background="black")) == 1
    assert differing_attributes(single, single) == 0
    assert differing_attributes(single, replace(single, size="large", shape="ring")) == 2
    assert differing_attributes(single, pair) is None


def test_every_held_out_class_has_three_neighbours() -> None:
    classes = held_out_scenes()
    for scene in classes:
        assert sum(differing_attributes(scene, other) == 1 for other in classes) >= 3


def test_held_out_classes_cover_every_value_of_single_scenes() -> None:
    seen = {value for scene in held_out_scenes() for value in attributes_of(scene).values()}
    assert seen >= {*SHAPES, *COLORS, *SIZES, *POSITIONS, *BACKGROUNDS}


@pytest.mark.parametrize("population", [all_single_scenes(), all_pair_scenes()])
def test_every_pair_of_values_may_occur_in_training(population: list[Scene]) -> None:
    def pairs_in(scenes: list[Scene]) -> set[tuple[tuple[str, str], ...]]:
        return {
            pair
            for scene in scenes
            for pair in itertools.combinations(attributes_of(scene).items(), 2)
        }

    trainable = [scene for scene in population if is_trainable(scene)]
    assert len(trainable) < len(population)
    assert pairs_in(trainable) == pairs_in(population)


def test_a_held_out_picture_is_not_trainable_in_either_description() -> None:
    pairs = [scene for scene in held_out_scenes() if isinstance(scene, PairScene)]
    assert not any(is_trainable(scene) or is_trainable(scene.mirrored()) for scene in pairs)
    first = pairs[0]
    same = replace(first, other_shape=first.shape, other_color=first.color)
    assert not is_trainable(same)


def test_no_training_caption_describes_a_held_out_scene() -> None:
    """All 20,000 captions of the default set, read back by a reader that knows only English."""
    held_out = {scene.canonical() for scene in held_out_scenes()}
    dropped, values, single = 0, set(), 0
    for index in range(20_000):
        scene = training_scene(index, seed=0)
        told = understand(training_caption(scene, index, seed=0))
        if not told.background:
            dropped += 1
            told = replace(told, background=scene.background)
        assert told.canonical() == scene.canonical()
        assert told.canonical() not in held_out
        values |= set(attributes_of(scene).values())
        single += isinstance(scene, SingleScene)
    assert values == {*SHAPES, *COLORS, *SIZES, *POSITIONS, *BACKGROUNDS, *RELATIONS}
    assert 0.08 < dropped / 20_000 < 0.12
    assert 0.58 < single / 20_000 < 0.62


def test_class_names_describe_the_scene() -> None:
    for scene in held_out_scenes():
        told = understand(f"a {scene.phrase}")
        assert told == scene
        assert re.fullmatch(r"[a-z]+( [a-z]+)+", scene.phrase)
    scene = SingleScene(
        shape="circle", color="red", size="small", position="top left", background="white"
    )
    assert scene.phrase == "small red circle in the top left corner on a white background"
