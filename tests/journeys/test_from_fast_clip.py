"""docs/journeys/from-fast-clip.md: a training plan, and a Slurm script."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import conftest
from clip_train import load_config
from pages import Page


def write_coco(split: str, count: int) -> None:
    """COCO's JSON of captions, and its folder of images."""
    Path(split).mkdir()
    images, notes = [], []
    for number in range(count):
        image, caption = conftest.draw(number)
        image.save(f"{split}/{number:012}.jpg")
        images.append({"id": number, "file_name": f"{number:012}.jpg"})
        notes += [{"image_id": number, "caption": caption}]
    text = json.dumps({"images": images, "annotations": notes})
    Path(f"captions_{split}.json").write_text(text)


def write_shards(folder: str, count: int = 24) -> None:
    """Two tars of pictures with captions."""
    Path(folder).mkdir()
    for shard in range(2):
        with tarfile.open(f"{folder}/{shard:05}.tar", "w") as tar:
            for number in range(shard, count, 2):
                image, caption = conftest.draw(number)
                jpg = io.BytesIO()
                image.save(jpg, "JPEG")
                for suffix, data in (("jpg", jpg.getvalue()), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{number:05}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def test_a_plan_and_a_script_become_runs(photos: Callable[..., Path]) -> None:
    write_coco("train2017", 24)
    write_coco("val2017", 6)
    for file in Path("val2017").iterdir():  # --data.image-root is one folder for both
        file.rename(Path("train2017") / file.name)
    write_shards("cc3m_train")
    small = f"{conftest.TINY_RESNET} --model.vision.image_size 64"
    Page("docs/journeys/from-fast-clip.md", flags={"clip-train run": small}).run()

    plan, script = load_config("mine.toml"), load_config("cc3m.toml")
    assert (plan.train.batch_size, plan.train.epochs, plan.optim.warmup_steps) == (128, 1, 50)
    assert (script.train.batch_size, script.train.samples) == (1024, 37 * 2_723_840)
    assert script.data.train == "wds:cc3m_train/{00000..00001}.tar"
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert any("text_retrieval_recall@1" in row for row in rows)
    assert Path("cc3m/model.safetensors").is_file()
