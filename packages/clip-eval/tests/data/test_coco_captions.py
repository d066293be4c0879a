from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data import BadSample, DataError, open_source
from clip_eval.data.readers.coco_captions import CocoCaptions


@pytest.fixture
def coco(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for number in (7, 9):
        (tmp_path / "val2017" / f"{number:012}.jpg").write_bytes(encode((number, 0, 0), "JPEG"))
    content = {
        "images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in (9, 7, 8)],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A dog. "},
            {"id": 2, "image_id": 9, "caption": "A cat."},
            {"id": 3, "image_id": 7, "caption": "Another view of the dog."},
            {"id": 4, "image_id": 7, "caption": "  "},
        ],
    }
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps(content))
    return path


def test_images_with_all_their_captions(coco: Path) -> None:
    source = open_source(f"coco:{coco}")
    assert isinstance(source, CocoCaptions)
    assert len(source) == 3
    assert source.read(0).captions == ("A cat.",)
    assert source.read(1).captions == ("A dog.", "Another view of the dog.")
    assert source.read(1).key == "000000000007.jpg"
    with pytest.raises(BadSample, match=r"000000000008\.jpg: unreadable"):
        source.read(2)


def test_images_elsewhere(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "val2017").rename(tmp_path / "photos")
    with pytest.raises(DataError, match="give the directory of the images"):
        open_source(coco)
    assert open_source(coco, image_root=tmp_path / "photos").read(0).captions == ("A cat.",)


def test_karpathy_splits(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    images = []
    for number, split in enumerate(("train", "test", "test")):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{number}.jpg").write_bytes(encode((1, 1, 1), "JPEG"))
        sentences = [{"raw": f"caption {number} {k}"} for k in range(5)]
        images.append({"filename": f"{number}.jpg", "split": split, "sentences": sentences})
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    source = open_source(path, split="test")
    assert source.name == "dataset_flickr30k/test"
    assert len(source) == 2
    assert source.read(1).captions == tuple(f"caption 2 {k}" for k in range(5))
    assert (len(open_source(path)), open_source(path).split) == (2, "test")
    assert len(open_source(path, default_split="train")) == 1
    assert len(open_source(path, split="train+test")) == 3
    with pytest.raises(DataError, match="no split 'val'; there are test, train"):
        open_source(path, split="val")


@pytest.mark.parametrize("content", ["[1]", "{}", '{"images": [{}], "annotations": []}', "{"])
def test_other_files_are_explained(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"x\.json: (expected COCO|not valid JSON)"):
        open_source(path)
