"""Samples that are kept for validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clip_eval.data import Sample, Source, open_source
from clip_models import ConfigError
from clip_train.config.data import DataConfig
from clip_train.data.holdout import split_holdout


class Numbers(Source):
    """Samples whose key is their number, in three shards."""

    name = "numbers"
    shard_sizes = (400, 100, 500)
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
        edges = np.cumsum([0, *Numbers.shard_sizes])
        assert part.shard_sizes == tuple(np.histogram(keys(part), edges)[0])
        assert [part.label(n) for n in range(5)] == [key % 2 for key in keys(part)[:5]]
        assert part.place(3) == Numbers().place(keys(part)[3])


def test_a_larger_share_holds_the_smaller_one_and_nothing_is_drawn_anew() -> None:
    small, large = (set(keys(split_holdout(Numbers(), share)[1])) for share in (0.1, 0.3))
    assert small < large
    assert small == set(keys(split_holdout(Numbers(), 0.1)[1]))


def test_rows_of_one_image_stay_together(tmp_path: Path) -> None:
    lines = [f"image{n % 60}.jpg\tcaption {n}" for n in range(600)]
    for n in range(60):
        (tmp_path / f"image{n}.jpg").touch()
    (tmp_path / "table.tsv").write_text("\n".join(["filepath\ttitle", *lines]))
    source = open_source(f"csv:{tmp_path / 'table.tsv'}")
    train, held = split_holdout(source, 0.3)
    images = [{train.source.paths[n] for n in part.indices} for part in (train, held)]
    assert images[0]
    assert images[1]
    assert not images[0] & images[1]


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
