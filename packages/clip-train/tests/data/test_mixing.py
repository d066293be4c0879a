"""Several sources as one, and the order of a source."""

from __future__ import annotations

import numpy as np
from clip_eval.data import Fault, Sample, Source
from clip_train.data.mixing import MixedSource, make_order


class Listed(Source):
    """Captions in memory."""

    classnames = ("thing",)

    def __init__(self, name: str, captions: str, faults: tuple[Fault, ...] = ()) -> None:
        self.name, self.captions, self.faults = name, captions, faults
        self.warnings = (f"{name} is small",)

    def __len__(self) -> int:
        return len(self.captions)

    def read(self, index: int) -> Sample:
        return Sample(f"{index}", b"", (self.captions[index],), 0)


def test_samples_faults_and_warnings_are_those_of_all_parts() -> None:
    fault = Fault(where="b.tar", reason="empty", detail="empty file")
    source = MixedSource([Listed("a", "xyz"), Listed("b", "uv", (fault,))])
    assert (source.name, len(source)) == ("a + b", 5)
    assert source.read(3) == Sample("b/0", b"", ("u",))
    assert source.label(3) is None
    assert source.place(4) == "b: b, sample 1"
    assert source.faults == (fault,)
    assert source.warnings == ("a is small", "b is small")
    assert source.classnames is None


def test_the_order_keeps_to_what_a_source_can_hold() -> None:
    class Small(Source):
        name = "small"
        shard_sizes = (100,) * 40
        working_set = 300

        def __len__(self) -> int:
            return 4000

        def read(self, index: int) -> Sample:
            raise NotImplementedError

    order = make_order(Small(), (), seed=0, streams=32, buffer=65536)
    found = order.indices(0, np.arange(4000))
    assert sorted(found.tolist()) == list(range(4000))
    for start in range(0, 3900, 300):
        assert len(np.unique(found[start : start + 300] // 100)) <= 6
