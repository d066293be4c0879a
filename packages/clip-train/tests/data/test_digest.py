"""The digest of training data: other samples are seen, another place is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_train.config.data import DataConfig
from clip_train.data.digest import data_digest, first_digest, same_data
from clip_train.data.sources import open_training_source
from PIL import Image


def digest(spec: str) -> str:
    return data_digest(open_training_source(DataConfig(train=spec, templates=("a {c}",))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty classes of ten images."""
    for label in range(20):
        (tmp_path / "data" / f"class{label:02d}").mkdir(parents=True)
        for number in range(10):
            path = tmp_path / "data" / f"class{label:02d}" / f"{number}.png"
            Image.new("RGB", (4, 4), (label, number, 0)).save(path)
    return tmp_path / "data"


def rename_class(root: Path) -> None:
    (root / "class13").rename(root / "class13b")


def rename_image(root: Path) -> None:
    (root / "class13" / "4.png").rename(root / "class13" / "4b.png")


def move_image(root: Path) -> None:
    (root / "class13" / "4.png").rename(root / "class14" / "10.png")


def replace_images(root: Path) -> None:
    for number in range(10):
        Image.new("RGB", (4, 4), (200, number, 9)).save(root / "class13" / f"{number}.png")


@pytest.mark.parametrize("change", [rename_class, rename_image, move_image, replace_images])
def test_a_replaced_class_is_seen(folder: Path, change: Callable[[Path], None]) -> None:
    before = digest(f"imagefolder:{folder}")
    assert before == digest(f"imagefolder:{folder}")
    change(folder)
    assert before != digest(f"imagefolder:{folder}")


def test_another_place_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    before = digest(f"imagefolder:{folder}")
    assert before == digest(f"imagefolder:{shutil.copytree(folder, tmp_path / 'other' / 'data')}")


def test_captions_of_a_table_are_seen(folder: Path, tmp_path: Path) -> None:
    names = [f"class{label:02d}/{number}.png" for label in range(20) for number in range(10)]
    lines = [f"{folder}/{name},a picture {n}" for n, name in enumerate(names)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["filepath,title", *lines]))
    before = digest(f"csv:{table}")
    lines[131] = lines[131].replace("picture", "photo")
    table.write_text("\n".join(["filepath,title", *lines]))
    assert before != digest(f"csv:{table}")


def test_shards_are_told_apart_by_their_samples(shapes: Path, tmp_path: Path) -> None:
    before = digest(f"wds:{shapes}/train")
    shutil.copytree(shapes / "train", tmp_path / "train")
    assert before == digest(f"wds:{tmp_path}/train")
    one, two = (tmp_path / "train" / f"shapes-00000{n}.tar" for n in (0, 1))
    one.rename(tmp_path / "x")
    two.rename(one)
    (tmp_path / "x").rename(two)
    assert before != digest(f"wds:{tmp_path}/train")
    mixed = f"wds:{shapes}/train::shapes:9"
    assert digest(mixed) != digest("shapes:9") != before


def test_the_digest_of_earlier_checkpoints_is_known(folder: Path) -> None:
    source = open_training_source(DataConfig(train=f"imagefolder:{folder}", templates=("a {c}",)))
    now = data_digest(source)
    assert same_data(first_digest(source), source, now)
    assert same_data(now, source, now)
    assert not same_data("0123456789abcdef", source, now)
    assert first_digest(source) == "9e3dc6360a05e0ae"  # as the first version wrote it
