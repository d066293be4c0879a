"""Samples that are kept for validation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from clip_eval.data import Sample, Source, open_source
from clip_models import ConfigError
from clip_train.config.data import DataConfig
from clip_train.data.digest import data_digest
from clip_train.data.holdout import SelectedSource, split_holdout
from clip_train.data.mixing import MixedSource, make_order
from clip_train.plan.sample_order import MixedOrder
from PIL import Image


class Numbers(Source):
    """Samples whose key is their number, in three shards."""

    name = "numbers"
    shard_sizes: tuple[int, ...] | None = (400, 100, 500)
    classnames = ("even", "odd")

    def __len__(self) -> int:
        return 1000

    def read(self, index: int) -> Sample:
        return Sample(str(index), b"", (f"number {index}",), index % 2)


def keys(source: Source) -> list[int]:
    return [int(source.read(index).key) for index in range(len(source))]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_every_sample_is_on_one_side(share: float) -> None:
    train, held = split_holdout(Numbers(), share)
    assert sorted(keys(train) + keys(held)) == list(range(1000))
    assert len(held) / 1000 == pytest.approx(share, abs=4 * np.sqrt(share / 1000))
    assert keys(train) == sorted(keys(train))  # in the order of the shards
    assert (train.name, held.name) == ("numbers", "holdout")
    assert train.classnames == held.classnames == ("even", "odd")
    for part in (train, held):
        edges = np.cumsum([0, 400, 100, 500])
        assert part.shard_sizes == tuple(np.histogram(keys(part), edges)[0])
        assert [part.label(n) for n in range(5)] == [key % 2 for key in keys(part)[:5]]
        assert part.place(3) == Numbers().place(keys(part)[3])


def test_a_larger_share_holds_the_smaller_one_and_nothing_is_drawn_anew() -> None:
    small, large = (set(keys(split_holdout(Numbers(), share)[1])) for share in (0.1, 0.3))
    assert small < large
    assert small == set(keys(split_holdout(Numbers(), 0.1)[1]))


def table(path: Path) -> Source:
    """600 rows of 60 images."""
    path.mkdir()
    lines = [f"image{n % 60}.jpg\tcaption {n}" for n in range(600)]
    for n in range(60):
        Image.new("RGB", (4, 4), (n, 0, 0)).save(path / f"image{n}.jpg")
    (path / "table.tsv").write_text("\n".join(["filepath\ttitle", *lines]))
    return open_source(f"csv:{path / 'table.tsv'}")


def images(source: Source) -> set[str]:
    return {source.read(index).key for index in range(len(source))}


def test_rows_of_one_image_stay_together(tmp_path: Path) -> None:
    train, held = split_holdout(table(tmp_path / "a"), 0.3)
    assert images(train)
    assert images(held)
    assert not images(train) & images(held)


def test_each_of_several_sources_is_split_and_the_mixture_kept(tmp_path: Path) -> None:
    source = MixedSource([table(tmp_path / "a"), Numbers()])
    train, held = split_holdout(source, 0.3)
    assert len(train) + len(held) == 1600
    assert held.name == "holdout"
    assert isinstance(train, MixedSource)
    assert [len(part) for part in train.parts] == [
        len(split_holdout(part, 0.3)[0]) for part in source.parts
    ]
    rows = range(len(train.parts[0]))
    assert not {train.read(n).key.rpartition("/")[2] for n in rows} & {
        held.read(n).key.rpartition("/")[2] for n in range(len(held))
    }
    order = make_order(train, (3.0, 1.0), seed=0, streams=4, buffer=64)
    assert isinstance(order, MixedOrder)
    first = order.indices(0, np.arange(1000)) < len(train.parts[0])
    assert first.mean() == pytest.approx(0.75, abs=0.05)


def test_a_changed_row_of_what_is_left_is_other_data(tmp_path: Path) -> None:
    source = table(tmp_path / "a")
    before, _ = split_holdout(source, 0.3)
    lines = (tmp_path / "a" / "table.tsv").read_text().splitlines()
    assert isinstance(before, SelectedSource)
    looked_at = {n * (len(before) - 1) // 63 for n in range(64)}
    row = next(int(before.indices[n]) for n in range(len(before)) if n not in looked_at)
    lines[1 + row] += " and more"
    (tmp_path / "a" / "table.tsv").write_text("\n".join(lines))
    after, _ = split_holdout(open_source(f"csv:{tmp_path / 'a' / 'table.tsv'}"), 0.3)
    assert data_digest(before) != data_digest(after)


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    for number in range(40):
        path = os.fsencode(tmp_path) + b"/class/\xff%d.png" % number
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            Image.new("RGB", (4, 4), (number, 0, 0)).save(file, "PNG")
    source = open_source(f"imagefolder:{tmp_path}")
    train, held = split_holdout(source, 0.3)
    assert len(train) + len(held) == 40
    assert data_digest(train) != data_digest(held)


@pytest.mark.parametrize(
    ("sizes", "share", "message"),
    [
        ((5,), 0.01, "0.01 of the 5 samples of numbers leaves none for validation"),
        ((5,), 0.999, "0.999 of the 5 samples of numbers leaves none to train on"),
        ((400, 2), 0.99, "leaves none to train on"),
    ],
)
def test_too_few_samples(sizes: tuple[int, ...], share: float, message: str) -> None:
    parts = []
    for size in sizes:
        part = Numbers()
        part.shard_sizes = None
        parts.append(SelectedSource(part, np.arange(size), "numbers"))
    with pytest.raises(ConfigError, match=message):
        split_holdout(parts[0] if len(parts) == 1 else MixedSource(parts), share)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"holdout": 1.0}, r"holdout must be in \[0, 1\)"),
        ({"holdout": -0.1}, r"holdout must be in \[0, 1\)"),
        ({"holdout": 0.1, "val": "x"}, "neither with val nor"),
        ({"holdout": 0.1, "order": "stream", "epoch_samples": 5}, "nor with order 'stream'"),
    ],
)
def test_what_does_not_go_together(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**values)
