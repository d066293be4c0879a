"""Data loading compared with open_clip's on one core, and the cost of indexing ten million samples.

python packages/clip-train/bench/bench_loading.py
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import torch
from clip_models import Preprocess
from clip_models.config import PreprocessConfig, from_dict
from clip_tokenizer import Tokenizer
from clip_train import Config
from clip_train.data.batches import BatchReader
from clip_train.data.sources import open_training_source
from clip_train.engine.data_components import make_plan
from open_clip_train import data as open_clip_data
from PIL import Image
from webdataset import TarWriter
from webdataset.tariterators import tarfile_samples

IMAGES, SHARDS, BATCH, REPEATS = 384, 4, 64, 3
MANY, MANY_SHARDS = 10_000_000, 1000


def write_images(root: Path) -> None:
    """Shards of 640×480 JPEGs with the texture of photographs, about 90 kB each."""
    generator = np.random.default_rng(0)
    for shard in range(SHARDS):
        with TarWriter(str(root / f"{shard:05}.tar"), encoder=False) as writer:
            for number in range(IMAGES // SHARDS):
                coarse = generator.integers(0, 255, (30, 40, 3), dtype=np.uint8)
                smooth = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
                pixels = np.asarray(smooth) + generator.normal(0, 9, (480, 640, 3))
                out = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
                text = f"a photo of {number} colored things in shard {shard}"
                key = f"{shard:05}{number:04}"
                writer.write({"__key__": key, "jpg": out.getvalue(), "txt": text.encode()})


def our_batches(root: Path, size: int, decode: str) -> Callable[[], Iterator[object]]:
    """Batches of clip-train's loader."""
    config = from_dict(
        Config,
        {
            "data": {"train": f"wds:{root}", "workers": 0, "decode": decode},
            "augment": {"kind": "random_resized_crop", "scale": [0.9, 1.0]},
            "train": {"batch_size": BATCH},
        },
    )
    source = open_training_source(config.data)
    reader = BatchReader(
        source,
        make_plan(config, source, image_size=size),
        config,
        Preprocess(PreprocessConfig(size=size)),
        Tokenizer.openai(),
    )
    return lambda: reader.batches(0, IMAGES // BATCH, pin_memory=False)


def their_batches(root: Path, size: int) -> Callable[[], Iterator[object]]:
    """Batches of open_clip's loader, with its training transform and tokenizer.

    Its copy of webdataset's grouping of files is for releases before 1.0 and fails with later
    ones; webdataset's own takes its place.
    """
    open_clip_data.tarfile_to_samples_nothrow = functools.partial(
        tarfile_samples, handler=open_clip_data.log_and_continue
    )
    args = argparse.Namespace(
        train_data=str(root / f"{{00000..{SHARDS - 1:05}}}.tar"),
        train_data_upsampling_factors=None,
        train_num_samples=IMAGES,
        dataset_resampled=False,
        seed=0,
        batch_size=BATCH,
        workers=0,
        world_size=1,
        distributed=False,
    )
    transform = open_clip.image_transform(size, is_train=True)
    info = open_clip_data.get_wds_dataset(
        args, transform, True, tokenizer=open_clip.get_tokenizer("ViT-B-32")
    )
    return lambda: iter(info.dataloader)


def images_a_second(batches: Callable[[], Iterator[object]]) -> float:
    """Images per second of one pass over all of them."""
    start, count = time.perf_counter(), 0
    for _ in batches():
        count += BATCH
    return count / (time.perf_counter() - start)


def compare(root: Path) -> None:
    """Measure all loaders in turns; print their speeds and the median ratios."""
    for size in (112, 224):
        loaders = {
            "open_clip": their_batches(root, size),
            "ours, exact": our_batches(root, size, "exact"),
            "ours, scaled": our_batches(root, size, "scaled"),
        }
        for batches in loaders.values():
            next(batches())  # imports, tables, the page cache
        speeds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(REPEATS):
            for name, batches in loaders.items():
                speeds[name].append(images_a_second(batches))
        base = np.array(speeds["open_clip"])
        for name, found in speeds.items():
            ratio = float(np.median(np.array(found) / base))
            print(f"{size} px  {name:<13} {np.median(found):6.0f} images/s  {ratio:.2f} x")


def difference(root: Path) -> None:
    """Print the difference of pixels between scaled and full decoding."""
    for size in (112, 224):
        scaled, exact = (our_batches(root, size, decode)() for decode in ("scaled", "exact"))
        pairs = zip(scaled, exact, strict=True)
        errors = [
            (one.images.float() - other.images.float()).square().mean((1, 2, 3))
            for one, other in pairs
        ]
        psnr = 10 * torch.log10(255**2 / torch.cat(errors))
        print(f"{size} px  scaled against exact: {psnr.mean():.1f} dB (least {psnr.min():.1f})")


MEASURE = """
import sys, time
from pathlib import Path
import numpy as np
from clip_eval.data import open_source
from clip_train.plan.sample_order import ShardedOrder
def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
before = megabytes()
start = time.perf_counter()
source = open_source("wds:" + sys.argv[1])
opened = time.perf_counter() - start
order = ShardedOrder(source.shard_sizes, seed=1)
indices = order.indices(3, np.arange(6_543_210, 6_543_210 + 256))
samples = [source.read(int(index)) for index in indices]
first = time.perf_counter() - start
print(f"{len(source):,} samples in {len(source.shards):,} shards: opened in {opened:.2f} s, "
      f"256 samples of the middle of epoch 3 read {first:.2f} s after the start, "
      f"{megabytes() - before:.1f} MB more memory")
"""


def ten_million(root: Path) -> None:
    """Print startup time, memory and time to the first batch with ten million samples.

    The shards are one tar of 10,000 samples under a thousand names; the first opening of a shard
    writes its index and is timed for one of them.
    """
    with TarWriter(str(root / "one.tar"), encoder=False) as writer:
        for number in range(MANY // MANY_SHARDS):
            writer.write({"__key__": f"{number:06}", "jpg": b"x" * 100, "txt": b"a caption"})
    start = time.perf_counter()
    from clip_eval.data import open_source

    open_source(f"wds:{root / 'one.tar'}")
    print(
        f"index of one shard of {MANY // MANY_SHARDS:,} made in {time.perf_counter() - start:.2f} s"
    )
    (root / "many").mkdir()
    for number in range(MANY_SHARDS):
        for suffix in ("", ".idx"):
            os.link(root / f"one.tar{suffix}", root / "many" / f"{number:05}.tar{suffix}")
    subprocess.run([sys.executable, "-c", MEASURE, str(root / "many")], check=True)


def main() -> None:
    """Run everything in a temporary directory, on one core."""
    warnings.simplefilter("ignore")
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        write_images(root / "images")
        compare(root / "images")
        difference(root / "images")
        ten_million(root)


if __name__ == "__main__":
    main()
