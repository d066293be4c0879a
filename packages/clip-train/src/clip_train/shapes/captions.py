"""Captions of a scene: all orders and synonyms, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping

from clip_train.shapes.scenes import RELATIONS, WORDS, Draws, PairScene, Scene, SingleScene

_SEEN_FROM_FIRST: Mapping[str, tuple[str, ...]] = {
    "left": ("to its left", "on its left"),
    "right": ("to its right", "on its right"),
    "above": ("above it",),
    "below": ("below it", "under it"),
}
_GROUNDS = ("on a {} background", "against a {} background", "in front of a {} backdrop")
_FILLERS = ("a photo of ", "an image of ", "a picture of ", "a drawing of ", "there is ")
_DROP_BACKGROUND = 0.1  # share of captions that do not name the background


def word_caption(scene: Scene, draws: Draws) -> str:
    """Return a random wording of a scene.

    Every attribute is named once, in any order and with synonyms; one caption in ten leaves out
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
    words = WORDS.get(value, (value,))
    return words[0] if draws.chance(0.5) else draws.choice(words)


def _word_single(scene: SingleScene, draws: Draws) -> str:
    size, color = _word(scene.size, draws), _word(scene.color, draws)
    shape = _word(scene.shape, draws)
    plain = f"a {size} {color} {shape}"
    return draws.choice(
        (plain, plain, f"a {size}, {color} {shape}", f"a {size} {shape} in {color}")
    )


def _word_pair(scene: PairScene, draws: Draws) -> tuple[str, str]:
    """Return the first object and where it is, in words."""
    first = f"a {_word(scene.color, draws)} {_word(scene.shape, draws)}"
    other = f"a {_word(scene.other_color, draws)} {_word(scene.other_shape, draws)}"
    if draws.chance(0.3):
        return first, f"with {other} {draws.choice(_SEEN_FROM_FIRST[RELATIONS[scene.relation]])}"
    return first, f"{_word(scene.relation, draws)} {other}"
