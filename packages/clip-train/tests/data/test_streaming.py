"""Streamed shards: batches from any number of shards, workers and ranks; damage is counted."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
from pathlib import Path

import pytest
from clip_eval.data import DataError
from clip_models import Preprocess
from clip_models.config import PreprocessConfig
from clip_tokenizer import Tokenizer
from clip_train import Config, train
from clip_train.data.batches import BatchReader
from clip_train.data.sources import open_training_source
from clip_train.data.streaming import SampleStream, ShardStream
from clip_train.engine.data_components import make_plan
from clip_train.engine.runs import dry_run

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")


def reader(config: Config, spec: str, workers: int, rank: int = 0, world: int = 1) -> BatchReader:
    data = dataclasses.replace(
        config.data, train=spec, order="stream", epoch_samples=96, workers=workers
    )
    config = dataclasses.replace(config, data=data)
    source = open_training_source(data)
    return BatchReader(
        source,
        make_plan(config, source, image_size=48),
        config,
        Preprocess(PreprocessConfig(size=48)),
        Tokenizer.from_bytes(context_length=48),
        rank=rank,
        world_size=world,
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_steps_come_in_order_with_fewer_shards_than_workers_and_ranks(
    tiny_config: Config, shapes: Path, workers: int
) -> None:
    seen = set()
    for rank in range(2):
        made = reader(tiny_config, f"wds:{shapes}/train/shapes-000002.tar", workers, rank, 2)
        batches = list(made.batches(3, 12, pin_memory=False))
        assert [batch.step for batch in batches] == list(range(3, 12))
        assert {tuple(batch.images.shape) for batch in batches} == {(4, 3, 48, 48)}
        assert batches[0].positions.tolist() == [24 + 4 * rank + row for row in range(4)]
        seen |= {key for batch in batches for key in batch.keys}
    assert len(seen) > 10
    assert all(key.startswith("shapes-000002.tar/0000000") for key in seen)


def test_the_same_start_gives_the_same_batches_and_another_others(
    tiny_config: Config, shapes: Path
) -> None:
    spec = f"wds:{shapes}/train"
    keys = [
        [
            batch.keys
            for batch in reader(tiny_config, spec, 0).batches(start, start + 3, pin_memory=False)
        ]
        for start in (0, 0, 5)
    ]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]
    train = dataclasses.replace(tiny_config.train, seed=1)
    other = reader(dataclasses.replace(tiny_config, train=train), spec, 0)
    assert [batch.keys for batch in other.batches(0, 3, pin_memory=False)] != keys[0]


def test_damage_and_bad_samples_are_faults(
    tiny_config: Config, shapes: Path, tmp_path: Path
) -> None:
    good = (shapes / "train" / "shapes-000000.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(good)
    (tmp_path / "1.tar").write_bytes(good[: len(good) // 2 + 100])
    with tarfile.open(tmp_path / "2.tar", "w") as tar:
        info = tarfile.TarInfo("x.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"bad"))
    batches = list(reader(tiny_config, f"wds:{tmp_path}", 0).batches(0, 40, pin_memory=False))
    reasons = {reason for batch in batches for reason, _ in batch.faults}
    assert reasons == {"damaged-tar", "no-caption"}
    assert all(len(batch.keys) == 8 for batch in batches)


def test_bounds_are_those_of_shards_read_by_position(
    tiny_config: Config, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP_EVAL_MAX_SAMPLE_MB", "1")
    (tmp_path / "0.tar").write_bytes((shapes / "train" / "shapes-000000.tar").read_bytes())
    os.mkfifo(tmp_path / "1.tar")
    (tmp_path / "2.tar").symlink_to("/dev/zero")
    (tmp_path / "3.tar").write_bytes(bytes(10_000))
    with tarfile.open(tmp_path / "4.tar", "w") as tar:
        for name, content in {
            "a.jpg": b"x",
            "a.txt": b"x " * 200_000,
            "b.jpg": bytes(2**21),
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    batches = list(reader(tiny_config, f"wds:{tmp_path}", 0).batches(0, 60, pin_memory=False))
    details = {fault for batch in batches for fault in batch.faults}
    assert {fault.reason for fault in details} == {"damaged-tar", "empty-tar", "too-large"}
    assert any("a.tar" not in fault.detail and "a pipe" in fault.detail for fault in details)
    assert any("captions of 400,000 characters" in fault.detail for fault in details)
    assert any("CLIP_EVAL_MAX_SAMPLE_MB=1" in fault.detail for fault in details)


def test_shards_without_samples_end_the_run(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(bytes(10_000))
    with pytest.raises(DataError, match=r"in a row.*no sample in it"):
        list(reader(tiny_config, f"wds:{tmp_path}", 0).batches(0, 2, pin_memory=False))


def test_large_samples_are_shuffled_in_a_smaller_buffer(
    tiny_config: Config, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip_train.data.streaming.MAX_BUFFER_BYTES", 1)
    data = dataclasses.replace(tiny_config.data, train="", order="stream", epoch_samples=96)
    stream = ShardStream([f"wds:{shapes}/train/shapes-000000.tar"], data)
    found = SampleStream(stream, "key")
    first = [next(found).key for _ in range(38)]
    assert len(set(first)) == 38
    assert len(found._buffer) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_when_no_shard_can_be_read_it_says_so(
    tiny_config: Config, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "0.tar").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match=r"in a row"):
        list(reader(tiny_config, f"wds:{tmp_path}", workers).batches(0, 2, pin_memory=False))


def test_a_whole_run_and_a_dry_one(tiny_config: Config, shapes: Path, tmp_path: Path) -> None:
    data = dataclasses.replace(
        tiny_config.data, train=f"wds:{shapes}/train", order="stream", epoch_samples=96, workers=1
    )
    config = dataclasses.replace(tiny_config, data=data)
    components, batch = dry_run(config)
    assert len(components.data.source) == 96
    assert batch.images.shape == (8, 3, 48, 48)
    train(config, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_vocabulary_cannot_be_learned_from_a_stream(tiny_config: Config, shapes: Path) -> None:
    data = dataclasses.replace(
        tiny_config.data, train=f"wds:{shapes}/train", order="stream", epoch_samples=96
    )
    tokenizer = dataclasses.replace(tiny_config.tokenizer, kind="train")
    with pytest.raises(DataError, match="not learned from the data"):
        dry_run(dataclasses.replace(tiny_config, data=data, tokenizer=tokenizer))
