from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data import BadSample, DataError, open_source, summarize
from clip_eval.data.readers.image_folder import ImageFolder
from clip_eval.data.readers.image_text_pairs import ImageTextPairs

Encode = Callable[..., bytes]


def write_pair(stem: Path, encode: Encode, *captions: str, suffix: str = ".png") -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(stem.name + suffix).write_bytes(encode((1, 2, 3)))
    stem.with_name(stem.name + ".txt").write_text("\n".join(captions), encoding="utf-8")


def test_images_get_the_captions_beside_them(tmp_path: Path, encode: Encode) -> None:
    write_pair(tmp_path / "b", encode, "a dog", "", "the same dog ", suffix=".JPG")
    write_pair(tmp_path / "a.v2", encode, "\ufeffein Bär\r")
    for spec in (tmp_path, f"pairs:{tmp_path}", f"imagefolder:{tmp_path}"):
        source = open_source(spec)
        assert isinstance(source, ImageTextPairs)
        assert (source.kind, source.classnames, source.split) == ("pairs", None, None)
        samples = [source.read(i) for i in range(len(source))]
        assert [sample.key for sample in samples] == ["a.v2.png", "b.JPG"]
        assert [sample.captions for sample in samples] == [("ein Bär",), ("a dog", "the same dog")]
    assert pickle.loads(pickle.dumps(source)).read(1).captions == ("a dog", "the same dog")


def test_missing_texts_and_images_are_counted(tmp_path: Path, encode: Encode) -> None:
    write_pair(tmp_path / "good", encode, "a dog")
    write_pair(tmp_path / "blank", encode, " ")
    (tmp_path / "mute.png").write_bytes(encode((1, 2, 3)))
    (tmp_path / "alone.txt").write_text("no image")
    (tmp_path / "classes.json").write_text("{}")  # neither
    (tmp_path / "latin.png").write_bytes(encode((1, 2, 3)))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    summary = summarize(open_source(f"pairs:{tmp_path}"))
    assert (summary.n, summary.captioned) == (5, 1)
    assert [(fault.where, fault.reason) for fault in summary.broken] == [
        ("alone.txt", "no-image"),
        ("blank.png", "no-caption"),
        ("latin.png", "bad-utf8"),
        ("mute.png", "no-caption"),
    ]
    source = open_source(tmp_path)  # most images have a text
    with pytest.raises(BadSample, match=r"mute.png: no-caption: no mute.txt beside it"):
        source.read(4)


def test_the_files_of_img2dataset_are_pairs(tmp_path: Path, encode: Encode) -> None:
    for shard in ("00000", "00001"):
        for number in range(2):
            stem = tmp_path / shard / f"{shard}{number:04d}"
            write_pair(stem, encode, f"caption {shard} {number}", suffix=".jpg")
            record = {"caption": "another", "url": "http://host/x.jpg", "key": stem.name}
            stem.with_suffix(".json").write_text(json.dumps(record))
        (tmp_path / f"{shard}_stats.json").write_text("{}")
        (tmp_path / f"{shard}.parquet").write_bytes(b"PAR1")  # urls, no images
    source = open_source(tmp_path)
    assert (source.kind, len(source)) == ("pairs", 4)
    assert source.read(3).key == "00001/000010001.jpg"
    assert source.read(3).captions == ("caption 00001 1",)
    assert open_source(tmp_path, caption_key="caption").read(3).captions == ("another",)
    assert summarize(source).broken == ()


def test_splits_of_pairs(tmp_path: Path, encode: Encode) -> None:
    write_pair(tmp_path / "train" / "x" / "1", encode, "for training")
    assert open_source(f"pairs:{tmp_path}", default_split="train").split == "train"
    (tmp_path / "train" / "x").rename(tmp_path / "train" / "000")
    write_pair(tmp_path / "val" / "1", encode, "for validation")
    for default, words in ((None, "for validation"), ("train", "for training")):
        source = open_source(tmp_path, default_split=default)
        assert (source.kind, source.read(0).captions) == ("pairs", (words,))
        assert source.splits == ("train", "val")
    with pytest.raises(DataError, match="no split 'test'; there are train, val"):
        open_source(tmp_path, split="test")


def test_class_folders_stay_class_folders(color_folder: Path, encode: Encode) -> None:
    for path in color_folder.glob("*/*.png"):
        path.with_suffix(".txt").write_text("a caption")
    source = open_source(color_folder)
    assert isinstance(source, ImageFolder)
    (warning,) = source.warnings
    assert f"(pairs:{color_folder} reads captions in .txt beside the images)" in warning
    assert len(open_source(f"pairs:{color_folder}")) == 12
    write_pair(color_folder / "cover", encode, "at the top")
    assert open_source(color_folder).kind == "imagefolder"
    for folder, name in (("red", "0"), ("green", "1"), ("blue", "2")):
        (color_folder / folder).rename(color_folder / name)
    for path in color_folder.glob("cover.*"):
        path.unlink()
    (color_folder / "classnames.txt").write_text("0\tred\n1\tgreen\n2\tblue\n")
    assert open_source(color_folder).classnames == ("red", "green", "blue")


def test_a_directory_without_pairs_is_an_error(color_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image with a caption beside it; expected files such"):
        open_source(f"pairs:{color_folder}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no image with a caption beside it"):
        open_source(f"pairs:{tmp_path / 'notes'}")


def test_labels_beside_the_images_are_read(tmp_path: Path, encode: Encode) -> None:
    (tmp_path / "a.png").write_bytes(encode((1, 2, 3)))
    (tmp_path / "a.cls").write_text("1")
    source = open_source(f"pairs:{tmp_path}", classnames=["cat", "dog"])
    assert source.label(0) == 1
    assert source.read(0).captions == ("a photo of a dog.",)


def test_a_directory_that_cannot_be_listed_is_one_line(
    color_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    for spec in (f"imagefolder:{color_folder}", f"pairs:{color_folder}"):
        with pytest.raises(DataError, match=r"colors: cannot be listed \(Permission denied\)"):
            open_source(spec)
