"""Batches: pure functions of the step, whoever computes them; bad samples replaced and named."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from clip_eval.data import DataError, open_source
from clip_models import Preprocess
from clip_models.config import PreprocessConfig
from clip_tokenizer import Tokenizer
from clip_train import Config
from clip_train.config.data import VariableSizesConfig
from clip_train.config.model import TokenizerConfig
from clip_train.data.batches import Batch, BatchReader
from clip_train.engine.data_components import make_plan
from PIL import Image


def reader(config: Config, rank: int = 0, world: int = 1, **data: object) -> BatchReader:
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **data))
    source = open_source(config.data.train, templates=config.data.templates or None)
    return BatchReader(
        source,
        make_plan(config, source, image_size=48),
        config,
        Preprocess(PreprocessConfig(size=48)),
        Tokenizer.from_bytes(context_length=48),
        rank=rank,
        world_size=world,
    )


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.step == other.step
    assert one.keys == other.keys
    assert one.faults == other.faults
    for name in ("images", "tokens", "caption_of", "uniform", "positions"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_workers_and_starting_point_change_nothing(tiny_config: Config) -> None:
    alone = list(reader(tiny_config).batches(0, 14, pin_memory=False))
    assert [batch.step for batch in alone] == list(range(14))
    for workers in (1, 3):
        together = reader(tiny_config, workers=workers).batches(5, 14, pin_memory=False)
        for one, other in zip(alone[5:], together, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_the_ranks_together_are_the_batch(tiny_config: Config, world: int) -> None:
    whole = reader(tiny_config)[5]
    parts = [reader(tiny_config, rank, world)[5] for rank in range(world)]
    assert sorted(len(part.keys) for part in parts)[0] == 8 // world
    assert [key for part in parts for key in part.keys] == whole.keys
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.uniform for part in parts]), whole.uniform)
    assert torch.equal(torch.cat([part.positions for part in parts]), whole.positions)
    assert {part.epoch for part in parts} == {whole.epoch} == {0}
    texts = [part.tokens[row].tolist() for part in parts for row in part.caption_of]
    assert texts == [whole.tokens[row].tolist() for row in whole.caption_of]


def test_cached_images_are_the_same_images(tiny_config: Config) -> None:
    fresh, cached = reader(tiny_config), reader(tiny_config, cache_images=True)
    for step in (0, 11):
        assert_equal(fresh[step], cached[step])


def test_random_crops_are_keyed_by_position(tiny_config: Config) -> None:
    augment = dataclasses.replace(
        tiny_config.augment, kind="random_resized_crop", scale=(0.3, 0.6), flip=False
    )
    config = dataclasses.replace(tiny_config, augment=augment)
    batch = reader(config)[3]
    assert batch.images.shape == (8, 3, 48, 48)
    assert_equal(batch, reader(config)[3])
    assert not torch.equal(batch.images, reader(tiny_config)[3].images)


def test_a_batch_holds_its_own_captions(tiny_config: Config) -> None:
    config = dataclasses.replace(
        tiny_config, loss=dataclasses.replace(tiny_config.loss, kind="infonce")
    )
    made = reader(config)
    batch = made[0]
    planned = [made.source.read(int(i)) for i in made.plan.batch(0).indices]
    assert batch.keys == [sample.key for sample in planned]
    texts = [made.tokenizer.decode(row) for row in batch.tokens.tolist()]
    for text, sample in zip(texts, planned, strict=True):
        first_words = re.findall(r"\w+", sample.captions[0].lower())[:5]
        assert re.findall(r"\w+", text)[:5] == first_words


def folder(tmp_path: Path) -> Path:
    """Two classes of twelve images each; the grey value names the image."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for index in range(12):
            value = 20 * index + label
            Image.new("RGB", (48, 48), (value,) * 3).save(tmp_path / name / f"{index:02}.png")
    return tmp_path


def test_template_choice(tiny_config: Config, tmp_path: Path) -> None:
    data = {
        "train": f"imagefolder:{folder(tmp_path)}",
        "templates": ("a {c}.", "the {c}!", "one {c}?"),
    }
    per_batch = reader(tiny_config, template_choice="batch", **data)
    seen = {tuple(map(tuple, per_batch[step].tokens.tolist())) for step in range(12)}
    assert all(len(per_batch[step].tokens) <= 2 for step in range(12))
    assert len({tokens[0][2:5] + tokens[0][:2] for tokens in seen}) > 1
    per_sample = reader(tiny_config, template_choice="sample", **data)
    assert max(len(per_sample[step].tokens) for step in range(12)) > 2
    for step in range(12):
        batch = per_sample[step]
        named = ["cat" in per_sample.tokenizer.decode(row) for row in batch.tokens.tolist()]
        for key, row in zip(batch.keys, batch.caption_of.tolist(), strict=True):
            assert named[row] == ("cat" in key)


@pytest.mark.parametrize("cache", [False, True])
def test_bad_images_are_replaced_counted_and_named(
    tiny_config: Config, tmp_path: Path, cache: bool
) -> None:
    root = folder(tmp_path)
    (root / "cat" / "03.png").write_bytes(b"")
    broken = root / "dog" / "07.png"
    broken.write_bytes(broken.read_bytes()[:40])
    made = reader(
        tiny_config, train=f"imagefolder:{root}", templates=("a {c}",), cache_images=cache
    )
    batches = [made[step] for step in range(3)]  # one epoch
    faults = [fault for batch in batches for fault in batch.faults]
    assert {"03.png", "07.png"} == {
        name for name in ("03.png", "07.png") if any(name in fault.detail for fault in faults)
    }
    assert {fault.reason for fault in faults} <= {"empty", "truncated", "broken", "not-an-image"}
    keys = [key for batch in batches for key in batch.keys]
    assert len(keys) == 24
    assert not any("03.png" in key and "cat" in key for key in keys)
    assert_equal(made[1], made[1])


def test_when_nothing_can_be_read_it_says_so(tiny_config: Config, tmp_path: Path) -> None:
    root = folder(tmp_path)
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    made = reader(tiny_config, train=f"imagefolder:{root}", templates=("a {c}",))
    with pytest.raises(DataError, match=r"100 samples in a row could not be used, such as .*\.png"):
        made[0]


@pytest.mark.parametrize("cache_images", [False, True])
def test_batches_of_many_sizes_are_the_data_set_once_over_ranks(
    tiny_config: Config, cache_images: bool
) -> None:
    sizes = VariableSizesConfig(num_sizes=3, min_size=16, max_size=48, divisor=16, batch_multiple=2)
    one, two = (
        reader(tiny_config, rank, 2, variable_sizes=sizes, cache_images=cache_images)
        for rank in range(2)
    )
    keys, sides = Counter[str](), set()
    for step in range(one.plan.steps_in_epochs(1)):
        parts = one[step], two[step]
        assert parts[0].images.shape == parts[1].images.shape
        count, _, height, width = parts[0].images.shape
        assert height == width
        assert 2 * count * height**2 <= 8 * 48**2
        sides.add(height)
        keys.update(parts[0].keys + parts[1].keys)
    assert len(sides) > 1
    assert sides <= {16, 32, 48}
    assert len(keys) == len(one.source)
    assert sum(keys.values()) == len(one.source) + one.plan.schedule.wrapped_in(0)


@pytest.mark.parametrize("reduction", ["random", "shuffle", "block"])
def test_long_captions_are_reduced_as_the_config_says(tiny_config: Config, reduction: str) -> None:
    config = dataclasses.replace(tiny_config, tokenizer=TokenizerConfig(reduction=reduction))
    alone, cut = reader(config), reader(tiny_config)
    batch = alone[3]
    assert torch.equal(batch.tokens, reader(config)[3].tokens)
    parts = [reader(config, rank, 2)[3] for rank in range(2)]
    of_images = torch.cat([part.tokens[part.caption_of] for part in parts])
    assert torch.equal(of_images, batch.tokens[batch.caption_of])
    long = cut[3].tokens[:, -1] != 0  # rows that were truncated
    assert long.any()
    assert (batch.tokens[long] != cut[3].tokens[long]).any(dim=1).all()
    assert torch.equal(batch.tokens[~long], cut[3].tokens[~long])
    first, again = (alone._tokenize(step, ["a" * 30 + "b" * 30 + "c" * 30]) for step in (0, 1))
    assert not torch.equal(first, again)


def test_a_batch_may_be_sorted_by_caption_length(tiny_config: Config) -> None:
    plain, ordered = reader(tiny_config)[4], reader(tiny_config, sort_by_length=True)[4]
    lengths = (ordered.tokens != 0).sum(dim=1).tolist()
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    assert ordered.keys != plain.keys
    assert sorted(ordered.keys) == sorted(plain.keys)
    for row, key in enumerate(ordered.keys):
        before = plain.keys.index(key)
        assert torch.equal(ordered.images[row], plain.images[before])
        assert torch.equal(ordered.uniform[row], plain.uniform[before])
        assert ordered.positions[row] == plain.positions[before]
        ours = ordered.tokens[ordered.caption_of[row]]
        assert torch.equal(ours, plain.tokens[plain.caption_of[before]])


def test_replacements_are_the_same_for_every_rank(tiny_config: Config, tmp_path: Path) -> None:
    root = folder(tmp_path)
    for name in ("cat/01.png", "dog/04.png", "dog/05.png", "cat/09.png"):
        (root / name).write_bytes(b"")
    data = {"train": f"imagefolder:{root}", "templates": ("a {c}",)}
    for step in range(6):
        whole = reader(tiny_config, **data)[step]
        parts = [reader(tiny_config, rank, 4, **data)[step] for rank in range(4)]
        assert [key for part in parts for key in part.keys] == whole.keys
        assert [fault for part in parts for fault in part.faults] == whole.faults


def test_how_much_is_read_ahead_changes_nothing(tiny_config: Config) -> None:
    few, many = (reader(tiny_config, workers=1, prefetch=count) for count in (1, 5))
    for one, other in zip(
        few.batches(0, 6, pin_memory=False), many.batches(0, 6, pin_memory=False), strict=True
    ):
        assert_equal(one, other)
