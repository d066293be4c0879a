"""Conversion to shards: lossless, counted, and resumable at any point."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clip_eval.data import BadSample, DataError, Sample, Source, open_source
from clip_train.cli.main import main
from clip_train.data.convert import convert
from PIL import Image


class Kinds(Source):
    """Samples of every kind that a source may give."""

    name = "kinds"
    classnames = ("cat", "dog")
    templates = ("a {c}", "the {c}")

    def __init__(self, jpeg: bytes) -> None:
        self.jpeg = jpeg
        self.fail_at = -1
        self.reads = 0

    def __len__(self) -> int:
        return 10

    def read(self, index: int) -> Sample:
        self.reads += 1
        if index == self.fail_at:
            raise KeyboardInterrupt
        key = f"sample {index}"
        if index == 3:
            raise BadSample("truncated", "half of it is missing", key)
        if index == 4:
            return Sample(key, b"what is this", ("a thing",))
        if index == 5:
            return Sample(key, Image.new("RGB", (9, 7), (1, 2, 3)), ("drawn", "twice"))
        if index == 6:
            return Sample(key, self.jpeg, ("two\nlines", "one"))
        if index == 7:
            return Sample(key, self.jpeg[:200], ("cut",))
        if index == 8:
            return Sample(key, self.jpeg, ("a dog", "the dog"), 1)
        return Sample(key, self.jpeg, (f"caption {index}",), index % 2)


@pytest.fixture
def kinds(shapes: Path) -> Kinds:
    image = open_source(f"wds:{shapes}/train").read(0).image
    assert isinstance(image, bytes)
    return Kinds(image)


def test_shards_read_back(kinds: Kinds, tmp_path: Path) -> None:
    counts = convert(kinds, tmp_path / "out", shard_size=4, progress=False)
    assert counts.written == 8
    assert counts.captions == 5 + 2 + 2 + 2
    assert counts.faults == {"truncated": 1, "not-an-image": 1}
    assert "sample 3: truncated: half of it is missing" in counts.named
    source = open_source(f"wds:{tmp_path / 'out'}")
    assert source.classnames == kinds.classnames
    assert source.templates == kinds.templates
    kept = [0, 1, 2, 5, 6, 7, 8, 9]
    for place, index in enumerate(kept):
        ours, theirs = source.read(place), kinds.read(index)
        assert ours.key.endswith(f"/{index:09d}")
        assert (ours.captions, ours.label) == (theirs.captions, theirs.label)
        if isinstance(theirs.image, bytes):
            assert ours.image == theirs.image
    with tarfile.open(tmp_path / "out" / "000001.tar") as tar:
        names = [member.name for member in tar]
    assert names == ["000000005.png", "000000005.txt", "000000006.jpg", "000000006.json",
                     "000000007.jpg", "000000007.txt"]  # fmt: skip


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_only_line_ends_separate_captions(kinds: Kinds, tmp_path: Path, sign: str) -> None:
    captions = (f"one{sign}caption", "another")
    kinds.read = lambda index: Sample(f"{index}", kinds.jpeg, captions)  # type: ignore[method-assign]
    convert(kinds, tmp_path / "out", progress=False)
    assert open_source(f"wds:{tmp_path / 'out'}").read(0).captions == captions


def test_checking_leaves_out_undecodable_images(kinds: Kinds, tmp_path: Path) -> None:
    counts = convert(kinds, tmp_path / "out", shard_size=4, check=True, progress=False)
    assert counts.written == 7
    assert counts.faults == {"truncated": 2, "not-an-image": 1}


@pytest.mark.parametrize("fail_at", [0, 2, 5, 9])
def test_an_interrupted_conversion_is_continued(kinds: Kinds, tmp_path: Path, fail_at: int) -> None:
    whole = convert(kinds, tmp_path / "whole", shard_size=4, progress=False)
    kinds.fail_at = fail_at
    with pytest.raises(KeyboardInterrupt):
        convert(kinds, tmp_path / "parts", shard_size=4, progress=False)
    kinds.fail_at, kinds.reads = -1, 0
    continued = convert(kinds, tmp_path / "parts", shard_size=4, progress=False)
    assert replace(continued, kept=0) == whole
    assert continued.kept == [0, 3, 6][fail_at // 4]  # two of the first eight are left out
    assert kinds.reads == 10  # finished shards too, to see that their samples are the same
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()
    assert {p.name for p in (tmp_path / "parts").iterdir()} == {
        p.name for p in (tmp_path / "whole").iterdir()
    }


def test_other_directories_are_refused(kinds: Kinds, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        convert(kinds, tmp_path / "mine", progress=False)
    convert(kinds, tmp_path / "out", shard_size=4, progress=False)
    with pytest.raises(DataError, match=r"another conversion: shard size 4 there, 5 now"):
        convert(kinds, tmp_path / "out", shard_size=5, progress=False)
    with pytest.raises(DataError, match="1 or more"):
        convert(kinds, tmp_path / "none", shard_size=0, progress=False)


Change = Callable[[Kinds, dict[str, Any]], object]
CHANGES: dict[str, Change] = {
    "captions": lambda kinds, options: setattr(
        kinds, "read", lambda index: Sample(f"sample {index}", kinds.jpeg, ("other",), index % 2)
    ),
    "one caption": lambda kinds, options: setattr(
        kinds, "read", _changed(kinds, 9, captions=("caption 9!",))
    ),
    "one label": lambda kinds, options: setattr(kinds, "read", _changed(kinds, 0, label=1)),
    "one image": lambda kinds, options: setattr(
        kinds, "read", _changed(kinds, 1, image=kinds.jpeg + b"x")
    ),
    "a sample that was broken": lambda kinds, options: setattr(
        kinds, "read", lambda index: Kinds.read(kinds, 0 if index == 3 else index)
    ),
    "check": lambda kinds, options: options.update(check=True),
    "class names": lambda kinds, options: setattr(kinds, "classnames", ("cat", "wolf")),
    "templates": lambda kinds, options: setattr(kinds, "templates", ("{c}",)),
    "split": lambda kinds, options: setattr(kinds, "split", "test"),
    "source": lambda kinds, options: setattr(kinds, "name", "others"),
}


def _changed(kinds: Kinds, index: int, **values: Any) -> Callable[[int], Sample]:
    def read(number: int) -> Sample:
        sample = Kinds.read(kinds, number)
        return replace(sample, **values) if number == index else sample

    return read


@pytest.mark.parametrize("change", CHANGES)
def test_a_conversion_of_anything_else_is_not_continued(
    kinds: Kinds, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    convert(kinds, out, shard_size=4, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    options: dict[str, Any] = {}
    CHANGES[change](kinds, options)
    with pytest.raises(
        DataError, match=r"another conversion|was written from other .* --overwrite"
    ):
        convert(kinds, out, shard_size=4, progress=False, **options)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_shard_that_was_cut_is_noticed(kinds: Kinds, tmp_path: Path) -> None:
    convert(kinds, tmp_path / "out", shard_size=4, progress=False)
    shard = tmp_path / "out" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:-10240])
    with pytest.raises(DataError, match=r"000000.tar is not as long as it was written"):
        convert(kinds, tmp_path / "out", shard_size=4, progress=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_commands(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "convert", f"imagefolder:{shapes}/val", "--out", tmp_path / "out")
    assert code == 0
    assert "144 of 144 samples" in text
    code, text = run(
        capsys,
        "inspect",
        f"wds:{tmp_path}/out",
        "--samples",
        20,
        "--out",
        tmp_path / "a" / "s.html",
    )
    assert code == 0
    assert "144 samples in 1 shards" in text
    assert "20: 20 usable, 0 broken" in text
    page = (tmp_path / "a" / "s.html").read_text()
    assert page.count("<figure>") == 20
    assert page.count("data:image/jpeg;base64,") == 20
    assert run(capsys, "inspect", "nowhere/at/all")[0] == 2
    assert run(capsys, "inspect", f"wds:{tmp_path}/out", "--samples", 0)[0] == 2


def test_another_caption_column_is_not_a_continuation(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(path for path in (shapes / "val").rglob("*.*") if path.suffix in (".jpg", ".png"))
    table = tmp_path / "table.csv"
    table.write_text(f"filepath,title,alt\n{image},one,two\n")
    command = ("convert", f"csv:{table}", "--out", tmp_path / "out")
    assert run(capsys, *command)[0] == 0
    code, text = run(capsys, *command)
    assert (code, "1 of 1 samples" in text, "1 of them from before" in text) == (0, True, True)
    code, text = run(capsys, *command, "--caption-key", "alt")
    assert code == 2
    assert "was written from other images, captions or labels" in text
    code, text = run(capsys, *command, "--caption-key", "alt", "--overwrite")
    assert code == 0
    assert open_source(f"wds:{tmp_path / 'out'}").read(0).captions == ("two",)


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000", "PPM", "QOI", "TIFF", "ICO", "WEBP"])
def test_every_kind_of_image_is_kept(format: str, tmp_path: Path, kinds: Kinds) -> None:
    Image.init()
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(out, format)
    kinds.read = lambda index: Sample(f"{index}", out.getvalue(), ("x",))  # type: ignore[method-assign]
    assert convert(kinds, tmp_path / "out", progress=False).written == 10
    assert open_source(f"wds:{tmp_path / 'out'}").read(3).image == out.getvalue()


def test_a_fault_of_the_check_names_its_sample(kinds: Kinds, tmp_path: Path) -> None:
    counts = convert(kinds, tmp_path / "out", check=True, progress=False)
    assert any(line.startswith("sample 7: truncated") for line in counts.named)
