"""Readers on damaged files that Hypothesis makes: an error of ours, or what was there before.

A few examples of each are tried by every run of the tests, `EXAMPLES` by the session `hostile`.
"""

from __future__ import annotations

import json
import pickle
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import artefacts
import pytest
from clip_eval.data import BadSample, DataError, decode_image, open_source
from clip_eval.data.readers.restricted_pickle import UnsafePickle, load_plain
from clip_eval.data.readers.sidecars import read_array
from clip_eval.errors import EvaluationError
from clip_eval.results.stored import read_result
from clip_models import CheckpointError, ConfigError
from clip_models.files.weight_files import read_weights
from clip_tokenizer import Tokenizer
from clip_tokenizer.errors import TokenizerError
from clip_train.config.presets import load_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = 1000
FEW = 8
NUMBERS = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (
    *(b"-1", b"99999999999999999999", b"9" * 5000, b"NaN", b"1e999", b"null", b"true", b"\xff\xfe"),
    *(b"[" * 2000, b"{" * 2000, b'"', b"'", b"\\", b"\0" * 512, b"\n", b",", b"=", b"\xed\xa0\x80"),
    *(b"777777777777", b"\x80" + b"\xff" * 11, b"/dev/zero", b"pipe:touch PWNED", b"../" * 9),
)

TAR, RECORDS, COCO = artefacts.good_tar(), artefacts.good_records(), artefacts.coco()
IMAGES = [artefacts.image_file(name) for name in artefacts.COLORS]
TABLE = b"filepath,caption,label\n" + b"".join(b"%d.png,a thing,red\n" % n for n in range(3))
RESULT = {
    **{"model": "m", "dataset": "d", "task": "t", "metrics": {"acc1": 0.5}, "n": 4},
    **{"ci95": {"acc1": [0.1, 0.9]}, "classnames": ["a"], "settings": {"key": "x"}},
}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few edits: numbers and words put in, stretches cut, moved and repeated."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "number", "word", "cut", "repeat", "end", "random"]))
        length = draw(st.integers(1, 64))
        if kind == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from(NUMBERS)) % 256**width
            data[place : place + width] = number.to_bytes(
                width, draw(st.sampled_from(["little", "big"]))
            )
        elif kind == "word":
            word = draw(st.sampled_from(WORDS))
            data[place : place + draw(st.sampled_from([0, len(word)]))] = word
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "repeat":
            data[place:place] = data[place : place + length] * draw(st.integers(1, 9))
        elif kind == "end":
            del data[place:]
        else:
            data[place : place + length] = draw(st.binary(max_size=64))
    return bytes(data)


@contextmanager
def in_directory(**files: bytes) -> Iterator[Path]:
    """A directory of files, named with `_` for the dot."""
    with tempfile.TemporaryDirectory() as place:
        for name, data in files.items():
            Path(place, name.replace("_", ".")).write_bytes(data)
        yield Path(place)


def samples(spec: str) -> Iterator[Any]:
    """The readable samples of a source, if it can be opened."""
    try:
        source = open_source(spec)
    except DataError:
        return
    for index in range(min(len(source), 20)):
        try:
            yield source.read(index)
        except BadSample:
            continue


def fuzz_tar(data: bytes) -> None:
    with in_directory(a_tar=data) as place:
        list(samples(f"wds:{place}/a.tar"))


def fuzz_records(data: bytes) -> None:
    with in_directory(a_tfrecord=data) as place:
        for sample in samples(f"tfrecord:{place}/a.tfrecord"):
            assert sample.image in IMAGES  # its checksum holds


def fuzz_index(data: bytes) -> None:
    with in_directory(a_tar=TAR) as place:
        (place / "a.tar.idx").write_bytes(data)
        for sample in samples(f"wds:{place}/a.tar"):
            assert sample.image in IMAGES


def fuzz_array(data: bytes) -> None:
    try:
        found = read_array(data)
    except ValueError:
        return
    assert found.nbytes <= len(data)


def fuzz_notes(data: bytes) -> None:
    with in_directory(**{"a_json": data, "0_png": IMAGES[0]}) as place:
        list(samples(f"coco:{place}/a.json"))


def fuzz_table(data: bytes) -> None:
    with in_directory(**{"a_csv": data, "0_png": IMAGES[0]}) as place:
        list(samples(f"csv:{place}/a.csv"))


def fuzz_config(data: bytes) -> None:
    with in_directory(a_toml=data) as place:
        try:
            load_config(str(place / "a.toml"))
        except (ConfigError, DataError, OSError):
            return


def fuzz_weights(data: bytes) -> None:
    with in_directory(a_safetensors=data) as place:
        try:
            read_weights(place / "a.safetensors")
        except (CheckpointError, ConfigError):
            return


def fuzz_pickle(data: bytes) -> None:
    try:
        load_plain(data)
    except UnsafePickle:
        return


def fuzz_image(data: bytes) -> None:
    try:
        decode_image(data)
    except BadSample:
        return


def fuzz_result(data: bytes) -> None:
    with in_directory(result_json=data) as place:
        try:
            read_result(place / "result.json")
        except EvaluationError:
            return


def fuzz_vocabulary(data: bytes) -> None:
    with in_directory(**VOCABULARY) as place:
        (place / "vocab.json").write_bytes(data)
        try:
            Tokenizer.from_pretrained(place)
        except TokenizerError:
            return


def _vocabulary() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        Tokenizer.from_bytes(context_length=8).save(place)
        names = ("vocab.json", "merges.txt", "tokenizer_config.json")
        return {name: Path(place, name).read_bytes() for name in names}


def _weights() -> bytes:
    header = {
        name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * n, 16 * n + 16]}
        for n, name in enumerate(("text.a", "visual.b", "logit_scale"))
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(48)


VOCABULARY = _vocabulary()
ARRAY = b"\x93NUMPY\x01\x00" + struct.pack("<H", 58)
ARRAY += b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3),}\n"[:58] + bytes(24)
TARGETS: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "tar": (fuzz_tar, TAR),
    "tfrecord": (fuzz_records, RECORDS),
    "idx": (fuzz_index, struct.pack("<4Q", 0, 3072, 6144, len(TAR) - 1024)),
    "npy": (fuzz_array, ARRAY),
    "json": (fuzz_notes, json.dumps(COCO).encode()),
    "csv": (fuzz_table, TABLE),
    "toml": (fuzz_config, b'extends = "shapes-tiny"\n[train]\nsteps = 2\nbatch_size = 8\n'),
    "safetensors": (fuzz_weights, _weights()),
    "pickle": (fuzz_pickle, pickle.dumps({"image": b"aGVsbG8=", "texts": ["a", "b"], "n": 7})),
    "png": (fuzz_image, IMAGES[0]),
    "jpeg": (fuzz_image, artefacts.image_file(kind="JPEG")),
    "gif": (fuzz_image, artefacts.image_file(kind="GIF")),
    "result": (fuzz_result, json.dumps(RESULT).encode()),
    "vocabulary": (fuzz_vocabulary, VOCABULARY["vocab.json"][:4000]),
}


def run(name: str, examples: int) -> None:
    """Try a number of examples of one target."""
    target, whole = TARGETS[name]
    target(whole)  # the undamaged file

    @settings(
        max_examples=examples,
        deadline=10_000,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(whole))
    def attempt(data: bytes) -> None:
        target(data)

    attempt()


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_damaged_files(name: str) -> None:
    run(name, FEW)


@pytest.mark.hostile
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files(name: str) -> None:
    run(name, EXAMPLES)
