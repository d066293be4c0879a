"""The promise about data: the samples of a global step, and their pixels, follow from the seed.

Ranks, workers and where a run resumed are varied for four formats that hold the same images; the
keys and augmented pixels of every global step must be those of one process without workers.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from clip_models import Preprocess
from clip_models.config import PreprocessConfig, from_dict
from clip_tokenizer import Tokenizer
from clip_train import Config
from clip_train.augment.geometry import shift_and_flip
from clip_train.data.batches import Batch, BatchReader
from clip_train.data.sources import open_training_source
from clip_train.engine.data_components import make_plan
from PIL import Image
from tfrecord.writer import TFRecordWriter
from torch import Tensor

NUM_SAMPLES, BATCH, SIDE = 43, 8, 24
SHARDS = (13, 1, 9, 7, 13)  # uneven, and fewer than 4 ranks of 3 workers
EPOCH = NUM_SAMPLES // BATCH
STOP = 2 * EPOCH + 2

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


def jpeg(number: int) -> bytes:
    """A picture that tells its number, with some texture."""
    noise = np.random.default_rng(number).integers(0, 40, (36, 48, 3))
    noise[:, :, 0] += 5 * number
    out = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


def rows_of_shards() -> list[list[int]]:
    ends = np.cumsum(SHARDS)
    return [list(range(end - size, end)) for end, size in zip(ends, SHARDS, strict=True)]


def write_webdataset(root: Path) -> str:
    for shard, rows in enumerate(rows_of_shards()):
        with webdataset.TarWriter(str(root / f"{shard:05}.tar"), encoder=False) as writer:
            for n in rows:
                writer.write(
                    {"__key__": f"{n:03}", "jpg": jpeg(n), "txt": f"a {n}\nb {n}".encode()}
                )
    return f"wds:{root}"


def write_image_folder(root: Path) -> str:
    for n in range(NUM_SAMPLES):
        (root / f"class {n % 3}").mkdir(exist_ok=True)
        (root / f"class {n % 3}" / f"{n:03}.jpg").write_bytes(jpeg(n))
    return f"imagefolder:{root}"


def write_parquet(root: Path) -> str:
    rows = range(NUM_SAMPLES)
    table = pa.table(
        {
            "key": [f"{n:03}" for n in rows],
            "jpg": [jpeg(n) for n in rows],
            "captions": [[f"a {n}", f"b {n}"] for n in rows],
        }
    )
    for part, (first, last) in enumerate(((0, 30), (30, NUM_SAMPLES))):
        pq.write_table(table.slice(first, last - first), root / f"{part}.parquet", row_group_size=9)
    return f"parquet:{root}"


def write_tfrecord(root: Path) -> str:
    for shard, rows in enumerate(rows_of_shards()):
        writer = TFRecordWriter(str(root / f"{shard:05}.tfrecord"))
        for n in rows:
            captions = [f"a {n}".encode(), f"b {n}".encode()]
            writer.write(
                {
                    "key": (f"{n:03}".encode(), "byte"),
                    "jpg": (jpeg(n), "byte"),
                    "caption": (captions, "byte"),
                }
            )
        writer.close()
    return f"tfrecord:{root}"


WRITERS: dict[str, Callable[[Path], str]] = {
    "webdataset": write_webdataset,
    "image folder": write_image_folder,
    "parquet": write_parquet,
    "tfrecord": write_tfrecord,
}


@pytest.fixture(scope="module", params=list(WRITERS))
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return WRITERS[request.param](tmp_path_factory.mktemp("set"))


class GlobalStep(NamedTuple):
    """What all ranks together see in a step."""

    keys: list[str]
    captions: list[list[int]]
    pixels: Tensor


def make_reader(spec: str, rank: int, world: int, workers: int) -> BatchReader:
    config = from_dict(
        Config,
        {
            "data": {
                "train": spec,
                "workers": workers,
                "templates": ["a {c}", "the {c}"],
                "shuffle_streams": 3,
                "shuffle_buffer": 16,
            },
            "augment": {"kind": "random_resized_crop", "scale": [0.4, 0.9], "flip": True},
            "train": {"batch_size": BATCH, "seed": 5},
        },
    )
    source = open_training_source(config.data)
    return BatchReader(
        source,
        make_plan(config, source, image_size=SIDE),
        config,
        Preprocess(PreprocessConfig(size=SIDE)),
        Tokenizer.from_bytes(context_length=20),
        rank=rank,
        world_size=world,
    )


def global_steps(spec: str, first: int, *, world: int, workers: int) -> list[GlobalStep]:
    readers = [make_reader(spec, rank, world, workers) for rank in range(world)]
    streams = [reader.batches(first, STOP, pin_memory=False) for reader in readers]
    steps = []
    for parts in zip(*streams, strict=True):
        assert {part.step for part in parts} == {first + len(steps)}
        steps.append(
            GlobalStep(
                [key for part in parts for key in part.keys],
                [part.tokens[row].tolist() for part in parts for row in part.caption_of],
                torch.cat([augmented(part) for part in parts]),
            )
        )
    return steps


def augmented(batch: Batch) -> Tensor:
    """The pixels as the device sees them, after the crop of the worker."""
    return shift_and_flip(batch.images, batch.uniform, pad=0, flip=True)


@pytest.fixture(scope="module")
def reference(spec: str) -> list[GlobalStep]:
    return global_steps(spec, 0, world=1, workers=0)


@pytest.mark.parametrize("first", [0, 3, EPOCH + 1])
@pytest.mark.parametrize(
    ("world", "workers"),
    [
        *[(1, 0), (1, 1), (1, 3), (2, 0), (2, 1), (4, 0), (4, 1)],
        *[pytest.param(2, 3, marks=pytest.mark.slow), pytest.param(4, 3, marks=pytest.mark.slow)],
    ],
)
def test_ranks_workers_and_resume_change_nothing(
    spec: str, reference: list[GlobalStep], world: int, workers: int, first: int
) -> None:
    found = global_steps(spec, first, world=world, workers=workers)
    assert len(found) == STOP - first
    for ours, theirs in zip(found, reference[first:], strict=True):
        assert ours.keys == theirs.keys
        assert ours.captions == theirs.captions
        assert torch.equal(ours.pixels, theirs.pixels)


def test_an_epoch_is_the_data_set_once_but_for_the_remainder(
    spec: str, reference: list[GlobalStep]
) -> None:
    remainder = NUM_SAMPLES % BATCH
    assert remainder == 3
    unseen = []
    for epoch in range(2):
        steps = reference[EPOCH * epoch : EPOCH * (epoch + 1)]
        keys = [key for step in steps for key in step.keys]
        assert len(set(keys)) == len(keys) == NUM_SAMPLES - remainder
        unseen.append(set(all_keys(spec)) - set(keys))
    assert unseen[0] != unseen[1]
    assert [len(keys) for keys in unseen] == [remainder, remainder]


def all_keys(spec: str) -> list[str]:
    source = make_reader(spec, 0, 1, 0).source
    return [source.read(index).key for index in range(len(source))]


def test_augmentation_differs_from_epoch_to_epoch(reference: list[GlobalStep]) -> None:
    first = {
        key: step.pixels[row] for step in reference[:EPOCH] for row, key in enumerate(step.keys)
    }
    again = [
        torch.equal(step.pixels[row], first[key])
        for step in reference[EPOCH:]
        for row, key in enumerate(step.keys)
        if key in first
    ]
    assert len(again) > 30
    assert not any(again)
