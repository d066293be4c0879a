from __future__ import annotations

import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data import BadSample, DataError, Source, decode_image, open_source
from clip_eval.data.readers.image_folder import ImageFolder


def test_classes_are_the_folders_in_order(color_folder: Path) -> None:
    source = ImageFolder(color_folder)
    assert isinstance(source, Source)
    assert source.classnames == ("blue", "green", "red")
    assert source.name == "colors"
    assert len(source) == 12
    first = source.read(0)
    assert (first.key, first.label) == ("blue/0.png", 0)
    assert first.captions == ("a photo of a blue.",)
    assert decode_image(first.image).getpixel((8, 8))[2] > 200
    assert [source.label(i) for i in range(12)] == [0] * 4 + [1] * 4 + [2] * 4


def test_saved_templates_make_the_captions(color_folder: Path) -> None:
    (color_folder / "zeroshot_classification_templates.txt").write_text("{c} thing\na {c}\n")
    source = ImageFolder(color_folder)
    assert source.templates == ("{c} thing", "a {c}")
    assert source.read(11).captions == ("red thing", "a red")
    assert ImageFolder(color_folder, templates=["my {c}"]).read(11).captions == ("my red",)


def test_a_class_list_is_matched_by_name(color_folder: Path) -> None:
    source = ImageFolder(color_folder, classnames=["red", "blue", "green"])
    assert [source.read(i).label for i in (0, 4, 8)] == [1, 2, 0]
    named = ImageFolder(color_folder, classnames={"red": "crimson", "blue": "navy", "green": "x"})
    assert named.read(0).captions == ("a photo of a navy.",)


def test_a_class_list_beside_the_folders_is_used(color_folder: Path) -> None:
    (color_folder / "classnames.txt").write_text("red\nblue\ngreen\n")
    assert ImageFolder(color_folder).classnames == ("red", "blue", "green")


def test_a_class_without_folder_stays_as_a_wrong_answer(color_folder: Path) -> None:
    source = ImageFolder(color_folder, classnames=["red", "blue", "green", "pink"])
    assert source.classnames is not None
    assert len(source.classnames) == 4
    assert "pink" in source.warnings[0]


def test_an_extra_folder_is_an_error_that_names_it(color_folder: Path) -> None:
    with pytest.raises(DataError, match=r"'green'.*'grene'"):
        ImageFolder(color_folder, classnames=["red", "blue", "grene"])


def test_files_lie_deeper_are_sorted_and_others_are_listed(
    color_folder: Path, encode: Callable[..., bytes]
) -> None:
    deep = color_folder / "red" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "X.JPG").write_bytes(encode((250, 0, 0), "JPEG"))
    (color_folder / "red" / "notes.txt").write_text("hi")
    (color_folder / "red" / "._0.png").write_text("resource fork")
    (color_folder / ".cache").mkdir()
    source = ImageFolder(color_folder)
    assert source.classnames == ("blue", "green", "red")
    assert [path for path in source.paths if path.startswith("red")] == [
        "red/0.png",
        "red/1.png",
        "red/2.png",
        "red/3.png",
        "red/a/b/X.JPG",
    ]
    assert source.ignored == ["red/notes.txt"]
    assert source.warnings == ("1 files without an image suffix are ignored: red/notes.txt",)


def test_images_of_other_suffixes(color_folder: Path, encode: Callable[..., bytes]) -> None:
    (color_folder / "red" / "1.JFIF").write_bytes(encode((250, 0, 0), "JPEG"))
    (color_folder / "red" / "classnames.txt").write_text("what the reader knows is no surprise")
    source = ImageFolder(color_folder)
    assert source.paths[-4] == "red/1.JFIF"
    assert source.warnings == ()
    for number in range(9):
        (color_folder / "red" / f"{number}.heic").write_bytes(b"x")
    (warning,) = ImageFolder(color_folder).warnings
    assert warning.startswith("9 files without an image suffix")
    assert warning.endswith("red/6.heic, red/7.heic …")


def test_links_that_loop_are_not_followed(color_folder: Path) -> None:
    inside, outside = color_folder / "red" / "a", color_folder.parent / "elsewhere"
    outside.mkdir()
    inside.symlink_to(outside)
    (outside / "0.png").write_bytes((color_folder / "red" / "0.png").read_bytes())
    (outside / "back").symlink_to(color_folder)
    (outside / "self").symlink_to(outside)
    (color_folder / "red" / "loop").symlink_to("..")
    (color_folder / "blue" / "again").symlink_to(outside)  # the same folder twice is no loop
    source = ImageFolder(color_folder)
    assert len(source) == 12 + 2
    assert source.read(13).key == "red/a/0.png"
    (warning,) = source.warnings
    assert warning.startswith("5 links lead back to a folder above them")
    assert "red/loop" in warning


def test_unicode_folders_are_one_name(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    (tmp_path / forms[1]).mkdir()
    (tmp_path / forms[1] / "1.png").write_bytes(encode((1, 2, 3)))
    assert ImageFolder(tmp_path, classnames=[forms[0]]).classnames == (forms[0],)
    (tmp_path / forms[0]).mkdir()
    with pytest.raises(DataError, match="same name in Unicode NFC"):
        ImageFolder(tmp_path)


def test_newcomers_errors_are_one_clear_line(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    def fails(path: Path, words: str) -> None:
        with pytest.raises(DataError, match=words) as caught:
            ImageFolder(path)
        assert "\n" not in str(caught.value)

    fails(tmp_path / "absent", "no such file or directory")
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(empty, "empty; expected one folder of images per class")
    (empty / "cat").mkdir()
    fails(empty, "no images in its 1 folders")
    (tmp_path / "file").write_text("x")
    fails(tmp_path / "file", "got a file")
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "1.png").write_bytes(encode((1, 2, 3)))
    fails(flat, "no class folders")


def test_splits_are_not_taken_for_classes(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / "1.png").write_bytes(encode((1, 2, 3)))
    source = ImageFolder(tmp_path)
    assert (source.classnames, source.split, source.splits) == (("cat",), "val", ("train", "val"))
    source = open_source(f"imagefolder:{tmp_path}", split="val")
    assert (source.classnames, source.name) == (("cat",), f"{tmp_path.name}/val")
    assert open_source(tmp_path / "val").name == f"{tmp_path.name}/val"


def test_a_vanished_file_is_a_bad_sample_and_pickling_works(color_folder: Path) -> None:
    source = pickle.loads(pickle.dumps(ImageFolder(color_folder)))
    assert source.read(5).label == 1
    (color_folder / "blue" / "0.png").unlink()
    with pytest.raises(BadSample) as caught:
        source.read(0)
    assert (caught.value.key, caught.value.reason) == ("blue/0.png", "unreadable")
