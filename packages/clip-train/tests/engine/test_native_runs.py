"""Runs with a token budget on images of mixed shape: their batches, and the same bits again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import ConfigError, NativeImages, Preprocess, load_model
from clip_models.config import from_dict
from clip_models.files import load_tensors
from clip_train import Config, Interrupted, resume, train
from clip_train.data.batches import Batch
from clip_train.data.decoding import NativeSize
from clip_train.engine.data_components import DataComponents, build_data_components
from clip_train.engine.trainer import Trainer
from PIL import Image

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*training samples could not be read"),
]
SHAPES = [(48, 48), (90, 30), (30, 64), (100, 50), (33, 80), (16, 16)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of many shapes in two classes, one of them a large JPEG, one broken."""
    directory = tmp_path_factory.mktemp("mixed")
    numbers = np.random.default_rng(0)
    for index in range(40):
        width, height = SHAPES[index % len(SHAPES)]
        small = numbers.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
        place = directory / ("cat" if index % 2 else "dog")
        place.mkdir(exist_ok=True)
        image.save(place / f"{index:02}.png")
    image.resize((1200, 400)).save(directory / "cat" / "large.jpg")
    (directory / "dog" / "broken.png").write_bytes(b"\x89PNG nothing")
    return directory


def make_config(mixed: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "data": {
            "train": f"imagefolder:{mixed}",
            "templates": ["a {c}.", "the {c} in a long sentence"],
            "workers": 0,
            "token_budget": 220,
            "sequence_lengths": [9, 25, 36],
            "max_faults": 1.0,
        },
        "augment": {"kind": "random_resized_crop", "scale": [0.5, 1.0], "flip": True},
        "model": {
            "name": "Compact-48",
            "vision": {
                "kind": "vit",
                "native": True,
                "image_size": 48,
                "patch_size": 8,
                "width": 16,
                "num_layers": 2,
                "num_heads": 2,
            },
            "text": {"width": 16, "num_layers": 1, "num_heads": 2},
        },
        "tokenizer": {"kind": "bytes"},
        "train": {"steps": 14, "batch_size": 8},
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "checkpoint": {"every_steps": 5},
        "log": {"every_steps": 2},
    }
    for path, value in changes.items():
        section, key = path.split("__", 1)
        values[section] = {**values[section], key: value}
    return from_dict(Config, values)


def components(config: Config) -> DataComponents:
    return build_data_components(config)


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.keys == other.keys
    assert isinstance(one.images, NativeImages)
    assert isinstance(other.images, NativeImages)
    assert one.images.grids == other.images.grids
    for (patches, _), (again, _) in zip(one.images, other.images, strict=True):
        assert torch.equal(patches, again)
    assert torch.equal(one.positions, other.positions)


def join(parts: list[Batch]) -> Batch:
    images = [part.images for part in parts]
    rows = [image for part in images if isinstance(part, NativeImages) for image in part]
    return parts[0]._replace(
        images=NativeImages.stack(rows),
        keys=[key for part in parts for key in part.keys],
        positions=torch.cat([part.positions for part in parts]),
    )


def test_batches_are_functions_of_the_step(mixed: Path) -> None:
    made = components(make_config(mixed))
    reader = made.make_reader(rank=0, world_size=1)
    whole = list(reader.batches(0, 9, pin_memory=False))
    assert len({batch.epoch for batch in whole}) > 1
    two = dataclasses.replace(made.config.data, workers=2)
    others = components(dataclasses.replace(made.config, data=two)).make_reader(
        rank=0, world_size=1
    )
    for one, other in zip(whole[4:], others.batches(4, 9, pin_memory=False), strict=True):
        assert_equal(one, other)
    for world in (2, 3):
        parts = [made.make_reader(rank=rank, world_size=world)[5] for rank in range(world)]
        assert_equal(join(parts), whole[5])


def test_batches_hold_what_the_plan_says(mixed: Path) -> None:
    made = components(make_config(mixed, data__caption_weight=0.0))
    reader = made.make_reader(rank=0, world_size=1)
    for step in range(9):
        planned, batch = made.plan.batch(step), reader[step]
        assert isinstance(batch.images, NativeImages)
        assert planned.costs is not None
        assert planned.costs.sum() <= 220_000
        broken = [fault.reason for fault in batch.faults]
        if not broken:  # the class token is one more
            assert [1000 * (count + 1) for count in batch.images.counts] == planned.costs.tolist()
        assert max(batch.images.counts) <= (planned.max_tokens or 0)


def test_without_a_crop_pixels_are_those_of_evaluation(mixed: Path) -> None:
    config = make_config(mixed, data__decode="exact", augment__kind="none", augment__flip=False)
    made = components(config)
    reader, step = made.make_reader(rank=0, world_size=1), 3
    batch, planned = reader[step], made.plan.batch(step)
    assert isinstance(batch.images, NativeImages)
    base = dataclasses.replace(made.preprocess.config, max_tokens=planned.max_tokens)
    found = {key: patches for key, (patches, _) in zip(batch.keys, batch.images, strict=True)}
    for key, patches in found.items():
        pixels = Preprocess(base)(Image.open(mixed / key).convert("RGB"))
        assert torch.equal(NativeImages.from_images([pixels], 8).patches[0], patches)
    flipped = components(
        make_config(mixed, data__decode="exact", augment__kind="none", augment__flip=True)
    ).make_reader(rank=0, world_size=1)[step]
    assert isinstance(flipped.images, NativeImages)
    turned = 0
    for (patches, (rows, columns)), (again, _) in zip(batch.images, flipped.images, strict=True):
        image = again.view(rows, columns, 8, 8, 3).permute(0, 2, 1, 3, 4).reshape(rows * 8, -1, 3)
        mirrored = NativeImages.from_images([image.flip(1).permute(2, 0, 1)], 8).patches[0]
        assert torch.equal(again, patches) or torch.equal(mirrored, patches)
        turned += torch.equal(mirrored, patches)
    assert 0 < turned < len(batch.keys)


def test_large_jpegs_are_decoded_at_a_fraction(mixed: Path) -> None:
    made = components(make_config(mixed, augment__kind="none", augment__flip=False))
    exact = components(
        make_config(mixed, augment__kind="none", augment__flip=False, data__decode="exact")
    )
    index = next(n for n in range(len(made.source)) if "large" in made.source.read(n).key)
    uniform = [0.5] * 40
    _, fast = made.make_reader(rank=0, world_size=1).pixels.read(index, uniform, NativeSize(36))
    _, slow = exact.make_reader(rank=0, world_size=1).pixels.read(index, uniform, NativeSize(36))
    assert fast.shape == slow.shape == (24, 72, 3)
    assert np.abs(fast.astype(int) - slow).mean() < 4


class Stopping(Trainer):
    """Is interrupted after step 7, in the middle of an epoch."""

    def step(self, batch: Batch) -> None:
        super().step(batch)
        if self.steps_done == 7:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_bit_for_bit(mixed: Path, tmp_path: Path) -> None:
    config = make_config(mixed, train__grad_accum_steps=2)
    train(config, tmp_path / "whole", progress=False)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(config, tmp_path / "stopped", progress=False, make_trainer=Stopping)
    resume(tmp_path / "stopped", progress=False)
    one, other = (
        load_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    model, preprocess = load_model(tmp_path / "whole")
    assert model.config.vision.native
    assert preprocess.resize_mode == "native"
    assert (preprocess.patch_size, preprocess.max_tokens) == (8, 36)


def test_a_run_is_evaluated_on_images_of_their_own_shape(mixed: Path, tmp_path: Path) -> None:
    config = make_config(mixed, data__val=f"imagefolder:{mixed}", train__steps=2)
    train(config, tmp_path / "run", progress=False)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"n": 41' in rows or '"n":41' in rows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"augment__kind": "shift"}, "goes with augment.kind 'none' and 'random_resized_crop'"),
        ({"train__compile": "inductor"}, "batches of ever new shapes"),
        ({"train__overfit_batch": 4}, "leave one of them out"),
        ({"data__token_budget": 20}, "must hold a sample"),
        ({"model__vision": {}}, "model.vision.native, which only vision transformers have"),
        ({"data__token_budget": None, "data__sequence_lengths": ()}, "got native True"),
    ],
)
def test_what_does_not_go_together_is_refused(
    mixed: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        components(make_config(mixed, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__sequence_lengths": [0]}, "must be different positive numbers"),
        ({"data__sequence_lengths": [9, 9]}, "must be different positive numbers"),
        ({"data__sequence_shares": [1.0]}, "a positive number for each of 3"),
        ({"data__cache_images": True}, "goes neither with cache_images"),
        ({"data__caption_weight": -1.0}, "caption_weight"),
    ],
)
def test_values_are_checked(mixed: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(mixed, **changes)


def test_more_processes_than_samples_of_a_step_are_refused(mixed: Path) -> None:
    made = components(make_config(mixed))
    with pytest.raises(ConfigError, match="fewer than the 9 processes"):
        made.make_reader(rank=0, world_size=9)
