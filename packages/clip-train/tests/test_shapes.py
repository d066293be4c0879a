"""The procedural data set: scenes, wordings, pictures, the held-out split and the files."""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_train.shapes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Draws,
    PairScene,
    Scene,
    SingleScene,
    differing_attributes,
    render,
    word_caption,
)
from clip_train.shapes_dataset import (
    TEMPLATES,
    ShapesError,
    ShapesSummary,
    held_out_scenes,
    is_trainable,
    training_caption,
    training_scene,
    write_shapes,
)
from PIL import Image
from webdataset import tariterators

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
    colours = [word for word in words if word in COLOURS]
    grounds = [word for word in words if word in BACKGROUNDS] or [""]
    (background,) = grounds
    if len(shapes) == 1:
        (colour,), (shape,) = colours, shapes
        (size,) = (word for word in words if word in SIZES)
        (position,) = re.findall(r"(?:top|bottom) (?:left|right)|center", " ".join(words))
        known = {shape, colour, size, background, *position.split()}
        assert set(words) <= known | GLUE
        return SingleScene(
            shape=shape, colour=colour, size=size, position=position, background=background
        )
    (relation,) = (word for word in words if word in RELATIONS)
    assert set(words) <= {*shapes, *colours, relation, background} | GLUE
    objects = list(zip(colours, shapes, strict=True))
    for colour, shape in objects:
        assert f"{colour} {shape}" in " ".join(words)
    text = " ".join(words)
    named = re.search(rf"{relation}(?: of)? a (\w+ \w+)", text)  # … left of a blue square
    owned = re.search(rf"with a (\w+ \w+) (?:(?:to|on) its )?{relation}", text)
    assert (named is None) != (owned is None)
    if named is not None:
        colour, shape = named.group(1).split()
        other = objects.index((colour, shape))
        return make_pair(objects[1 - other], relation, objects[other], background)
    assert owned is not None
    colour, shape = owned.group(1).split()
    placed = objects.index((colour, shape))
    return make_pair(objects[placed], relation, objects[1 - placed], background)


def make_pair(
    first: tuple[str, str], relation: str, other: tuple[str, str], background: str
) -> PairScene:
    return PairScene(
        colour=first[0],
        shape=first[1],
        relation=relation,
        other_colour=other[0],
        other_shape=other[1],
        background=background,
    )


def attributes_of(scene: Scene) -> dict[str, str]:
    return {field.name: getattr(scene, field.name) for field in fields(scene)}


def all_single_scenes() -> list[Scene]:
    values = itertools.product(SHAPES, COLOURS, SIZES, POSITIONS, BACKGROUNDS)
    names = ("shape", "colour", "size", "position", "background")
    return [SingleScene(**dict(zip(names, value, strict=True))) for value in values]


def all_pair_scenes() -> list[Scene]:
    objects = list(itertools.product(COLOURS, SHAPES))
    return [
        make_pair(first, relation, other, background)
        for first, other in itertools.permutations(objects, 2)
        for relation in RELATIONS
        for background in BACKGROUNDS
    ]


def draws_for(index: int, purpose: int = 0) -> Draws:
    return Draws(seed=0, split=0, index=index, purpose=purpose)


def write_small(directory: Path, **options: int) -> ShapesSummary:
    sizes = {"num_train": 2, "image_size": 32, "num_val_per_class": 1, **options}
    return write_shapes(directory, progress=False, **sizes)


def read_samples(paths: list[Path]) -> list[dict[str, Any]]:
    """Read shards with webdataset, on streams of our own: it leaves its own ones open."""
    samples: list[dict[str, Any]] = []
    for path in paths:
        with path.open("rb") as stream:
            files = tariterators.tar_file_expander([{"url": str(path), "stream": stream}])
            samples += tariterators.group_by_keys(files)
    return samples


def read_tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes") / "set"
    write_small(root, num_train=25, num_val_per_class=2, shard_size=10)
    return root


# Held-out combinations


def test_enough_combinations_are_held_out() -> None:
    classes = held_out_scenes()
    assert sum(isinstance(scene, SingleScene) for scene in classes) >= 96
    assert sum(isinstance(scene, PairScene) for scene in classes) >= 32
    assert len({scene.canonical() for scene in classes}) == len(classes)
    assert len({scene.phrase for scene in classes}) == len(classes)


def test_every_held_out_class_has_three_neighbours() -> None:
    classes = held_out_scenes()
    for scene in classes:
        assert sum(differing_attributes(scene, other) == 1 for other in classes) >= 3


def test_held_out_classes_cover_every_value_of_single_scenes() -> None:
    seen = {value for scene in held_out_scenes() for value in attributes_of(scene).values()}
    assert seen >= {*SHAPES, *COLOURS, *SIZES, *POSITIONS, *BACKGROUNDS}


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


def test_a_held_out_picture_is_not_trainable_in_either_telling() -> None:
    pairs = [scene for scene in held_out_scenes() if isinstance(scene, PairScene)]
    assert not any(is_trainable(scene) or is_trainable(scene.mirrored()) for scene in pairs)
    first = pairs[0]
    same = replace(first, other_shape=first.shape, other_colour=first.colour)
    assert not is_trainable(same)


def test_no_training_caption_tells_a_held_out_scene() -> None:
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
    assert values == {*SHAPES, *COLOURS, *SIZES, *POSITIONS, *BACKGROUNDS, *RELATIONS}
    assert 0.08 < dropped / 20_000 < 0.12
    assert 0.58 < single / 20_000 < 0.62


# Scenes and wordings


def test_class_names_say_what_the_scene_is() -> None:
    for scene in held_out_scenes():
        told = understand(f"a {scene.phrase}")
        assert told == scene
        assert re.fullmatch(r"[a-z]+( [a-z]+)+", scene.phrase)
    scene = SingleScene(
        shape="circle", colour="red", size="small", position="top left", background="white"
    )
    assert scene.phrase == "small red circle in the top left corner on a white background"


def test_mirrored_tellings_are_the_same_scene() -> None:
    scene = make_pair(("red", "circle"), "right", ("blue", "square"), "gray")
    told_back = make_pair(("blue", "square"), "left", ("red", "circle"), "gray")
    assert scene.mirrored() == told_back
    assert scene.canonical() == told_back == told_back.canonical()
    assert differing_attributes(scene, told_back) == 0
    assert differing_attributes(scene, replace(told_back, background="black")) == 1


def test_differences_count_attributes_and_never_compare_one_object_with_two() -> None:
    single = all_single_scenes()[0]
    assert isinstance(single, SingleScene)
    assert differing_attributes(single, single) == 0
    assert differing_attributes(single, replace(single, size="large", shape="ring")) == 2
    assert differing_attributes(single, all_pair_scenes()[0]) is None


@pytest.mark.parametrize("scene", [all_single_scenes()[0], all_pair_scenes()[0]])
def test_one_scene_has_many_wordings(scene: Scene) -> None:
    captions = {word_caption(scene, draws_for(index)) for index in range(500)}
    assert len(captions) > 250
    assert max(len(caption.split()) for caption in captions) <= 20


def test_draws_depend_on_every_part_of_the_key() -> None:
    key = {"seed": 3, "split": 0, "index": 7, "purpose": 1}
    first = Draws(**key).between(0, 1)
    assert Draws(**key).between(0, 1) == first
    for part in key:
        assert Draws(**{**key, part: key[part] + 1}).between(0, 1) != first


def test_draws_stay_what_they_were() -> None:
    draws = Draws(seed=1, split=0, index=2, purpose=0)
    assert [int(draws.between(0, 1e6)) for _ in range(3)] == [523508, 642031, 109679]
    assert draws.noise(11).shape == (11,)


# Pictures


@pytest.mark.parametrize("image_size", [32, 48, 65])
def test_pictures_have_the_size_asked_for(image_size: int) -> None:
    for scene in (all_single_scenes()[0], all_pair_scenes()[0]):
        image = render(scene, draws_for(0), image_size=image_size)
        assert (image.mode, image.size) == ("RGB", (image_size, image_size))


def objects_mask(image: Image.Image) -> np.ndarray:
    """Return where a picture is coloured rather than gray, (S, S)."""
    pixels = np.asarray(image).astype(int)
    return (pixels.max(2) - pixels.min(2)) > 55


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_objects_stand_where_and_as_large_as_they_say(colour: str, background: str) -> None:
    areas: dict[str, list[float]] = {size: [] for size in SIZES}
    for number, (shape, size, position) in enumerate(itertools.product(SHAPES, SIZES, POSITIONS)):
        scene = SingleScene(
            shape=shape, colour=colour, size=size, position=position, background=background
        )
        mask = objects_mask(render(scene, draws_for(number), image_size=64))
        rows, columns = np.nonzero(mask)
        x, y = POSITIONS[position]
        assert abs(columns.mean() / 64 - x) < 0.08
        assert abs(rows.mean() / 64 - y) < 0.08
        areas[size].append(float(np.ptp(rows) * np.ptp(columns)))
    assert max(areas["small"]) < 0.7 * min(areas["large"])


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_first_object_stands_in_its_relation_to_the_other(relation: str) -> None:
    scene = make_pair(("red", "circle"), relation, ("blue", "square"), "white")
    for index in range(20):
        pixels = np.asarray(render(scene, draws_for(index), image_size=64)).astype(int)
        red = np.argwhere(pixels[..., 0] - pixels[..., 2] > 80).mean(0)
        blue = np.argwhere(pixels[..., 2] - pixels[..., 0] > 80).mean(0)
        down, right = red - blue
        offset = {"left": -right, "right": right, "above": -down, "below": down}[relation]
        across = down if relation in ("left", "right") else right
        assert offset > 20 > 8 > abs(across)


def test_both_tellings_of_a_pair_are_one_picture() -> None:
    scene = make_pair(("red", "circle"), "right", ("blue", "square"), "gray")
    pictures = [render(s, draws_for(4), image_size=32) for s in (scene, scene.mirrored())]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_colours_are_told_apart_by_the_nearest_mean() -> None:
    """The jitter of colours leaves them apart: nearest of the seven means is always right."""

    def mean_colour(colour: str, index: int) -> np.ndarray:
        scene = SingleScene(
            shape="square", colour=colour, size="large", position="center", background="gray"
        )
        pixels = np.asarray(render(scene, draws_for(index), image_size=32))
        return pixels[13:19, 13:19].mean((0, 1))

    means = np.array([np.mean([mean_colour(c, i) for i in range(10)], axis=0) for c in COLOURS])
    for label, colour in enumerate(COLOURS):
        for index in range(10, 40):
            distances = np.linalg.norm(means - mean_colour(colour, index), axis=1)
            assert distances.argmin() == label


def test_shapes_are_told_apart_by_the_nearest_mean() -> None:
    """Even the small shapes at 48 pixels, jittered and turned, once they are brought together."""

    def centred(shape: str, index: int) -> np.ndarray:
        scene = SingleScene(
            shape=shape, colour="red", size="small", position="center", background="white"
        )
        mask = objects_mask(render(scene, draws_for(index), image_size=48))
        rows, columns = np.nonzero(mask)
        shift = (24 - round(rows.mean()), 24 - round(columns.mean()))
        window = np.roll(mask, shift, axis=(0, 1))[14:34, 14:34].astype(float)
        return window / np.linalg.norm(window)

    means = np.array([np.mean([centred(s, i) for i in range(40)], axis=0) for s in SHAPES])
    means /= np.linalg.norm(means, axis=(1, 2), keepdims=True)
    hits = [
        (means * centred(shape, index)).sum((1, 2)).argmax() == label
        for label, shape in enumerate(SHAPES)
        for index in range(40, 80)
    ]
    assert np.mean(hits) > 0.9  # chance is 1/6


# Files


def test_training_shards_read_back_with_webdataset(small_set: Path) -> None:
    shards = sorted((small_set / "train").iterdir())
    assert [path.name for path in shards] == [f"shapes-{shard:06d}.tar" for shard in range(3)]
    samples = read_samples(shards)
    assert [sample["__key__"] for sample in samples] == [f"{index:09d}" for index in range(25)]
    for index, sample in enumerate(samples):
        image = Image.open(io.BytesIO(sample["jpg"]))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
        caption = training_caption(training_scene(index, seed=0), index, seed=0)
        assert sample["txt"].decode() == caption


def test_a_stored_picture_shows_the_scene_of_its_index(small_set: Path) -> None:
    with tarfile.open(small_set / "train" / "shapes-000001.tar") as shard:
        stored = shard.extractfile("000000012.jpg")
        assert stored is not None
        image = Image.open(io.BytesIO(stored.read()))
    drawn = render(training_scene(12, seed=0), draws_for(12, purpose=2), image_size=32)
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(drawn).astype(int))
    assert difference.mean() < 6  # JPEG's


def test_the_image_folder_holds_every_class(small_set: Path) -> None:
    folders = sorted(path.name for path in (small_set / "val").iterdir() if path.is_dir())
    assert folders == [scene.phrase for scene in held_out_scenes()]
    assert (small_set / "val" / "classnames.txt").read_text().splitlines() == folders
    for folder in folders:
        names = sorted(path.name for path in (small_set / "val" / folder).iterdir())
        assert names == ["0000.jpg", "0001.jpg"]
    with Image.open(small_set / "val" / folders[0] / "0000.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))


def test_the_benchmark_layout_holds_the_same_pictures(small_set: Path) -> None:
    root = small_set / "val-wds"
    names = (root / "classnames.txt").read_text().splitlines()
    num_shards = int((root / "test" / "nshards.txt").read_text())
    shards = [root / "test" / f"{shard}.tar" for shard in range(num_shards)]
    assert sorted(path.name for path in (root / "test").glob("*.tar")) == sorted(
        path.name for path in shards
    )
    samples = read_samples(shards)
    assert len(samples) == 2 * len(names)
    for index, sample in enumerate(samples):
        label, number = divmod(index, 2)
        assert int(sample["cls"]) == label
        stored = small_set / "val" / names[label] / f"{number:04d}.jpg"
        assert sample["jpg"] == stored.read_bytes()


@pytest.mark.parametrize("folder", ["val", "val-wds"])
def test_templates_have_one_slot_for_the_class(small_set: Path, folder: str) -> None:
    path = small_set / folder / "zeroshot_classification_templates.txt"
    lines = path.read_text().splitlines()
    assert lines == list(TEMPLATES)
    assert all(line.format(c="X").count("X") == 1 for line in lines)


def test_equal_arguments_give_equal_files(small_set: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    summary = write_small(again, num_train=25, num_val_per_class=2, shard_size=10)
    assert read_tree(again) == read_tree(small_set)
    assert (summary.num_train, summary.num_train_shards) == (25, 3)
    assert (summary.num_val, summary.directory) == (2 * len(summary.classnames), again)
    assert summary.classnames == tuple(scene.phrase for scene in held_out_scenes())


def test_a_sample_depends_on_the_seed_and_on_nothing_else(small_set: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "longer", num_train=30, shard_size=30)
    write_small(tmp_path / "other", num_train=30, shard_size=30, seed=1)

    def members(paths: list[Path]) -> dict[str, bytes]:
        contents = {}
        for path in paths:
            with tarfile.open(path) as shard:
                for member in shard:
                    stream = shard.extractfile(member)
                    assert stream is not None
                    contents[member.name] = stream.read()
        return contents

    short = members(sorted((small_set / "train").iterdir()))
    longer = members([tmp_path / "longer" / "train" / "shapes-000000.tar"])
    other = members([tmp_path / "other" / "train" / "shapes-000000.tar"])
    assert short.items() < longer.items()
    assert not {name for name in other if name.endswith("jpg") and other[name] == longer[name]}


# What can go wrong


def test_a_directory_with_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ShapesError, match="choose another directory"):
        write_small(tmp_path)
    assert read_tree(tmp_path) == {"notes.txt": b"mine"}


def test_an_earlier_set_is_never_replaced(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_small(root, num_train=2)
    with pytest.raises(ShapesError, match="must be empty or new"):
        write_small(root, num_train=3)
    assert json.loads((root / "shapes.json").read_text())["num_train"] == 2


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    write_small(root)
    assert (root / "train" / "shapes-000000.tar").is_file()


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShapesError, match="cannot write"):
        write_small(tmp_path / "file" / "below")
    with pytest.raises(ShapesError, match="but is a file"):
        write_small(tmp_path / "file")


def test_an_interrupted_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clip_train.shapes_dataset._write_val", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_write_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / "set.partial"
    left.mkdir()
    (left / "shapes.json").write_text("{}\n")
    (left / "old").write_text("")
    write_small(tmp_path / "set")
    assert not left.exists()
    assert not (tmp_path / "set" / "old").exists()


def test_files_of_others_beside_the_set_are_kept(tmp_path: Path) -> None:
    other = tmp_path / "set.partial"
    other.mkdir()
    (other / "mine").write_text("")
    with pytest.raises(ShapesError, match=r"set\.partial is needed"):
        write_small(tmp_path / "set")
    assert [path.name for path in other.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_train", 0),
        ("image_size", 16),
        ("num_val_per_class", 0),
        ("shard_size", 0),
        ("seed", -1),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ShapesError, match=f"{name} must be"):
        write_small(tmp_path / "set", **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total = 3 + len(held_out_scenes())
    write_shapes(tmp_path / "set", num_train=3, image_size=32, num_val_per_class=1)
    assert f"{total}/{total}" in capsys.readouterr().err
