"""The files of the procedural data set, and what can be in their way."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_train.errors import ShapesError
from clip_train.shapes.dataset import (
    TEMPLATES,
    ShapesSummary,
    write_shapes,
)
from clip_train.shapes.drawing import render
from clip_train.shapes.scenes import Draws
from clip_train.shapes.splits import held_out_scenes, training_caption, training_scene
from PIL import Image
from webdataset import tariterators


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


def test_an_existing_data_set_is_never_replaced(tmp_path: Path) -> None:
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


def test_an_unwritable_directory_is_one_error(tmp_path: Path) -> None:
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

    monkeypatch.setattr("clip_train.shapes.dataset._write_val", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_partial_files_of_a_killed_write_are_replaced(tmp_path: Path) -> None:
    left = tmp_path / "set.partial"
    left.mkdir()
    (left / "shapes.json").write_text("{}\n")
    (left / "old").write_text("")
    write_small(tmp_path / "set")
    assert not left.exists()
    assert not (tmp_path / "set" / "old").exists()


def test_other_files_beside_the_data_set_are_kept(tmp_path: Path) -> None:
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
