from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from clip_eval.data import open_source
from clip_eval.report.inspection import format_inspection, inspect_source


def test_counts_and_broken_files(colour_folder: Path, encode: Callable[..., bytes]) -> None:
    (colour_folder / "red" / "0.png").write_bytes(b"")
    (colour_folder / "green" / "9.jpg").write_bytes(encode((1, 2, 3), "JPEG")[:300])
    found = inspect_source(open_source(colour_folder))
    assert (found.n, found.layout, found.sizes) == (13, "ImageFolder", (16, 16, 16, 16))
    assert found.per_class == {0: 4, 1: 4, 2: 3}
    assert {(s.key, s.reason) for s in found.broken} == {
        ("red/0.png", "empty"),
        ("green/9.jpg", "truncated"),
    }
    text = format_inspection(found)
    assert "13 samples, 2 broken" in text
    assert "red/0.png: empty" in text
    assert "classes: 3" in text


def test_shards_without_labels_and_with_a_cut(
    tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    files = {f"{n}.{kind}": encode((9, 9, 9)) for n in range(3) for kind in ("png", "txt")}
    files |= {f"{n}.txt": b"grey" for n in range(3)}
    path = write_tar(tmp_path / "a.tar", files)
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512))  # whole, but for the end mark
    found = inspect_source(open_source(path))
    assert (found.unlabelled, found.with_captions, found.classnames) == (3, 3, None)
    text = format_inspection(found)
    assert "classes: none" in text
    assert "damaged: a.tar" in text


def test_classes_of_one_name_are_counted_apart(colour_folder: Path) -> None:
    (colour_folder / "red" / "0.png").unlink()
    names = {"red": "crane", "green": "crane", "blue": "bird"}
    text = format_inspection(inspect_source(open_source(colour_folder, classnames=names)))
    counts = [line.split()[1] for line in text.splitlines() if line.startswith("  ")]
    assert counts == ["3", "4", "4"]


def test_a_label_outside_the_class_list_is_shown(
    tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    png = encode((9, 9, 9))
    path = write_tar(tmp_path / "a.tar", {"0.png": png, "0.cls": b"7", "0.txt": b"caption"})
    found = inspect_source(open_source(path, classnames=["a", "b"]))
    assert "label 7 is in no class: 1 samples" in format_inspection(found)


def test_several_labels_an_image_are_counted(
    tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    files = {}
    for n, marks in enumerate(([1, 1], [0, 1], [0, 0])):
        out = io.BytesIO()
        np.save(out, np.array(marks))
        files |= {f"{n}.png": encode((9, 9, 9)), f"{n}.npy": out.getvalue()}
    path = write_tar(tmp_path / "a.tar", files)
    found = inspect_source(open_source(path, classnames=["a", "b"]))
    assert (found.per_class, found.unlabelled) == ({0: 1, 1: 2}, 0)
