"""Every kind of bad data, injected into a real run: counted exactly, and nothing hangs."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import multiprocessing
import os
import resource
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clip_eval.data import DataError, Sample, Source
from clip_models import Preprocess
from clip_models.config import PreprocessConfig
from clip_tokenizer import Tokenizer
from clip_train import Config, TrainingError, train
from clip_train.data import loading
from clip_train.data.batches import BatchReader
from clip_train.engine.data_components import make_plan
from PIL import Image
from torch.utils.data import dataloader

LIMIT_SECONDS = 300


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError(f"no end after {LIMIT_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def picture(kind: str, mode: str = "RGB", size: int = 64, **options: object) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    image.save(out, kind, **options)
    return out.getvalue()


def sixteen_bit() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(out, "PNG")
    return out.getvalue()


def animated() -> bytes:
    frames = [Image.new("P", (64, 64), color) for color in (10, 200)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    return out.getvalue()


def kinds() -> dict[str, tuple[dict[str, bytes], str]]:
    """Files of a sample, and the reason it is refused for; an empty one where it is converted."""
    jpeg, text = picture("JPEG"), b"a caption"
    return {
        "truncated": ({"jpg": jpeg[: len(jpeg) // 2], "txt": text}, "truncated"),
        "zero bytes": ({"jpg": b"", "txt": text}, "empty"),
        "no image": ({"jpg": b"hello there", "txt": text}, "not-an-image"),
        "bomb": ({"png": bomb(), "txt": text}, "too-large"),
        "no caption": ({"jpg": jpeg}, "no-caption"),
        "blank caption": ({"jpg": jpeg, "txt": b" \n "}, "no-caption"),
        "bad UTF-8": ({"jpg": jpeg, "txt": b"caf\xe9 \xff"}, "bad-utf8"),
        "bad JSON": ({"jpg": jpeg, "json": b'{"caption": '}, "bad-json"),
        "only text": ({"txt": text}, "no-image"),
        "CMYK": ({"jpg": picture("JPEG", "CMYK"), "txt": text}, ""),
        "16 bits": ({"png": sixteen_bit(), "txt": text}, ""),
        "palette": ({"png": picture("PNG", "P"), "txt": text}, ""),
        "alpha": ({"png": picture("PNG", "RGBA"), "txt": text}, ""),
        "grey": ({"jpg": picture("JPEG", "L"), "txt": text}, ""),
        "animated": ({"gif": animated(), "txt": text}, ""),
    }


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, files in enumerate(samples):
            for extension, data in files.items():
                info = tarfile.TarInfo(f"{path.stem}-{number:03}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Counter[str], int]:
    """Shards with every kind of fault, the number of each reason, and of samples."""
    root = tmp_path_factory.mktemp("damaged")
    good = {"jpg": picture("JPEG"), "txt": b"a good one"}
    expected = Counter({"damaged-tar": 2, "empty": 1})
    count, every_kind = 0, kinds().values()
    for shard in range(3):
        samples = []
        for files, reason in every_kind:
            samples += [files, good]
            expected[reason] += bool(reason)
        write_tar(root / f"{shard}.tar", samples)
        count += len(samples)
    for shard in (3, 4):
        write_tar(root / f"{shard}.tar", [good] * 12)
        with tarfile.open(root / f"{shard}.tar") as tar:
            cut = tar.getmembers()[20].offset_data + 20
        content = (root / f"{shard}.tar").read_bytes()
        (root / f"{shard}.tar").write_bytes(content[:cut])
        count += 10
    (root / "5.tar").write_bytes(b"")
    del expected[""]
    return f"wds:{root}", expected, count


def config_for(config: Config, spec: str, count: int, **data: object) -> Config:
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, **{"train": spec, "val": "", "shuffle_buffer": 32} | data
        ),
        train=dataclasses.replace(config.train, steps=count),
    )


def counted(run: Path) -> Counter[str]:
    total: Counter[str] = Counter()
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "fault":
            total.update(row["counts"])
    return total


@pytest.mark.filterwarnings("ignore:.*(whole samples|before it are kept|empty file|could not be)")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_numbers_in_the_metrics_are_those_injected(
    tiny_config: Config,
    damaged: tuple[str, Counter[str], int],
    tmp_path: Path,
    workers: int,
) -> None:
    spec, expected, count = damaged
    batch = 10
    assert count % batch == 0  # no remainder: an epoch sees all
    config = config_for(tiny_config, spec, count // batch, workers=workers)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch))
    train(config, tmp_path / "run", progress=False)
    assert counted(tmp_path / "run") == expected
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:.*(whole samples|before it are kept|empty file|could not be)")
def test_a_limit_stops_the_run_and_says_so(
    tiny_config: Config, damaged: tuple[str, Counter[str], int], tmp_path: Path
) -> None:
    spec, _, count = damaged
    config = config_for(tiny_config, spec, count // 8, workers=1, max_faults=3)
    with pytest.raises(TrainingError, match=r"more than data\.max_faults = 3"):
        train(config, tmp_path / "run", progress=False)
    assert counted(tmp_path / "run").total() > 3
    steps = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert steps == ["step-0000001"]  # what was learned is kept


class Odd(Source):
    """A source of grey squares that does something else at one of them."""

    name = "odd"

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 40

    def place(self, index: int) -> str:
        if index == 7 and self.what in ("stop", "be killed"):  # between two samples
            number = signal.SIGSTOP if self.what == "stop" else signal.SIGKILL
            os.kill(os.getpid(), number)
        return f"000012.tar, sample {index}"

    def read(self, index: int) -> Sample:
        if index == 7 and self.what == "stall":
            time.sleep(100)
        if index == 7 and self.what == "fail":
            raise RuntimeError("a mistake in the code")
        if index == 7 and self.what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Sample(str(index), Image.new("RGB", (48, 48)), ("grey",))


def make_reader(config: Config, what: str, **data: object) -> BatchReader:
    config = config_for(config, "odd", 5, **{"workers": 2, **data})
    source = Odd(what)
    plan = make_plan(config, source, image_size=48)
    tokenizer = Tokenizer.from_bytes(context_length=16)
    return BatchReader(source, plan, config, Preprocess(PreprocessConfig(size=48)), tokenizer)


def batches(config: Config, what: str, **data: object) -> list[object]:
    return list(make_reader(config, what, **data).batches(0, 5, pin_memory=False))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_shard_that_stalls_is_named_and_in_the_end_stops_the_run(tiny_config: Config) -> None:
    where = r"worker \d has been reading 000012\.tar, sample 7 for \d+ s"
    with (
        pytest.warns(UserWarning, match=rf"no batch for 0\.4 s: .*{where}"),
        pytest.raises(DataError, match=rf"the data has stalled: .*{where}"),
    ):
        batches(tiny_config, "stall", stall_seconds=0.4)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_worker_that_dies_is_explained(tiny_config: Config) -> None:
    with pytest.raises(DataError, match=r"a data worker died .*000012\.tar, sample 7"):
        batches(tiny_config, "die")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_an_error_in_a_worker_is_no_death(tiny_config: Config) -> None:
    with pytest.raises(RuntimeError, match="a mistake in the code"):
        batches(tiny_config, "fail")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_what_does_neither_is_read(tiny_config: Config) -> None:
    assert len(batches(tiny_config, "nothing", stall_seconds=5.0)) == 5


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_worker_that_is_stopped_between_samples_ends_the_run(tiny_config: Config) -> None:
    with (
        pytest.warns(UserWarning, match=r"no batch for 0\.2 s: .*between two samples"),
        pytest.raises(DataError, match=r"stalled: .*\(process \d+\) has not moved for 1 s"),
    ):
        batches(tiny_config, "stop", stall_seconds=0.2)
    assert multiprocessing.active_children() == []  # killed, as it would answer nothing else


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_between_samples_ends_the_run(
    tiny_config: Config, workers: int
) -> None:
    before = time.monotonic()
    with pytest.raises(DataError, match=r"a data worker died .*killed by signal.*lower data\.work"):
        batches(tiny_config, "be killed", workers=workers)
    assert time.monotonic() - before < 20
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_death_is_raised_where_batches_are_awaited_and_nowhere_else(tiny_config: Config) -> None:
    reader = make_reader(tiny_config, "nothing")
    found = reader.batches(0, 5, pin_memory=False)
    next(found)
    handler = signal.getsignal(signal.SIGCHLD)
    os.kill(reader.watchdog.processes()[0], signal.SIGKILL)
    time.sleep(0.5)  # a step is computed meanwhile
    assert signal.getsignal(signal.SIGCHLD) is handler
    with pytest.raises(DataError, match=r"process \d+ was killed by signal 9"):
        next(found)
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGCHLD) is not handler


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_leave_signals_to_the_run_and_end_with_it(tiny_config: Config) -> None:
    reader = make_reader(tiny_config, "nothing")
    found = reader.batches(0, 5, pin_memory=False)
    next(found)
    for process in reader.watchdog.processes():
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process, number)
    assert len(list(found)) == 4
    found = reader.batches(0, 5, pin_memory=False)
    next(found)
    found.close()
    assert multiprocessing.active_children() == []


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_worker_that_is_slow_to_begin_is_ended_too(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    reader = make_reader(tiny_config, "nothing")
    monkeypatch.setattr(reader.watchdog, "begin_worker", lambda worker: time.sleep(600))
    # torch ends it too, after a while, except where it has no descriptors to do so
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "__del__", lambda _: None)
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2)  # while the first batch is awaited
        with pytest.raises(KeyboardInterrupt):
            next(reader.batches(0, 5, pin_memory=False))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert multiprocessing.active_children() == []


# torch cannot take apart without descriptors a loader that it could not finish
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("free", [4, 7, 10, 14])
def test_too_few_file_descriptors_are_said(
    tiny_config: Config, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches or one line, and never a wait: however many descriptors are left."""
    monkeypatch.setattr(loading, "SMALL", 0)  # so that each tensor needs one
    reader = make_reader(tiny_config, "nothing")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    importlib.import_module("tracemalloc")  # what pytest would import without descriptors
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, hard))
    try:
        assert len(list(reader.batches(0, 5, pin_memory=False))) == 5
    except OSError as error:
        assert "oo many open files" in str(error)  # noqa: PT017
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert multiprocessing.active_children() == []
