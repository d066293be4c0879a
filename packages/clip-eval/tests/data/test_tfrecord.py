"""TFRecord against a third party's writer: layouts of img2dataset, TFDS and older ImageNet."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from clip_eval.data import BadSample, DataError, decode_image, open_source
from clip_eval.data.readers.tf_example import WireError, parse_example
from clip_eval.data.readers.tfrecord import TFRecordSource
from clip_eval.data.shards.crc32c import masked_crc32c
from tfrecord.writer import TFRecordWriter

Feature = tuple[Any, str]


def write(path: Path, examples: Sequence[Mapping[str, Feature]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = TFRecordWriter(str(path))
    for example in examples:
        writer.write(dict(example))
    writer.close()
    return path


@pytest.fixture
def img2dataset(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    for shard, count in enumerate((3, 2)):
        examples = []
        for number in range(count):
            key = f"{shard:04}{number:04}"
            examples.append(
                {
                    "key": (key.encode(), "byte"),
                    "jpg": (encode((250, 9, 9), "JPEG", number), "byte"),
                    "caption": (f"naïve caption {key}".encode(), "byte"),
                    "width": (16, "int"),
                    "similarity": ([0.25, -1.5], "float"),
                }
            )
        write(tmp_path / "set" / f"{shard:05}.tfrecord", examples)
    return tmp_path / "set"


def test_the_layout_of_img2dataset(img2dataset: Path) -> None:
    source = open_source(img2dataset)
    assert isinstance(source, TFRecordSource)
    assert source.name == "set"
    assert source.shard_sizes == (3, 2)
    found = [source.read(index) for index in (4, 0, 2)]
    assert [sample.captions for sample in found] == [
        ("naïve caption 00010001",),
        ("naïve caption 00000000",),
        ("naïve caption 00000002",),
    ]
    assert found[0].key == "00001.tfrecord, sample 1 (00010001)"
    assert decode_image(found[0].image).getpixel((3, 3))[0] > 200
    assert found[0].label is None
    again = pickle.loads(pickle.dumps(source))
    assert again.read(4) == found[0]
    with pytest.raises(IndexError):
        source.read(5)


def test_features_of_all_kinds() -> None:
    def length(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    def entry(key: bytes, feature: bytes) -> bytes:
        return length(1, length(1, key) + length(2, feature))

    packed = length(3, length(1, b"\x01\xac\x02" + b"\xff" * 9 + b"\x01"))
    single = length(3, b"\x08\x05\x08\x06")
    floats = length(2, length(1, struct.pack("<2f", 0.5, -2.0)))
    one_float = length(2, b"\x0d" + struct.pack("<f", 4.0))
    texts = length(1, length(1, b"a") + length(1, b""))
    unknown = bytes([9 << 3 | 1]) + bytes(8)
    message = unknown + length(
        1,
        entry(b"i", packed)
        + entry(b"j", single)
        + entry(b"f", floats)
        + entry(b"g", one_float)
        + entry(b"t", texts)
        + entry(b"none", b""),
    )
    assert parse_example(message) == {
        "i": [1, 300, -1],
        "j": [5, 6],
        "f": [0.5, -2.0],
        "g": [4.0],
        "t": [b"a", b""],
        "none": [],
    }


@pytest.mark.parametrize(
    "message", [b"\x0a\xff", b"\x0b", b"\xff" * 20, b"\x0a\x05\x0a\x03\x0a\x09a"]
)
def test_what_is_no_example_is_refused(message: bytes) -> None:
    with pytest.raises(WireError):
        parse_example(message)


def test_tfds_with_imagenet_classes_and_splits(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    """The layout of ``imagenet2012/5.1.0``: features image, label, file_name."""
    folder = tmp_path / "imagenet2012" / "5.1.0"
    for split, counts in (("train", (2, 1)), ("validation", (3,))):
        for shard, count in enumerate(counts):
            name = f"imagenet2012-{split}.tfrecord-{shard:05}-of-{len(counts):05}"
            write(
                folder / name,
                [
                    {
                        "image": (encode((9, 9, 250), "JPEG"), "byte"),
                        "label": ((shard + number) % 2, "int"),
                        "file_name": (f"{split}_{number}.JPEG".encode(), "byte"),
                    }
                    for number in range(count)
                ],
            )
    (folder / "label.labels.txt").write_text("n01440764\nn01443537\n")
    (folder / "dataset_info.json").write_text("{}")
    source = open_source(f"tfrecord:{tmp_path / 'imagenet2012'}")
    assert (source.name, len(source)) == ("5.1.0/validation", 3)
    assert source.classnames == ("n01440764", "n01443537")
    train = open_source(
        tmp_path / "imagenet2012",
        split="train",
        classnames=["tench", "goldfish"],
        templates=["a {c}"],
    )
    assert [train.read(i).captions for i in range(3)] == [
        ("a tench",),
        ("a goldfish",),
        ("a goldfish",),
    ]
    assert train.read(2).key.endswith("sample 0 (train_0.JPEG)")
    with pytest.raises(DataError, match="no split 'test'; there are train, validation"):
        open_source(folder, split="test")
    with pytest.raises(DataError, match="2 classes, the list given has 3"):
        open_source(folder, split="train", classnames=["a", "b", "c"])
    (folder / "imagenet2012-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(DataError, match="missing shard 00001 of 2"):
        open_source(folder, split="train")


def test_tfds_with_several_captions(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    write(
        tmp_path / "coco_captions-val.tfrecord-00000-of-00001",
        [
            {
                "image": (encode((9, 9, 9)), "byte"),
                "captions/text": ([b"one", b" two ", b""], "byte"),
                "captions/id": ([1, 2, 3], "int"),
            }
        ],
    )
    assert open_source(tmp_path).read(0).captions == ("one", "two")


def test_the_older_imagenet_files_count_labels_from_one(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    write(
        tmp_path / "validation-00000-of-00001",
        [
            {
                "image/encoded": (encode((9, 9, 9), "JPEG"), "byte"),
                "image/class/label": (2, "int"),
                "image/class/synset": (b"n01443537", "byte"),
                "image/filename": (b"ILSVRC2012_val_00000001.JPEG", "byte"),
            }
        ],
    )
    source = open_source(f"tfrecord:{tmp_path}", classnames=["tench", "goldfish"])
    sample = source.read(0)
    assert sample.label == 1
    assert sample.captions == ("a photo of a goldfish.",)


def test_keys_may_be_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tfrecord",
        [{"pixels": (b"x", "byte"), "alt": (b"a cat", "byte"), "caption": (b"no", "byte")}],
    )
    sample = open_source(path, image_key="pixels", caption_key="alt").read(0)
    assert (sample.image, sample.captions) == (b"x", ("a cat",))
    with pytest.raises(BadSample, match="no-image: features are alt, caption, pixels"):
        open_source(path).read(0)


def test_a_wrong_checksum_is_one_bad_sample(img2dataset: Path) -> None:
    path = img2dataset / "00000.tfrecord"
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack("<Q", data[:8])
    data[12 + first // 2] ^= 1
    path.write_bytes(data)
    source = open_source(img2dataset)
    with pytest.raises(
        BadSample, match="00000.tfrecord, sample 0: bad-checksum".replace(".", r"\.")
    ):
        source.read(0)
    assert source.read(1).captions


def test_bad_text_and_bad_messages_are_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tfrecord", [{"jpg": (b"x", "byte"), "caption": (b"caf\xe9\xff", "byte")}]
    )
    with path.open("ab") as file:
        message = b"\x0a\xff"
        size = struct.pack("<Q", len(message))
        for part in (size, message):
            file.write(part + struct.pack("<I", masked_crc32c(part)))
    source = open_source(path)
    for index, reason in ((0, "bad-utf8"), (1, "bad-record")):
        with pytest.raises(BadSample) as caught:
            source.read(index)
        assert caught.value.reason == reason


def test_a_file_cut_short_keeps_its_whole_records(img2dataset: Path) -> None:
    path = img2dataset / "00000.tfrecord"
    path.write_bytes(path.read_bytes()[:-20])
    for _ in range(2):
        source = open_source(img2dataset)
        assert len(source) == 4
        (fault,) = source.faults
        assert (fault.reason, fault.where) == ("damaged-tfrecord", "00000.tfrecord")
        assert "2 samples before it are kept" in fault.detail
    path.write_bytes(b"no record at all, but long enough to look like one")
    assert "not a TFRecord header" in open_source(img2dataset).faults[0].detail
    path.write_bytes(b"")
    assert open_source(img2dataset).faults[0].reason == "empty"


def test_a_file_that_changes_underneath_gives_bad_samples(img2dataset: Path) -> None:
    source = open_source(img2dataset)
    (img2dataset / "00000.tfrecord").write_bytes(b"x" * 100_000)
    (img2dataset / "00001.tfrecord").unlink()
    for index, reason in ((0, "changed"), (4, "unreadable")):
        with pytest.raises(BadSample) as caught:
            source.read(index)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["00000.tfrecord.gz", "00000.tfrecord"])
def test_compressed_records_are_read(img2dataset: Path, name: str) -> None:
    expected = open_source(img2dataset).read(0)
    content = (img2dataset / "00000.tfrecord").read_bytes()
    for path in img2dataset.iterdir():
        path.unlink()
    (img2dataset / name).write_bytes(gzip.compress(content))
    for spec in (img2dataset, img2dataset / name):
        source = open_source(f"tfrecord:{spec}")
        assert len(source) == 3
        assert (source.read(0).image, source.read(0).captions) == (
            expected.image,
            expected.captions,
        )
    assert not source.faults
