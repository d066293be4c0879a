"""docs/journeys/from-clipa.md: CLIPA's two phases, from TFRecords."""

from __future__ import annotations

from pathlib import Path

import conftest
from clip_models.files import load_config as load_model_config
from clip_train import load_config
from pages import Page
from tfrecord.writer import TFRecordWriter


def write_records(folder: str, count: int = 24) -> None:
    """Pictures and captions as img2dataset writes them."""
    Path(folder).mkdir()
    writer = TFRecordWriter(f"{folder}/00000.tfrecord")
    for number in range(count):
        image, caption = conftest.draw(number)
        image.save("picture.jpg")
        jpg = Path("picture.jpg").read_bytes()
        values = {"key": str(number).encode(), "jpg": jpg, "caption": caption.encode()}
        writer.write({name: (value, "byte") for name, value in values.items()})
    writer.close()


def test_published_scripts_become_two_phases() -> None:
    write_records("laion-400m")
    Page("docs/journeys/from-clipa.md", flags={"clip-train run": conftest.TINY_VIT}).run()

    first, second = load_config("phase-1.toml"), load_config("phase-2.toml")
    expected = load_config("clipa-b16-i50-t16"), load_config("clipa-b16-i50-t16-finetune")
    for ours, preset in zip((first, second), expected, strict=True):
        assert ours.train.batch_size == preset.train.batch_size
        assert (ours.optim.lr, ours.optim.betas) == (preset.optim.lr, preset.optim.betas)
        assert (ours.augment, ours.model.name) == (preset.augment, preset.model.name)
        assert ours.data.train == "tfrecord:laion-400m"
    assert (second.train.samples, second.model.pretrained) == (131_072_000, "phase-1")
    sizes = [load_model_config(run)[0].vision.image_size for run in ("phase-1", "phase-2")]
    assert sizes == [112, 224]
