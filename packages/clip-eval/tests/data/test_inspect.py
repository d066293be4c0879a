from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from clip_eval.data import BadSample, DataError, Sample, Source, open_source, summarize
from PIL import Image


class Kinds(Source):
    """Ten samples, of which three are broken."""

    name = "<script>alert(1)</script>"
    classnames = ("cat", "dog")
    shard_sizes = (6, 4)

    def __len__(self) -> int:
        return 10

    def read(self, index: int) -> Sample:
        if index == 7:
            raise BadSample("truncated", "half of it is missing", "sample 7")
        if index in (2, 3):
            return Sample(f"{index}", b"what is this")
        captions = tuple(f"<b>caption {n}" for n in range(index))
        return Sample(f"{index}", Image.new("RGB", (9, 7)), captions, index % 2)


def test_counts_and_broken_files(color_folder: Path, encode: Callable[..., bytes]) -> None:
    (color_folder / "red" / "0.png").write_bytes(b"")
    (color_folder / "green" / "9.jpg").write_bytes(encode((1, 2, 3), "JPEG")[:300])
    found = summarize(open_source(color_folder))
    assert (found.n, found.read, found.kind, found.shards) == (13, 13, "imagefolder", None)
    assert found.percentiles["width"] == found.percentiles["height"] == (16,) * 5
    assert found.per_class == {0: 4, 1: 4, 2: 3}
    assert {(fault.where, fault.reason) for fault in found.broken} == {
        ("red/0.png", "empty"),
        ("green/9.jpg", "truncated"),
    }
    text = found.to_text()
    assert "13: 11 usable, 2 broken" in text
    assert "red/0.png: empty" in text
    assert "classes                 3, 3 seen" in text


def test_shards_without_labels_and_with_a_cut(
    tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    files = {f"{n}.{kind}": encode((9, 9, 9)) for n in range(3) for kind in ("png", "txt")}
    files |= {f"{n}.txt": b"grey" for n in range(3)}
    path = write_tar(tmp_path / "a.tar", files)
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512))  # whole, but for the end mark
    found = summarize(open_source(path))
    assert (found.unlabeled, found.captioned, found.classnames) == (3, 3, None)
    text = found.to_text()
    assert "none (no class list)" in text
    assert "damaged: a.tar" in text
    assert "3 samples in 1 shards" in text


def test_classes_of_one_name_are_counted_separately(color_folder: Path) -> None:
    (color_folder / "red" / "0.png").unlink()
    names = {"red": "crane", "green": "crane", "blue": "bird"}
    text = summarize(open_source(color_folder, classnames=names)).to_text()
    counts = [
        line.split()[1] for line in text.splitlines() if line.startswith(("  crane", "  bird"))
    ]
    assert counts == ["3", "4", "4"]
    assert "warning: several classes share a name: crane" in text


def test_a_label_outside_the_class_list_is_shown(
    tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    png = encode((9, 9, 9))
    path = write_tar(tmp_path / "a.tar", {"0.png": png, "0.cls": b"7", "0.txt": b"caption"})
    source = open_source(path, classnames=["a", "b"])
    with pytest.raises(DataError, match="label 7 is in no class; the class list has 2"):
        summarize(source)
    source.classnames = None
    found = dataclasses.replace(summarize(source), classnames=("a", "b"))
    assert "label 7 is in no class: 1 samples" in found.to_text()


def test_several_labels_an_image_are_counted(
    tmp_path: Path, write_tar: Callable[..., Path], encode: Callable[..., bytes]
) -> None:
    files = {}
    for n, marks in enumerate(([1, 1], [0, 1], [0, 0])):
        out = io.BytesIO()
        np.save(out, np.array(marks))
        files |= {f"{n}.png": encode((9, 9, 9)), f"{n}.npy": out.getvalue()}
    path = write_tar(tmp_path / "a.tar", files)
    found = summarize(open_source(path, classnames=["a", "b"]))
    assert (found.per_class, found.unlabeled) == ({0: 1, 1: 2}, 0)


def test_quantities_are_those_of_the_usable_samples() -> None:
    found = summarize(Kinds())
    assert found.percentiles["width"] == (9,) * 5
    counts = [0, 1, 4, 5, 6, 8, 9]
    expected = np.percentile(counts, (0, 5, 50, 95, 100))
    assert found.percentiles["captions per image"] == tuple(expected.tolist())
    assert found.percentiles["words per caption"] == (2,) * 5
    assert "bytes" not in found.percentiles  # the images come decoded
    text = found.to_text()
    assert "10 samples in 2 shards" in text
    assert "10: 7 usable, 3 broken" in text
    assert "broken: not-an-image    2" in text
    assert "broken: sample 7: truncated: half of it is missing" in text


def test_a_part_is_drawn_by_the_seed() -> None:
    reads = []

    class Recording(Kinds):
        def read(self, index: int) -> Sample:
            reads.append(index)
            return super().read(index)

    for seed in (1, 1, 2):
        assert summarize(Recording(), samples=4, seed=seed).read == 4
    assert reads[:4] == reads[4:8] == sorted(set(reads[:4]))
    assert reads[:4] != reads[8:]
    assert summarize(Kinds(), samples=100).read == 10
    with pytest.raises(DataError, match="at least 1, got 0"):
        summarize(Kinds(), samples=0)


class Balance(HTMLParser):
    """Notes tags that are opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_the_pictures_and_escapes(tmp_path: Path) -> None:
    found = summarize(Kinds(), pictures=10)
    assert len(found.pictures) == 7
    found.write_html(tmp_path / "new" / "sheet.html")
    page = (tmp_path / "new" / "sheet.html").read_text()
    assert page.count("<figure>") == page.count("data:image/jpeg;base64,") == 7
    assert "<script>" not in page
    assert "<b>" not in page
    assert "9×7" in page
    assert "and 4 more" in page
    assert "no caption" in page
    assert "sample 7: truncated" in page
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(summarize(Kinds(), pictures=2, samples=3).pictures) <= 2


def test_the_summary_goes_into_json() -> None:
    record = json.loads(json.dumps(summarize(Kinds(), pictures=2).to_dict()))
    assert record["broken"][0] == {
        "where": "2",
        "reason": "not-an-image",
        "detail": record["broken"][0]["detail"],
    }
    assert "pictures" not in record
